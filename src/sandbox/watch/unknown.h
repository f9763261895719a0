// SPDX-License-Identifier: Apache-2.0
// What is on this machine and in no row: sandboxes, snapshots, layers, shims that are alive. A
// database that is missing or of another moment makes all of it look so; it is kept, and what its
// headers name stays.
#pragma once
#include "sandbox/table/table.h"

// At the start, after the rows are loaded and before any layer is removed. Leftovers of operations
// are known: the journal, or the table of layers, has them.
// Tells of it in one event. host.lock need not be held: nobody else is there yet.
int unknown_find(struct host *h, struct err *e);
// Before the slots are made: those of shims that live are kept.
int unknown_find_shims(struct host *h, struct err *e);
void unknown_free(struct host *h);
const char *unknown_word(unsigned kind); // "snapshot"
// Calls f with each name in a directory; a result other than 0 ends it. One that is missing is
// empty.
typedef int (*name_fn)(struct host *h, const char *name, struct err *e);
int unknown_each_name(struct host *h, const char *path, name_fn f, struct err *e);
