// SPDX-License-Identifier: Apache-2.0
#include "control/engine/task.h"
#include <assert.h>
#include <string.h>
#include "base/log.h"
#include "base/str.h"

#define TO(outcome) (1u << OUTCOME_##outcome)

// A failure can become another one: the end that could not be written is unknown again, and a
// user's DELETE, which has the last word, gives up whatever was.
static const unsigned legal[OUTCOME_MAX] = {
	[OUTCOME_NEW] = TO(OPEN),
	[OUTCOME_OPEN] = TO(DONE) | TO(REFUSED) | TO(GIVEN_UP) | TO(UNKNOWN),
	[OUTCOME_DONE] = TO(REFUSED) | TO(GIVEN_UP) | TO(UNKNOWN),
	[OUTCOME_REFUSED] = TO(DONE) | TO(GIVEN_UP) | TO(LATER) | TO(UNKNOWN),
	[OUTCOME_GIVEN_UP] = TO(UNKNOWN),
	[OUTCOME_UNKNOWN] = TO(GIVEN_UP) | TO(LATER) | TO(REFUSED) | TO(DONE),
};

void task_set(struct task *t, enum outcome to)
{
	assert(t->outcome == to || (legal[t->outcome] & 1u << to));
	t->outcome = to;
}

void task_done(struct task *t)
{
	for (size_t i = 0; i < t->n_children; i++)
		row_unref(t->children[i].row);
	free(t->children);
	row_unref(t->row);
	operation_done(&t->op);
	*t = (struct task){0};
}

uint64_t task_number(const struct task *t, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(t->op.request, key));
}

bool task_flag(const struct task *t, const char *key)
{
	return json_is_true(json_object_get(t->op.request, key));
}

const char *task_text(const struct task *t, const char *key)
{
	const char *s = json_string_value(json_object_get(t->op.request, key));
	return s ? s : "";
}

enum on_timeout task_on_timeout(const struct task *t)
{
	return str_eq(task_text(t, "on_timeout"), "pause") ? ON_TIMEOUT_PAUSE : ON_TIMEOUT_KILL;
}

void task_change(const struct task *t, struct row_change *ret)
{
	json_t *name = json_object_get(t->op.request, "name");
	*ret = (struct row_change){.has_name = name != NULL,
		.name = json_string_value(name),
		.metadata = json_object_get(t->op.request, "metadata"),
		.on_timeout = task_on_timeout(t),
		.has_on_timeout = json_object_get(t->op.request, "on_timeout") != NULL};
	ret->has_metadata = ret->metadata != NULL;
}

bool task_may_ask(const struct engine *en, const struct task *t)
{
	return !t->adopted || en->now_ns(en->ctx) < t->op.created_ns + ENGINE_ASK_AGAIN_NS;
}

bool task_is_wanted(const struct engine *en, const struct task *t)
{
	return !t->adopted || (t->op.key[0] && task_may_ask(en, t));
}

bool task_is_no_word(struct engine *en, const struct task *t)
{
	struct host_info info = {0};
	struct host_sandbox now;
	struct err why = {0};
	bool could_be = t->e.code == ERR_UNAVAILABLE || t->e.code == ERR_TIMEOUT ||
			t->e.code == ERR_BAD_GATEWAY;
	if (!t->adopted || !could_be || t->outcome == OUTCOME_GIVEN_UP)
		return false;
	if (en->host.ops->info(en->host.host, &info, &why) < 0 || !info.volume_ok || info.draining)
		return true;
	// After a restart of the host it is still at it.
	return en->host.ops->get(en->host.host, t->op.sandbox, &now, &why) == 0 &&
	       (now.state == SANDBOX_PAUSING || now.state == SANDBOX_RESUMING);
}

int engine_get(struct engine *en, const char *id, struct host_sandbox *ret, struct err *e)
{
	*e = (struct err){0};
	return en->host.ops->get(en->host.host, id, ret, e);
}

int task_cut_short(struct task *t)
{
	task_set(t, OUTCOME_GIVEN_UP);
	return err_set(&t->e, ERR_UNAVAILABLE,
		"the server was restarted before the host had begun: ask again");
}

int task_too_old(struct task *t)
{
	task_set(t, OUTCOME_GIVEN_UP);
	return err_set(&t->e, ERR_UNAVAILABLE,
		"its outcome is not known any more: see what state the sandbox is in");
}

int task_overtaken(const char *id, struct err *e)
{
	*e = (struct err){0};
	return err_set(e, ERR_CONFLICT, "sandbox '%s' was deleted while this was under way", id);
}

void engine_sweep(struct engine *en, const char *id)
{
	char op[UUID_SIZE];
	struct err e = {0};
	en->new_uuid(en->ctx, op);
	int rc = en->host.ops->destroy(en->host.host, op, id, "killed", &e);
	if (rc < 0 && e.code != ERR_NOT_FOUND)
		log_warn("deleted while it was made, and removed later sandbox=%s: %s", id,
			err_text(&e, rc));
}

int engine_write(struct engine *en, const struct db_also *also, struct err *e)
{
	db_lock(en->db);
	int rc = db_begin(en->db, e);
	if (rc == 0)
		rc = db_run_also(en->db, also, e);
	if (rc == 0)
		rc = db_commit(en->db, e);
	else
		db_rollback(en->db);
	db_unlock(en->db);
	return rc;
}
