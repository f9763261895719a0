// SPDX-License-Identifier: Apache-2.0
// How this works. A destroy waits for nothing: not for another operation on the same sandbox that a
// thread is at, nor for an orphan. The host cancels what it is at. When the destroy has ended the
// row has, and that is the last word: the late end of the other operation finds it and gives up
// (run.c), what a late create has made is removed again, and rows.c changes no row that has ended.
#include "control/engine/destroy.h"
#include "control/engine/catchup.h"
#include "control/engine/effect.h"

// A create that is under way has not come to the host yet, or never does.
static bool is_unmade(const struct task *t)
{
	return t->row && t->row->now == ROW_CREATING;
}

int destroy_ask(struct engine *en, struct task *t)
{
	struct err why = {0};
	const struct hostagent_ops *ops = en->host.ops;
	const char *cause = task_text(t, "cause");
	uint64_t generation = task_number(t, "generation");
	int rc = generation ? ops->expire(en->host.host, t->op.id, t->op.sandbox, generation, cause,
				      &t->e)
			    : ops->destroy(en->host.host, t->op.id, t->op.sandbox, cause, &t->e);
	bool missing = rc < 0 && t->e.code == ERR_NOT_FOUND;
	if (rc < 0 && !missing)
		return rc;
	// Its last report; there may be none, which changes nothing.
	t->has_info = engine_get(en, t->op.sandbox, &t->info, &why) == 0 &&
		      t->info.state == SANDBOX_STOPPED;
	// Its end is among the events then, with the cause.
	int caught = t->has_info ? 0 : engine_catch_up(en, &why);
	if (caught < 0) {
		t->e = why;
		task_set(t, OUTCOME_UNKNOWN);
		return caught;
	}
	if (missing && (t->adopted || task_flag(t, "forget") || is_unmade(t))) {
		t->e = (struct err){0};
		return 0;
	}
	return rc;
}

int destroy_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	bool missing = t->outcome == OUTCOME_REFUSED && t->e.code == ERR_NOT_FOUND;
	struct host_sandbox last = t->info;
	if (!t->row || (!task_is_done(t) && !missing))
		return engine_write(en, also, e);
	if (task_flag(t, "forget"))
		return rows_remove(en->rows, t->row, also, e);
	if (!t->has_info)
		effect_last(en, t->row, en->now_ns(en->ctx),
			missing ? "host_lost" : task_text(t, "cause"), &last);
	int rc = rows_end(en->rows, t->row, &last, also, e);
	if (rc == 0 && task_is_done(t))
		t->row->deleted = true;
	return rc;
}
