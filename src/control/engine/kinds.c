// SPDX-License-Identifier: Apache-2.0
#include "control/engine/kinds.h"
#include "control/engine/change.h"
#include "control/engine/create.h"
#include "control/engine/destroy.h"
#include "control/engine/effect.h"
#include "control/engine/fork.h"
#include "control/engine/power.h"
#include "control/engine/snapshot.h"

static int finish_alone(
	struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	return engine_write(en, also, e);
}

static const struct kind kinds[OPERATION_KIND_MAX] = {
	[OPERATION_CREATE] = {.begin = create_begin,
		.ask = create_ask,
		.finish = create_finish,
		.looks_first = true,
		.tells = true,
		.yields = true,
		.retries = true},
	[OPERATION_PAUSE] = {.ask = pause_ask,
		.finish = effect_info_if_done,
		.tells = true,
		.waits = true,
		.yields = true},
	[OPERATION_RESUME] = {.ask = resume_ask,
		.finish = effect_info_if_done,
		.tells = true,
		.waits = true,
		.yields = true,
		.retries = true},
	[OPERATION_ROLLBACK] = {.ask = rollback_ask,
		.finish = effect_info_if_done,
		.tells = true,
		.waits = true,
		.yields = true},
	[OPERATION_FORK] = {.begin = fork_begin,
		.ask = fork_ask,
		.finish = fork_finish,
		.looks_first = true,
		.waits = true,
		.retries = true},
	[OPERATION_SNAPSHOT] = {.begin = snapshot_begin,
		.ask = snapshot_ask,
		.finish = snapshot_finish,
		.looks_first = true,
		.waits = true},
	[OPERATION_SNAPSHOT_DELETE] = {.begin = snapshot_delete_begin,
		.ask = snapshot_delete_ask,
		.finish = finish_alone},
	[OPERATION_DESTROY] = {.ask = destroy_ask, .finish = destroy_finish},
	[OPERATION_SET_TIMEOUT] = {.ask = set_timeout_ask,
		.finish = effect_info_if_done,
		.tells = true,
		.yields = true},
	[OPERATION_KEY_DELETE] = {.finish = key_delete_finish},
	[OPERATION_UPDATE] = {.begin = update_begin,
		.ask = update_ask,
		.finish = update_finish,
		.waits = true,
		.yields = true},
};

const struct kind *kind_of(const struct task *t)
{
	return &kinds[t->op.kind];
}
