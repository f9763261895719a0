// SPDX-License-Identifier: Apache-2.0
// An operation under way in this thread, and what came of it.
#pragma once
#include "control/engine/engine.h"
#include "control/state/templates.h"

enum outcome {
	OUTCOME_NEW,	  // it is not begun: nothing is durable
	OUTCOME_OPEN,	  // it is begun, and the host is asked
	OUTCOME_DONE,	  // the host has done it
	OUTCOME_REFUSED,  // the host has not, and says why in e
	OUTCOME_GIVEN_UP, // nobody wants it any more: our decision, with the reason in e
	OUTCOME_LATER,	  // done for the user; it stays open until the host has followed
	OUTCOME_UNKNOWN,  // it may have been done: it stays open as an orphan
	OUTCOME_MAX,
};

enum child_fate { CHILD_UNDECIDED, CHILD_ALIVE, CHILD_DEAD };

struct task_child {
	struct sandbox_row *row;
	struct host_sandbox info;
	enum child_fate fate;
	bool told;
	struct err e; // where it is not alive
};

struct task {
	struct operation op;
	struct sandbox_row *row; // of op.sandbox; NULL when there is none (any more)
	bool adopted;		 // an orphan's
	enum outcome outcome;
	struct err e;
	struct host_sandbox info; // the host's word on op.sandbox
	bool has_info;
	// snapshot
	struct host_snapshot snapshot;
	struct template template;
	// What is open besides, for the host to follow: the deletion of a snapshot that lost its
	// name. Its id; "": none.
	char follow_up[UUID_SIZE];
	// Written, and asked, first in the transaction of its begin; NULL: nothing. Where it fails
	// nothing is begun.
	const struct db_also *first;
	uint64_t event; // number of the event that its end is told by, 0: none
	// fork
	struct task_child *children;
	size_t n_children, n_alive;
	struct task_watch watch;
	const struct host_fork_child *asked; // while the host is at it
};

// The move must be one that task.c has in its table of what is legal.
void task_set(struct task *t, enum outcome to);
// The user is told of success.
static inline bool task_is_done(const struct task *t)
{
	return t->outcome == OUTCOME_DONE || t->outcome == OUTCOME_LATER;
}
static inline bool task_is_open(const struct task *t)
{
	return t->outcome == OUTCOME_OPEN || t->outcome == OUTCOME_LATER ||
	       t->outcome == OUTCOME_UNKNOWN;
}
void task_done(struct task *t);

// --- its request
uint64_t task_number(const struct task *t, const char *key);
bool task_flag(const struct task *t, const char *key);
const char *task_text(const struct task *t, const char *key); // "" when absent
enum on_timeout task_on_timeout(const struct task *t);
void task_change(const struct task *t, struct row_change *ret);

// --- asking the host
// Asked for the first time, or again while the host still knows the id.
bool task_may_ask(const struct engine *en, const struct task *t);
// Nobody will come for the answer of what the host has not begun, unless by the key.
bool task_is_wanted(const struct engine *en, const struct task *t);
// An orphan may have been done before: a host that cannot tell now, since its volume is gone or it
// is being drained, has said nothing about that.
bool task_is_no_word(struct engine *en, const struct task *t);
int engine_get(struct engine *en, const char *id, struct host_sandbox *ret, struct err *e);
// Both give up, with the reason, and return a negative errno.
int task_cut_short(struct task *t);
int task_too_old(struct task *t);
// A user's DELETE came in between.
int task_overtaken(const char *id, struct err *e);
// What was made for a sandbox that was deleted meanwhile goes at once; the reconciler makes up for
// a failure.
void engine_sweep(struct engine *en, const char *id);
// Writes also in a transaction of its own.
int engine_write(struct engine *en, const struct db_also *also, struct err *e);
