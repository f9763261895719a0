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

static const struct {
	int (*begin)(struct engine *en, struct task *t, const struct row_new *new, size_t n,
		const struct db_also *also, struct err *e); // NULL: it makes nothing
	int (*ask)(struct engine *en, struct task *t);	    // NULL: the host is not asked
	int (*finish)(struct engine *en, struct task *t, const struct db_also *also, struct err *e);
	struct kind_rules rules;
} kinds[OPERATION_KIND_MAX] = {
	[OPERATION_CREATE] = {.begin = create_begin,
		.ask = create_ask,
		.finish = create_finish,
		.rules.looks_first = true,
		.rules.tells = true,
		.rules.yields = true,
		.rules.retries = true},
	[OPERATION_PAUSE] = {.ask = pause_ask,
		.finish = effect_info_if_done,
		.rules.tells = true,
		.rules.waits = true,
		.rules.yields = true},
	[OPERATION_RESUME] = {.ask = resume_ask,
		.finish = effect_info_if_done,
		.rules.tells = true,
		.rules.waits = true,
		.rules.yields = true,
		.rules.retries = true},
	[OPERATION_ROLLBACK] = {.ask = rollback_ask,
		.finish = effect_info_if_done,
		.rules.tells = true,
		.rules.waits = true,
		.rules.yields = true},
	[OPERATION_FORK] = {.begin = fork_begin,
		.ask = fork_ask,
		.finish = fork_finish,
		.rules.looks_first = true,
		.rules.waits = true,
		.rules.retries = true},
	[OPERATION_SNAPSHOT] = {.begin = snapshot_begin,
		.ask = snapshot_ask,
		.finish = snapshot_finish,
		.rules.looks_first = true,
		.rules.waits = true},
	[OPERATION_SNAPSHOT_DELETE] = {.begin = snapshot_delete_begin,
		.ask = snapshot_delete_ask,
		.finish = finish_alone},
	[OPERATION_DESTROY] = {.ask = destroy_ask, .finish = destroy_finish},
	[OPERATION_SET_TIMEOUT] = {.ask = set_timeout_ask,
		.finish = effect_info_if_done,
		.rules.tells = true,
		.rules.yields = true},
	[OPERATION_KEY_DELETE] = {.finish = key_delete_finish, .rules.looks_first = true},
	[OPERATION_UPDATE] = {.begin = update_begin,
		.ask = update_ask,
		.finish = update_finish,
		.rules.waits = true,
		.rules.yields = true},
};

struct kind_rules kind_rules(const struct task *t)
{
	return kinds[t->op.kind].rules;
}

int kind_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e)
{
	return kinds[t->op.kind].begin ? kinds[t->op.kind].begin(en, t, new, n, also, e)
				       : engine_write(en, also, e);
}

int kind_ask(struct engine *en, struct task *t)
{
	return kinds[t->op.kind].ask ? kinds[t->op.kind].ask(en, t) : 0;
}

int kind_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	return kinds[t->op.kind].finish(en, t, also, e);
}
