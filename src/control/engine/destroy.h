// SPDX-License-Identifier: Apache-2.0
// Steps of a destroy. Request: {cause, forget, generation}; generation: by retention, only if it is
// paused and still at it. forget: nothing is kept of one that has ended.
#pragma once
#include "control/engine/task.h"

int destroy_ask(struct engine *en, struct task *t);
int destroy_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e);
