// SPDX-License-Identifier: Apache-2.0
// Steps of a fork. Request: {ends_at, on_timeout, children: [{id, op}]}. Each child is decided, and
// durable, as the host is done with it.
#pragma once
#include "control/engine/task.h"

int fork_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e);
// The children of an orphan.
int fork_adopt(struct engine *en, struct task *t, struct err *e);
int fork_ask(struct engine *en, struct task *t);
int fork_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e);
