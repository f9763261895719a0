// SPDX-License-Identifier: Apache-2.0
// What each kind of operation is: one entry a kind, in kinds.c.
#pragma once
#include "control/engine/task.h"

struct kind_rules {
	bool looks_first; // an orphan is looked for at the host, however old it is
	bool tells;	  // the host's answer is its word on the sandbox
	bool waits;	  // for the orphans on the same sandbox
	bool yields;	  // to a DELETE of the sandbox: its late end changes nothing
	bool retries;	  // what failed for want of room or time leaves its key free
};
struct kind_rules kind_rules(const struct task *t);

// Writes what it makes together with the operation itself (also).
int kind_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e);
// Asks the host; 0, or -errno with t->e set. May set the outcome itself.
int kind_ask(struct engine *en, struct task *t);
// Writes the effect of t->outcome together with the end (also).
int kind_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e);
