// SPDX-License-Identifier: Apache-2.0
// How this works. A create whose answer nobody heard is looked for at the host before it is asked
// for again, and its events are read: it may have been made, have ended and been forgotten since.
#include "control/engine/create.h"
#include <string.h>
#include "control/engine/catchup.h"
#include "control/engine/effect.h"
#include "base/json.h"

int create_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e)
{
	return rows_add(en->rows, new, 1, t->op.created_ns, also, &t->row, e);
}

static int call(struct engine *en, struct task *t)
{
	_cleanup_json_ json_t *env = NULL;
	struct host_create req = {.vcpus = (unsigned)task_number(t, "vcpus"),
		.memory_mb = (unsigned)task_number(t, "memory_mb"),
		.disk_mb = task_number(t, "disk_mb"),
		.ends_at_ns = task_number(t, "ends_at"),
		.on_timeout = t->row->on_timeout,
		.cold = task_flag(t, "cold"),
		.token = t->row->token};
	int rc = rows_env(en->rows, t->row->id, &env, &t->e);
	if (rc < 0)
		return rc;
	req.env = env;
	memcpy(req.op_id, t->op.id, sizeof req.op_id);
	snprintf(req.id, sizeof req.id, "%s", t->row->id);
	snprintf(req.template, sizeof req.template, "%s", t->row->template);
	snprintf(req.snapshot, sizeof req.snapshot, "%s", task_text(t, "from"));
	snprintf(req.dns, sizeof req.dns, "%s", task_text(t, "dns"));
	return en->host.ops->create(en->host.host, &req, &t->info, &t->e);
}

int create_ask(struct engine *en, struct task *t)
{
	if (!t->row)
		return err_set(&t->e, ERR_INTERNAL, "the sandbox is not in the database");
	if (!t->adopted)
		return call(en, t);
	t->info.state = SANDBOX_STOPPED;
	int rc = engine_get(en, t->row->id, &t->info, &t->e);
	if (rc == 0 && t->info.state != SANDBOX_PENDING)
		return 0;
	if (rc < 0 && t->e.code == ERR_NOT_FOUND)
		rc = engine_catch_up(en, &t->e);
	if (rc < 0) { // that says nothing about it
		task_set(t, OUTCOME_UNKNOWN);
		return rc;
	}
	const struct host_sandbox *ended = row_ended(t->row);
	if (ended) { // made, ended and forgotten: the events tell
		t->info = *ended;
		t->e = (struct err){0};
		return 0;
	}
	if (t->info.state != SANDBOX_PENDING && !task_is_wanted(en, t))
		return task_cut_short(t);
	t->e = (struct err){0};
	rc = call(en, t);
	if (rc < 0 && t->e.code == ERR_CONFLICT) // the host was restarted too, and has it
		rc = engine_get(en, t->row->id, &t->info, &t->e);
	return rc;
}

int create_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	if (t->row && !task_is_done(t))
		return rows_unmake(en->rows, t->row, also, e);
	return effect_info_if_done(en, t, also, e);
}
