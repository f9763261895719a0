// SPDX-License-Identifier: Apache-2.0
// The effects on a row that several kinds of operations have, written together with their end.
#pragma once
#include "control/engine/task.h"

// What the host said of the sandbox (info) becomes what is known of it.
int effect_info(struct engine *en, struct task *t, const struct db_also *also, struct err *e);
// The same where the operation is done, and nothing otherwise.
int effect_info_if_done(
	struct engine *en, struct task *t, const struct db_also *also, struct err *e);
// A report of the end of a row that nobody else gives.
void effect_last(struct engine *en, const struct sandbox_row *row, uint64_t stopped_ns,
	const char *cause, struct host_sandbox *ret);
