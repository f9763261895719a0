// SPDX-License-Identifier: Apache-2.0
// An operation goes through engine_begin (it and what it makes are durable), engine_ask (the host
// is told, by the operation's id), engine_finish (its effect and its end are durable, together).
// Where the host's answer was lost, or the end could not be written, it stays open as an orphan; so
// does what a server leaves that is killed. engine_adopt takes an orphan up: it is asked and
// finished as before, and the host, which knows the id, does nothing twice.
#pragma once
#include "control/engine/task.h"

// op.kind, op.sandbox, op.request and what belongs to a key are set by the caller; new is what a
// create or a fork makes, n rows. Times in requests are nanoseconds. ERR_UNAVAILABLE when an orphan
// on the same sandbox cannot be finished. -EAGAIN as rows_claim.
int engine_begin(
	struct engine *en, struct task *t, const struct row_new *new, size_t n, struct err *e);
void engine_ask(struct engine *en, struct task *t);
// t->outcome and t->e are what the user is told.
void engine_finish(struct engine *en, struct task *t);
// 1: t is an orphan's. 0: it is no orphan (any more).
int engine_adopt(struct engine *en, const char *op_id, struct task *t, struct err *e);
// Adopts, asks, finishes. 0 when it has ended now or had before; ERR_UNAVAILABLE when it is still
// open.
int engine_settle(struct engine *en, const char *op_id, struct err *e);
// Settles the orphans on it.
int engine_settle_on(struct engine *en, const char *sandbox, struct err *e);
