// SPDX-License-Identifier: Apache-2.0
#include "control/engine/change.h"
#include "base/log.h"
#include "control/engine/effect.h"
#include "control/state/render.h"

int set_timeout_ask(struct engine *en, struct task *t)
{
	int rc = en->host.ops->set_timeout(
		en->host.host, t->op.id, t->op.sandbox, task_number(t, "ends_at"), &t->e);
	return rc < 0 ? rc : engine_get(en, t->op.sandbox, &t->info, &t->e);
}

int update_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e)
{
	struct row_change c;
	task_change(t, &c);
	return t->row ? rows_claim(en->rows, t->row, &c, also, e) : engine_write(en, also, e);
}

// The host keeps on_timeout alone; what it says of the sandbox is for the answer, and may be
// missing.
int update_ask(struct engine *en, struct task *t)
{
	struct row_change c;
	struct err why = {0};
	int rc = 0;
	task_change(t, &c);
	if (c.has_on_timeout)
		rc = en->host.ops->set_on_timeout(
			en->host.host, t->op.id, t->op.sandbox, c.on_timeout, &t->e);
	if (rc == 0 && engine_get(en, t->op.sandbox, &t->info, &why) < 0 && t->row) {
		bool silent = why.code == ERR_UNAVAILABLE || why.code == ERR_TIMEOUT;
		t->info = (struct host_sandbox){.state = silent ? SANDBOX_UNREACHABLE
							 : t->row->now == ROW_PAUSED
								 ? SANDBOX_PAUSED
								 : SANDBOX_RUNNING,
			.generation = t->row->generation};
	}
	return rc;
}

int update_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	struct row_change c;
	task_change(t, &c);
	int rc = t->row && task_is_done(t) ? rows_change(en->rows, t->row, &c, also, e)
					   : engine_write(en, also, e);
	if (rc == 0 && t->row)
		rows_unclaim(en->rows, t->row);
	return rc;
}

void update_claim(struct engine *en, struct task *t)
{
	struct row_change c;
	struct err why = {0};
	task_change(t, &c);
	if (t->row && rows_claim(en->rows, t->row, &c, NULL, &why) < 0)
		log_warn("a change is not kept operation=%s: %s", t->op.id, why.text);
}

int key_delete_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	struct err why = {0};
	int rc = keys_remove(en->keys, task_text(t, "key"), &why);
	if (rc < 0 && !(t->adopted && why.code == ERR_NOT_FOUND)) {
		task_set(t, OUTCOME_REFUSED);
		t->e = why;
	}
	return engine_write(en, also, e);
}
