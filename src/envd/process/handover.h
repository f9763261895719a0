// SPDX-License-Identifier: Apache-2.0
// Processes pass from one agent program to the next, which is started by exec in the same process:
// children stay children, and descriptors stay open. In between nothing is read from pipes and
// terminals, so no output is lost but what a client was already being sent.
#pragma once
#include "envd/process/process.h"

// From now on starts are refused, streams end (PROCESS_MOVED) once their clients have what was
// read, and no pump reads. -ETIMEDOUT when that is not so by until_ns: all goes on then.
int process_table_hold(struct process_table *t, uint64_t until_ns);
// All goes on, but for the streams that have ended.
void process_table_release(struct process_table *t);
// What the next program needs, owned by the caller; NULL without memory. Descriptors are numbers in
// it. Right only while the table is held.
json_t *process_table_save(struct process_table *t);
// Descriptors of the table that must outlive the exec.
void process_table_inherit(struct process_table *t, bool on);

// Into a new table. check: nothing is taken over, the text alone is looked at; the table may be
// NULL. Processes that a client was attached to wait a few seconds for one. On an error the table
// is of no use.
int process_table_load(struct process_table *t, json_t *saved, bool check, struct err *e);
