// SPDX-License-Identifier: Apache-2.0
// Steps of a create. Request: {vcpus, memory_mb, disk_mb, ends_at, cold, from}.
#pragma once
#include "control/engine/task.h"

int create_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e);
int create_ask(struct engine *en, struct task *t);
int create_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e);
