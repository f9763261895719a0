// SPDX-License-Identifier: Apache-2.0
// The operations that are open, in memory: which of them a thread of this process is at (active),
// and which an earlier one left, or could not end (orphans).
#pragma once
#include "control/state/operations.h"

struct underway;

// Those that are open in the database are orphans.
int underway_load(struct db *db, struct underway **ret, struct err *e);
struct underway *underway_free(struct underway *u);
DEFINE_CLEANUP(struct underway *, underway_free)

// --- one operation: activate before it is in the database, ended when it has ended there or never
// came to be, orphan where it cannot be ended now.
int underway_activate(struct underway *u, const struct operation *op, struct err *e);
// The same for one that nobody is at yet.
int underway_add_orphan(struct underway *u, const struct operation *op, struct err *e);
void underway_ended(struct underway *u, const char *id);
void underway_orphan(struct underway *u, const char *id);
// Makes an orphan active: false when it is not one (any more).
bool underway_adopt(struct underway *u, const char *id);

// --- what is open
struct operation_ref {
	char id[UUID_SIZE], sandbox[64], snapshot[UUID_SIZE];
	enum operation_kind kind;
	bool active;
	char (*children)[64]; // of a fork; owned by the table, or by the copy
	size_t n_children;
};
// Copies, oldest first; free with operation_refs_free.
int underway_list(struct underway *u, struct operation_ref **ret, size_t *ret_n, struct err *e);
void operation_refs_free(struct operation_ref *list, size_t n);
// An orphan that concerns the sandbox, as subject or as child of a fork: its id in out.
bool underway_orphan_on(struct underway *u, const char *sandbox, char out[UUID_SIZE]);
// Any open one that does.
bool underway_is_on(struct underway *u, const char *sandbox);
bool underway_is_on_snapshot(struct underway *u, const char *snapshot);
// Waits up to wait_ms for the end of it: true when it is not open (any more).
bool underway_wait(struct underway *u, const char *id, int wait_ms);
// Waits likewise until no thread is at an operation of that kind on the sandbox.
bool underway_wait_idle(
	struct underway *u, const char *sandbox, enum operation_kind kind, int wait_ms);
