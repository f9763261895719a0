// SPDX-License-Identifier: Apache-2.0
// The small changes. set_timeout: {ends_at}. update: {name, metadata, on_timeout}, what is to
// change as struct row_change has it. key_delete: {key}.
#pragma once
#include "control/engine/task.h"

int set_timeout_ask(struct engine *en, struct task *t);

int update_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e);
int update_ask(struct engine *en, struct task *t);
int update_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e);
// Of an orphan: keeps others away until its end.
void update_claim(struct engine *en, struct task *t);

int key_delete_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e);
