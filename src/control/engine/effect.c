// SPDX-License-Identifier: Apache-2.0
#include "control/engine/effect.h"
#include <string.h>

int effect_info(struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	enum row_state now = t->row->now;
	switch (t->info.state) {
	case SANDBOX_STOPPED:
		return rows_end(en->rows, t->row, &t->info, also, e);
	case SANDBOX_PAUSED:
		now = ROW_PAUSED;
		break;
	case SANDBOX_RUNNING:
		now = ROW_RUNNING;
		break;
	default: // the host is at something newer
		if (now == ROW_CREATING)
			now = ROW_RUNNING;
		break;
	}
	return rows_live(en->rows, t->row, now, t->info.generation, false, also, e);
}

int effect_info_if_done(
	struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	return t->row && task_is_done(t) ? effect_info(en, t, also, e) : engine_write(en, also, e);
}

void effect_last(struct engine *en, const struct sandbox_row *row, uint64_t stopped_ns,
	const char *cause, struct host_sandbox *ret)
{
	*ret = (struct host_sandbox){.state = SANDBOX_STOPPED,
		.stopped_ns = stopped_ns,
		.on_timeout = row->on_timeout,
		.generation = row->generation,
		.created_ns = row->created_ns};
	snprintf(ret->cause, sizeof ret->cause, "%s", cause);
}
