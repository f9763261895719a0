// SPDX-License-Identifier: Apache-2.0
// Making a snapshot: {name, parent, overwrite, owner}, and op.snapshot is set. Deleting one: {name,
// snapshot}, the latter where it must still be this one.
#pragma once
#include "control/engine/task.h"

int snapshot_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e);
int snapshot_ask(struct engine *en, struct task *t);
int snapshot_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e);

int snapshot_delete_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e);
int snapshot_delete_ask(struct engine *en, struct task *t);
