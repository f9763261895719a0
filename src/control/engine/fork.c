// SPDX-License-Identifier: Apache-2.0
#include "control/engine/fork.h"
#include <string.h>
#include "base/log.h"
#include "control/engine/catchup.h"
#include "base/json.h"

static int new_children(struct task *t, size_t n, struct err *e)
{
	t->children = calloc(n + 1, sizeof *t->children);
	if (!t->children)
		return err_errno(e, ENOMEM, "fork");
	t->n_children = n;
	return 0;
}

int fork_begin(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e)
{
	_cleanup_free_ struct sandbox_row **rows = calloc(n, sizeof(struct sandbox_row *));
	int rc = rows ? new_children(t, n, e) : err_errno(e, ENOMEM, "fork");
	if (rc == 0)
		rc = rows_add(en->rows, new, n, t->op.created_ns, also, rows, e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		t->children[i].row = rows[i];
	return rc;
}

int fork_adopt(struct engine *en, struct task *t, struct err *e)
{
	json_t *list = json_object_get(t->op.request, "children"), *child;
	size_t i;
	int rc = new_children(t, json_array_size(list), e);
	json_array_foreach (list, i, child) {
		const char *id = json_string_value(json_object_get(child, "id"));
		if (rc == 0)
			t->children[i].row = rows_get(en->rows, id ? id : "");
	}
	return rc;
}

static int write_child(struct engine *en, struct task_child *c, struct err *e)
{
	if (c->info.state == SANDBOX_STOPPED)
		return rows_end(en->rows, c->row, &c->info, NULL, e);
	return rows_live(en->rows, c->row,
		c->info.state == SANDBOX_PAUSED ? ROW_PAUSED : ROW_RUNNING, c->info.generation,
		false, NULL, e);
}

static void child_is_there(struct engine *en, struct task_child *c, struct err *e)
{
	if (!c->row || write_child(en, c, e) < 0)
		return;
	c->fate = CHILD_ALIVE;
	if (!row_is_deleted(c->row))
		return;
	c->fate = CHILD_DEAD;
	task_overtaken(c->row->id, &c->e);
	if (c->info.state != SANDBOX_STOPPED)
		engine_sweep(en, c->row->id);
}

static void decide(struct engine *en, struct task *t, size_t i, int rc, const struct err *why)
{
	struct task_child *c = &t->children[i];
	struct err e = {0};
	if (c->fate != CHILD_UNDECIDED)
		return;
	if (rc < 0 && hostagent_lost(why)) {
		task_set(t, OUTCOME_UNKNOWN);
		c->e = *why;
	} else if (rc < 0) {
		c->e = *why;
		if (!err_is_set(&c->e))
			err_errno(&c->e, rc, "fork");
		log_warn("child not made sandbox=%s: %s", c->row ? c->row->id : "?", c->e.text);
		if (!c->row || rows_unmake(en->rows, c->row, NULL, &e) == 0)
			c->fate = CHILD_DEAD;
	} else {
		child_is_there(en, c, &e);
	}
	if (c->fate == CHILD_UNDECIDED && t->outcome != OUTCOME_UNKNOWN) {
		log_warn("child is looked after later operation=%s: %s", t->op.id, e.text);
		c->e = e;
		task_set(t, OUTCOME_UNKNOWN);
	}
	t->n_alive += c->fate == CHILD_ALIVE;
	if (t->watch.child_done && !c->told)
		t->watch.child_done(t->watch.ctx, i);
	c->told = true;
}

struct call {
	struct engine *en;
	struct task *t;
};

static void host_child_done(void *ctx, size_t i)
{
	struct call *x = ctx;
	const struct host_fork_child *h = &x->t->asked[i];
	decide(x->en, x->t, i, h->rc, &h->e);
}

// The request of each child; envs are the caller's to give back.
static int fill_children(
	struct engine *en, struct task *t, struct host_fork_child *list, json_t **envs)
{
	json_t *ids = json_object_get(t->op.request, "children");
	for (size_t i = 0; i < t->n_children; i++) {
		struct sandbox_row *row = t->children[i].row;
		json_t *op = json_object_get(json_array_get(ids, i), "op");
		if (!row)
			return err_set(&t->e, ERR_CONFLICT, "a child is gone already");
		snprintf(list[i].op_id, sizeof list[i].op_id, "%s",
			json_string_value(op) ? json_string_value(op) : "");
		snprintf(list[i].id, sizeof list[i].id, "%s", row->id);
		list[i].token = row->token;
		list[i].info = &t->children[i].info;
		int rc = rows_env(en->rows, list[i].id, &envs[i], &t->e);
		if (rc < 0)
			return rc;
		list[i].env = envs[i];
	}
	return 0;
}

static int ask_host(struct engine *en, struct task *t, struct host_fork_child *list)
{
	struct call x = {en, t};
	size_t n = t->n_children;
	struct host_fork req = {.children = list,
		.n = n,
		.ends_at_ns = task_number(t, "ends_at"),
		.on_timeout = task_on_timeout(t),
		.done = host_child_done,
		.ctx = &x};
	memcpy(req.op_id, t->op.id, sizeof req.op_id);
	snprintf(req.id, sizeof req.id, "%s", t->op.sandbox);
	t->asked = list;
	int rc = en->host.ops->fork(en->host.host, &req, &t->e);
	t->asked = NULL;
	if (rc < 0 && task_is_no_word(en, t)) {
		task_set(t, OUTCOME_UNKNOWN);
		return rc;
	}
	// Where the call as a whole went wrong, that is what became of the rest.
	for (size_t i = 0; i < n; i++)
		decide(en, t, i, rc < 0 ? rc : list[i].rc, rc < 0 ? &t->e : &list[i].e);
	return rc;
}

static int call_fork(struct engine *en, struct task *t)
{
	_cleanup_free_ struct host_fork_child *list = calloc(t->n_children, sizeof *list);
	_cleanup_free_ json_t **envs = calloc(t->n_children, sizeof(json_t *));
	int rc = list && envs ? fill_children(en, t, list, envs) : err_errno(&t->e, ENOMEM, "fork");
	if (rc == 0)
		rc = ask_host(en, t, list);
	for (size_t i = 0; envs && i < t->n_children; i++)
		json_decref(envs[i]);
	return rc;
}

// What the host has of the children of a fork whose answer nobody heard.
static int find_children(struct engine *en, struct task *t, size_t *ret_found)
{
	for (size_t i = 0; i < t->n_children; i++) {
		struct task_child *c = &t->children[i];
		struct err why = {0};
		if (!c->row || c->row->now != ROW_CREATING) {
			c->fate = c->row && !row_ended(c->row) ? CHILD_ALIVE : CHILD_DEAD;
			t->n_alive += c->fate == CHILD_ALIVE;
			*ret_found += c->fate == CHILD_ALIVE;
			if (c->fate == CHILD_DEAD)
				err_set(&c->e, ERR_UNAVAILABLE, "it was not made");
			continue;
		}
		int rc = engine_get(en, c->row->id, &c->info, &why);
		if (rc < 0 && why.code != ERR_NOT_FOUND) {
			t->e = why;
			return rc;
		}
		if (rc == 0 && c->info.state == SANDBOX_PENDING) // later
			return err_set(&t->e, ERR_UNAVAILABLE, "children are still being made");
		if (rc < 0)
			continue;
		++*ret_found;
		decide(en, t, i, 0, NULL);
	}
	return 0;
}

int fork_ask(struct engine *en, struct task *t)
{
	size_t found = 0;
	if (!t->adopted)
		return call_fork(en, t);
	int rc = engine_catch_up(en, &t->e);
	if (rc == 0)
		rc = find_children(en, t, &found);
	if (rc < 0) {
		task_set(t, OUTCOME_UNKNOWN); // of no child more is known than before
		return rc;
	}
	if (found == 0 && task_is_wanted(en, t) && (rc = call_fork(en, t)) == 0)
		return 0;
	struct err e = t->e;
	if (t->outcome == OUTCOME_UNKNOWN || hostagent_lost(&e)) {
		task_set(t, OUTCOME_UNKNOWN);
		return rc;
	}
	if (!err_is_set(&e))
		err_set(&e, ERR_UNAVAILABLE,
			"the server was restarted before the host had begun: ask again");
	for (size_t i = 0; i < t->n_children; i++)
		decide(en, t, i, -EAGAIN, &e);
	t->e = (struct err){0};
	return 0;
}

// One child that lives is a success.
int fork_finish(struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	if (t->n_alive == 0) {
		if (task_is_done(t) || !err_is_set(&t->e))
			t->e = t->children[0].e;
		if (!err_is_set(&t->e))
			err_set(&t->e, ERR_INTERNAL, "no child was made");
		if (task_is_done(t))
			task_set(t, OUTCOME_REFUSED);
	} else {
		task_set(t, OUTCOME_DONE);
		t->e = (struct err){0};
	}
	return engine_write(en, also, e);
}
