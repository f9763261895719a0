// SPDX-License-Identifier: Apache-2.0
#include "control/engine/engine.h"
#include <string.h>
#include "base/fault.h"
#include "base/log.h"
#include "base/str.h"
#include "control/internal.h"
#include "http/json.h"

// --- the request, as the host wants it

static uint64_t number(const struct task *t, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(t->op.request, key));
}

static bool flag(const struct task *t, const char *key)
{
	return json_is_true(json_object_get(t->op.request, key));
}

static const char *text(const struct task *t, const char *key)
{
	const char *s = json_string_value(json_object_get(t->op.request, key));
	return s ? s : "";
}

static void read_change(const struct task *t, struct row_change *ret)
{
	json_t *name = json_object_get(t->op.request, "name");
	*ret = (struct row_change){.has_name = name != NULL,
		.name = json_string_value(name),
		.metadata = json_object_get(t->op.request, "metadata"),
		.on_timeout =
			str_eq(text(t, "on_timeout"), "pause") ? ON_TIMEOUT_PAUSE : ON_TIMEOUT_KILL,
		.has_on_timeout = json_object_get(t->op.request, "on_timeout") != NULL};
	ret->has_metadata = ret->metadata != NULL;
}

static bool lost(const struct engine *en, const struct err *e)
{
	return hostagent_lost(e) && !en->wrong_lost;
}

// Asked for the first time, or again while the host still knows the id.
static bool may_ask(const struct engine *en, const struct task *t)
{
	return !t->adopted || en->now_ns(en->ctx) < t->op.created_ns + ENGINE_ASK_AGAIN_NS;
}

// Nobody will come for the answer of what the host has not begun, unless by the key.
static bool is_wanted(const struct engine *en, const struct task *t)
{
	return !t->adopted || (t->op.key[0] && may_ask(en, t));
}

static void op_id(const struct engine *en, const struct task *t, char out[UUID_SIZE])
{
	if (en->wrong_new_id && t->adopted)
		en->new_uuid(en->ctx, out);
	else
		memcpy(out, t->op.id, UUID_SIZE);
}

static int cut_short(struct task *t)
{
	t->said = true;
	return err_set(&t->e, ERR_UNAVAILABLE,
		"the server was restarted before the host had begun: ask again");
}

static int too_old(struct task *t)
{
	t->said = true;
	return err_set(&t->e, ERR_UNAVAILABLE,
		"its outcome is not known any more: see what state the sandbox is in");
}

// An orphan may have been done before: a host that cannot tell now, since its volume is gone or it
// is being drained, has said nothing about that.
static bool is_no_word(struct engine *en, const struct task *t)
{
	struct host_info info = {0};
	struct err why = {0};
	bool could_be = t->e.code == ERR_UNAVAILABLE || t->e.code == ERR_TIMEOUT ||
			t->e.code == ERR_BAD_GATEWAY;
	if (!t->adopted || !could_be || t->said)
		return false;
	return en->host.ops->info(en->host.host, &info, &why) < 0 || !info.volume_ok ||
	       info.draining;
}

static int get(struct engine *en, const char *id, struct host_sandbox *ret, struct err *e)
{
	*e = (struct err){0};
	return en->host.ops->get(en->host.host, id, ret, e);
}

// --- asking

static int call_create(struct engine *en, struct task *t)
{
	_cleanup_json_ json_t *env = NULL;
	struct host_create req = {.vcpus = (unsigned)number(t, "vcpus"),
		.memory_mb = (unsigned)number(t, "memory_mb"),
		.disk_mb = number(t, "disk_mb"),
		.ends_at_ns = number(t, "ends_at"),
		.on_timeout = t->row->on_timeout,
		.cold = flag(t, "cold"),
		.token = t->row->token};
	int rc = rows_env(en->rows, t->row->id, &env, &t->e);
	if (rc < 0)
		return rc;
	req.env = env;
	op_id(en, t, req.op_id);
	snprintf(req.id, sizeof req.id, "%s", t->row->id);
	snprintf(req.template, sizeof req.template, "%s", t->row->template);
	snprintf(req.snapshot, sizeof req.snapshot, "%s", text(t, "from"));
	return en->host.ops->create(en->host.host, &req, &t->info, &t->e);
}

static int ask_create(struct engine *en, struct task *t)
{
	if (!t->row)
		return err_set(&t->e, ERR_INTERNAL, "the sandbox is not in the database");
	if (!t->adopted)
		return call_create(en, t);
	t->info.state = SANDBOX_STOPPED;
	int rc = get(en, t->row->id, &t->info, &t->e);
	bool known = rc == 0 && t->info.state != SANDBOX_PENDING;
	if (known || (rc < 0 && t->e.code != ERR_NOT_FOUND))
		return rc;
	if (rc < 0 && (rc = engine_catch_up(en, &t->e)) < 0) {
		t->lost = true;
		return rc;
	}
	const struct host_sandbox *ended = row_ended(t->row);
	if (ended) { // made, ended and forgotten: the events tell
		t->info = *ended;
		t->e = (struct err){0};
		return 0;
	}
	if (t->info.state != SANDBOX_PENDING && !is_wanted(en, t))
		return cut_short(t);
	t->e = (struct err){0};
	rc = call_create(en, t);
	if (rc < 0 && t->e.code == ERR_CONFLICT) // the host was restarted too, and has it
		rc = get(en, t->row->id, &t->info, &t->e);
	return rc;
}

static int ask_resume(struct engine *en, struct task *t, bool rollback)
{
	char token[SHA256_HEX_SIZE];
	struct host_resume req = {.disk_only = flag(t, "disk_only"),
		.ends_at_ns = number(t, "ends_at"),
		.token = token};
	rows_token(en->rows, t->op.sandbox, token);
	op_id(en, t, req.op_id);
	snprintf(req.id, sizeof req.id, "%s", t->op.sandbox);
	if (rollback)
		snprintf(req.from, sizeof req.from, "%s", text(t, "from"));
	return en->host.ops->resume(en->host.host, &req, &t->info, &t->e);
}

static int ask_destroy(struct engine *en, struct task *t)
{
	char op[UUID_SIZE];
	struct err why = {0};
	op_id(en, t, op);
	int rc = en->host.ops->destroy(en->host.host, op, t->op.sandbox, text(t, "cause"), &t->e);
	bool missing = rc < 0 && t->e.code == ERR_NOT_FOUND;
	if (rc < 0 && !missing)
		return rc;
	// Its last report; there may be none, which changes nothing.
	t->has_info =
		get(en, t->op.sandbox, &t->info, &why) == 0 && t->info.state == SANDBOX_STOPPED;
	// Its end is among the events then, with the cause.
	int caught = t->has_info ? 0 : engine_catch_up(en, &why);
	if (caught < 0) {
		t->e = why;
		t->lost = true;
		return caught;
	}
	if (missing && (t->adopted || flag(t, "forget"))) {
		t->e = (struct err){0};
		return 0;
	}
	return rc;
}

static int ask_set_timeout(struct engine *en, struct task *t)
{
	char op[UUID_SIZE];
	op_id(en, t, op);
	int rc = en->host.ops->set_timeout(
		en->host.host, op, t->op.sandbox, number(t, "ends_at"), &t->e);
	return rc < 0 ? rc : get(en, t->op.sandbox, &t->info, &t->e);
}

// The host keeps on_timeout alone; what it says of the sandbox is for the answer, and may be
// missing.
static int ask_update(struct engine *en, struct task *t)
{
	struct row_change c;
	struct err why = {0};
	char op[UUID_SIZE];
	int rc = 0;
	read_change(t, &c);
	if (c.has_on_timeout) {
		op_id(en, t, op);
		rc = en->host.ops->set_on_timeout(
			en->host.host, op, t->op.sandbox, c.on_timeout, &t->e);
	}
	if (rc == 0 && get(en, t->op.sandbox, &t->info, &why) < 0 && t->row) {
		bool silent = why.code == ERR_UNAVAILABLE || why.code == ERR_TIMEOUT;
		t->info = (struct host_sandbox){.state = silent ? SANDBOX_UNREACHABLE
							 : t->row->now == ROW_PAUSED
								 ? SANDBOX_PAUSED
								 : SANDBOX_RUNNING,
			.generation = t->row->generation};
	}
	return rc;
}

static int call_snapshot(struct engine *en, struct task *t)
{
	struct host_snapshot_create req = {0};
	op_id(en, t, req.op_id);
	snprintf(req.id, sizeof req.id, "%s", t->op.sandbox);
	memcpy(req.snapshot, t->op.snapshot, sizeof req.snapshot);
	return en->host.ops->snapshot_create(en->host.host, &req, &t->snapshot, &t->e);
}

static int ask_snapshot(struct engine *en, struct task *t)
{
	if (!t->adopted) {
		int rc = call_snapshot(en, t);
		struct err why = {0};
		t->has_info = rc == 0 && get(en, t->op.sandbox, &t->info, &why) == 0;
		return rc;
	}
	_cleanup_free_ struct host_snapshot *list = NULL;
	size_t n = 0;
	int rc = en->host.ops->snapshots(en->host.host, &list, &n, &t->e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		if (str_eq(list[i].id, t->op.snapshot)) {
			t->snapshot = list[i];
			return 0;
		}
	if (rc < 0)
		return rc;
	return is_wanted(en, t) ? call_snapshot(en, t) : cut_short(t);
}

// --- fork: each child is decided, and durable, as the host is done with it

struct ending {
	struct engine *en;
	struct task *t;
};

static void decide(struct engine *en, struct task *t, size_t i, int rc, const struct err *why)
{
	struct task_child *c = &t->children[i];
	struct err e = {0};
	if (c->decided)
		return;
	if (rc < 0 && lost(en, why)) {
		t->lost = true;
		c->e = *why;
	} else if (rc < 0) {
		c->e = *why;
		if (!err_is_set(&c->e))
			err_errno(&c->e, rc, "fork");
		log_warn("child not made sandbox=%s: %s", c->row ? c->row->id : "?", c->e.text);
		c->decided = !c->row || rows_remove(en->rows, c->row, NULL, &e) == 0;
	} else if (c->row) {
		bool paused = c->info.state == SANDBOX_PAUSED;
		int r = c->info.state == SANDBOX_STOPPED
				? rows_end(en->rows, c->row, &c->info, NULL, &e)
				: rows_live(en->rows, c->row, paused ? ROW_PAUSED : ROW_RUNNING,
					  c->info.generation, false, NULL, &e);
		c->decided = c->alive = r == 0;
	}
	if (!c->decided && !t->lost) {
		log_warn("child is looked after later operation=%s: %s", t->op.id, e.text);
		c->e = e;
		t->lost = true;
	}
	t->n_alive += c->alive;
	if (t->child_done && !c->told)
		t->child_done(t->ctx, i);
	c->told = true;
}

static void host_child_done(void *ctx, size_t i)
{
	struct ending *x = ctx;
	const struct host_fork_child *h = &x->t->asked[i];
	decide(x->en, x->t, i, h->rc, &h->e);
}

static int call_fork(struct engine *en, struct task *t)
{
	_cleanup_free_ struct host_fork_child *list = calloc(t->n_children, sizeof *list);
	_cleanup_free_ json_t **envs = calloc(t->n_children, sizeof(json_t *));
	struct ending x = {en, t};
	struct host_fork req = {.children = list,
		.n = t->n_children,
		.ends_at_ns = number(t, "ends_at"),
		.on_timeout =
			str_eq(text(t, "on_timeout"), "pause") ? ON_TIMEOUT_PAUSE : ON_TIMEOUT_KILL,
		.done = host_child_done,
		.ctx = &x};
	json_t *ids = json_object_get(t->op.request, "children");
	size_t n = t->n_children;
	int rc = list && envs ? 0 : err_errno(&t->e, ENOMEM, "fork");
	for (size_t i = 0; rc == 0 && i < t->n_children; i++) {
		json_t *child = json_array_get(ids, i);
		const char *op = json_string_value(json_object_get(child, "op"));
		if (!t->children[i].row) {
			rc = err_set(&t->e, ERR_CONFLICT, "a child is gone already");
			break;
		}
		snprintf(list[i].op_id, sizeof list[i].op_id, "%s", op ? op : "");
		snprintf(list[i].id, sizeof list[i].id, "%s", t->children[i].row->id);
		list[i].token = t->children[i].row->token;
		list[i].info = &t->children[i].info;
		rc = rows_env(en->rows, list[i].id, &envs[i], &t->e);
		list[i].env = envs[i];
	}
	if (rc == 0) {
		op_id(en, t, req.op_id);
		snprintf(req.id, sizeof req.id, "%s", t->op.sandbox);
		t->asked = list;
		rc = en->host.ops->fork(en->host.host, &req, &t->e);
		t->asked = NULL;
		if (rc < 0 && is_no_word(en, t)) {
			t->lost = true;
			n = 0;
		}
		// Where the call as a whole went wrong, that is what became of the rest.
		for (size_t i = 0; i < n; i++)
			decide(en, t, i, rc < 0 ? rc : list[i].rc, rc < 0 ? &t->e : &list[i].e);
	}
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
			c->decided = true;
			c->alive = c->row && !row_ended(c->row);
			t->n_alive += c->alive;
			*ret_found += c->alive;
			if (!c->alive)
				err_set(&c->e, ERR_UNAVAILABLE, "it was not made");
			continue;
		}
		int rc = get(en, c->row->id, &c->info, &why);
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

static int ask_fork(struct engine *en, struct task *t)
{
	size_t found = 0;
	if (!t->adopted)
		return call_fork(en, t);
	int rc = engine_catch_up(en, &t->e);
	if (rc == 0)
		rc = find_children(en, t, &found);
	if (rc < 0) {
		t->lost = true; // of no child more is known than before
		return rc;
	}
	if (found == 0 && is_wanted(en, t) && (rc = call_fork(en, t)) == 0)
		return 0;
	struct err e = t->e;
	if (t->lost || lost(en, &e)) {
		t->lost = true;
		return rc;
	}
	if (!err_is_set(&e)) {
		cut_short(t);
		e = t->e;
	}
	for (size_t i = 0; i < t->n_children; i++)
		decide(en, t, i, -EAGAIN, &e);
	t->e = (struct err){0};
	return 0;
}

static int ask_known(struct engine *en, struct task *t)
{
	char op[UUID_SIZE];
	switch (t->op.kind) {
	case OPERATION_PAUSE:
		op_id(en, t, op);
		return en->host.ops->pause(en->host.host, op, t->op.sandbox, &t->info, &t->e);
	case OPERATION_RESUME:
	case OPERATION_ROLLBACK:
		return ask_resume(en, t, t->op.kind == OPERATION_ROLLBACK);
	case OPERATION_SET_TIMEOUT:
		return ask_set_timeout(en, t);
	case OPERATION_UPDATE:
		return ask_update(en, t);
	case OPERATION_DESTROY:
		return ask_destroy(en, t);
	case OPERATION_SNAPSHOT_DELETE:
		op_id(en, t, op);
		return en->host.ops->snapshot_delete(en->host.host, op, t->op.snapshot, &t->e);
	default:
		return 0;
	}
}

void engine_ask(struct engine *en, struct task *t)
{
	t->e = (struct err){0};
	switch (t->op.kind) {
	case OPERATION_CREATE:
		t->rc = ask_create(en, t);
		break;
	case OPERATION_FORK:
		t->rc = ask_fork(en, t);
		break;
	case OPERATION_SNAPSHOT:
		t->rc = ask_snapshot(en, t);
		break;
	default:
		t->rc = may_ask(en, t) ? ask_known(en, t) : too_old(t);
		break;
	}
	bool tells = t->op.kind == OPERATION_CREATE || t->op.kind == OPERATION_PAUSE ||
		     t->op.kind == OPERATION_RESUME || t->op.kind == OPERATION_ROLLBACK ||
		     t->op.kind == OPERATION_SET_TIMEOUT;
	if (tells)
		t->has_info = t->rc == 0;
	if (t->rc < 0 && !err_is_set(&t->e))
		err_errno(&t->e, t->rc, "host");
	if (t->rc < 0 && (lost(en, &t->e) || is_no_word(en, t)))
		t->lost = true;
}

// --- the end of it, in the transaction of its effect

static int write_end(void *ctx, struct db *db, struct err *e)
{
	struct ending *x = ctx;
	struct task *t = x->t;
	t->op.ended_ns = x->en->now_ns(x->en->ctx);
	t->op.state = t->rc < 0 ? OPERATION_FAILED : OPERATION_DONE;
	if (t->rc < 0)
		t->op.failed = t->e;
	json_decref(t->op.phases);
	t->op.phases = t->has_info ? control_json_phases(&t->info) : NULL;
	if (t->op.key[0]) {
		_cleanup_json_ json_t *body = task_answer(t, &t->op.status);
		free(t->op.answer);
		t->op.answer = NULL;
		task_hide_tokens(body);
		if (body && !(t->op.answer = json_compact(body)))
			return err_errno(e, ENOMEM, "answer");
	}
	return operations_update(x->en->operations, &t->op, e);
}

static int end_alone(struct engine *en, const struct db_also *also, struct err *e)
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

static int apply_info(struct engine *en, struct task *t, const struct db_also *also, struct err *e)
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

static int finish_destroy(
	struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	bool missing = t->rc < 0 && t->e.code == ERR_NOT_FOUND;
	if (!t->row || (t->rc < 0 && !missing))
		return end_alone(en, also, e);
	if (flag(t, "forget"))
		return rows_remove(en->rows, t->row, also, e);
	struct host_sandbox last = t->info;
	if (!t->has_info) {
		last = (struct host_sandbox){.state = SANDBOX_STOPPED,
			.stopped_ns = en->now_ns(en->ctx),
			.on_timeout = t->row->on_timeout,
			.generation = t->row->generation,
			.created_ns = t->row->created_ns};
		snprintf(last.cause, sizeof last.cause, "%s",
			missing ? "host_lost" : text(t, "cause"));
	}
	return rows_end(en->rows, t->row, &last, also, e);
}

void engine_delete_noted(struct engine *en, const char *snapshot)
{
	char op[UUID_SIZE];
	struct err e = {0};
	en->new_uuid(en->ctx, op);
	int r = en->host.ops->snapshot_delete(en->host.host, op, snapshot, &e);
	if (r == 0 || e.code == ERR_NOT_FOUND)
		r = templates_deleted(en->templates, snapshot, NULL, &e);
	if (r < 0)
		log_warn(
			"deletion is tried again later snapshot=%s: %s", snapshot, err_text(&e, r));
}

static int finish_snapshot(
	struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	char old[UUID_SIZE] = "";
	int rc = -EAGAIN;
	if (t->rc == 0) {
		rc = templates_commit(
			en->templates, &t->name, &t->snapshot, old, &t->template, also, e);
		if (rc == 0 && old[0])
			engine_delete_noted(en, old);
		// The name was taken meanwhile, or the host talks nonsense: a failure like others.
		if (rc < 0 && (e->code == ERR_CONFLICT || e->code == ERR_INVALID)) {
			t->rc = rc;
			t->e = *e;
			*e = (struct err){0};
		}
	}
	if (t->rc == 0)
		return rc;
	log_warn("snapshot failed name=%s snapshot=%s sandbox=%s: %s", t->name.name, t->op.snapshot,
		t->op.sandbox, t->e.text);
	rc = templates_abandon(en->templates, t->op.snapshot, also, e);
	if (rc == 0) {
		engine_delete_noted(en, t->op.snapshot);
	} else if (e->code == ERR_NOT_FOUND) { // settled by its note, in an older version
		*e = (struct err){0};
		rc = end_alone(en, also, e);
	}
	return rc;
}

static int finish_fork(struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	if (t->n_alive == 0) {
		if (t->rc == 0 || !err_is_set(&t->e))
			t->e = t->children[0].e;
		if (!err_is_set(&t->e))
			err_set(&t->e, ERR_INTERNAL, "no child was made");
		t->rc = -EAGAIN;
	} else {
		t->rc = 0;
		t->e = (struct err){0};
	}
	return end_alone(en, also, e);
}

static int finish_update(
	struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	struct row_change c;
	read_change(t, &c);
	if (!t->row || t->rc < 0)
		return end_alone(en, also, e);
	return rows_change(en->rows, t->row, &c, also, e);
}

static int write_effect(
	struct engine *en, struct task *t, const struct db_also *also, struct err *e)
{
	switch (t->op.kind) {
	case OPERATION_CREATE:
		if (t->row && t->rc < 0)
			return rows_remove(en->rows, t->row, also, e);
		return t->row ? apply_info(en, t, also, e) : end_alone(en, also, e);
	case OPERATION_DESTROY:
		return finish_destroy(en, t, also, e);
	case OPERATION_SNAPSHOT:
		return finish_snapshot(en, t, also, e);
	case OPERATION_SNAPSHOT_DELETE:
		return t->rc == 0 ? templates_deleted(en->templates, t->op.snapshot, also, e)
				  : end_alone(en, also, e);
	case OPERATION_FORK:
		return finish_fork(en, t, also, e);
	case OPERATION_UPDATE:
		return finish_update(en, t, also, e);
	case OPERATION_KEY_DELETE: {
		int rc = keys_remove(en->keys, text(t, "key"), e);
		if (rc < 0 && !(t->adopted && e->code == ERR_NOT_FOUND)) {
			t->rc = rc;
			t->e = *e;
		}
		*e = (struct err){0};
		return end_alone(en, also, e);
	}
	default:
		return t->row && t->rc == 0 ? apply_info(en, t, also, e) : end_alone(en, also, e);
	}
}

void engine_finish(struct engine *en, struct task *t)
{
	struct ending x = {en, t};
	const struct db_also also = {write_end, &x};
	struct err e = {0};
	bool deletes = t->op.kind == OPERATION_SNAPSHOT_DELETE;
	// The name is gone: for the user that is all, and the host is asked until it has followed.
	bool again = deletes && t->rc < 0 && t->e.code != ERR_NOT_FOUND && may_ask(en, t);
	if (deletes && t->rc < 0 && t->e.code == ERR_NOT_FOUND)
		t->rc = 0;
	int rc = t->lost || again ? -EAGAIN : fault_hit("control.before_finish", &e);
	if (rc == 0)
		rc = write_effect(en, t, &also, &e);
	if (t->named)
		templates_end(en->templates, &t->name);
	t->named = false;
	if (rc == 0) {
		if (t->op.kind == OPERATION_UPDATE && t->row)
			rows_unclaim(en->rows, t->row);
		operations_ended(en->operations, t->op.id);
		if (t->rc < 0)
			log_info("operation failed operation=%s kind=%s sandbox=%s: %s", t->op.id,
				operation_kind_name(t->op.kind), t->op.sandbox, t->e.text);
		return;
	}
	operations_orphan(en->operations, t->op.id);
	if (again) {
		log_warn(
			"deletion is tried again later snapshot=%s: %s", t->op.snapshot, t->e.text);
		t->rc = t->adopted ? t->rc : 0;
		t->lost = t->adopted;
		return;
	}
	if (!t->lost) {
		log_error("end not recorded operation=%s: %s", t->op.id, e.text);
		t->e = e;
		t->rc = rc;
	} else if (t->rc == 0) {
		t->rc = err_set(&t->e, ERR_UNAVAILABLE, "the host did not answer");
	}
	t->lost = true;
}

// --- begin

static int write_begin(void *ctx, struct db *db, struct err *e)
{
	struct ending *x = ctx;
	return operations_insert(x->en->operations, &x->t->op, e);
}

static void set_name(struct task *t)
{
	t->name = (struct template_op){.overwrite = flag(t, "overwrite")};
	memcpy(t->name.snapshot, t->op.snapshot, sizeof t->name.snapshot);
	snprintf(t->name.name, sizeof t->name.name, "%s", text(t, "name"));
	snprintf(t->name.sandbox, sizeof t->name.sandbox, "%s", t->op.sandbox);
	snprintf(t->name.parent, sizeof t->name.parent, "%s", text(t, "parent"));
}

static int new_children(struct task *t, size_t n, struct err *e)
{
	t->children = calloc(n + 1, sizeof *t->children);
	if (!t->children)
		return err_errno(e, ENOMEM, "fork");
	t->n_children = n;
	return 0;
}

static int write_first(struct engine *en, struct task *t, const struct row_new *new, size_t n,
	const struct db_also *also, struct err *e)
{
	uint64_t now = t->op.created_ns;
	switch (t->op.kind) {
	case OPERATION_CREATE:
		return rows_add(en->rows, new, 1, now, also, &t->row, e);
	case OPERATION_FORK: {
		_cleanup_free_ struct row **rows = calloc(n, sizeof(struct row *));
		int rc = rows ? new_children(t, n, e) : err_errno(e, ENOMEM, "fork");
		if (rc == 0)
			rc = rows_add(en->rows, new, n, now, also, rows, e);
		for (size_t i = 0; rc == 0 && i < n; i++)
			t->children[i].row = rows[i];
		return rc;
	}
	case OPERATION_SNAPSHOT:
		set_name(t);
		t->named = true;
		return templates_begin(en->templates, &t->name, also, e);
	case OPERATION_SNAPSHOT_DELETE:
		return templates_remove(en->templates, text(t, "name"), t->op.snapshot, also, e);
	case OPERATION_UPDATE: {
		struct row_change c;
		read_change(t, &c);
		return t->row ? rows_claim(en->rows, t->row, &c, also, e) : end_alone(en, also, e);
	}
	default:
		return end_alone(en, also, e);
	}
}

int engine_begin(
	struct engine *en, struct task *t, const struct row_new *new, size_t n, struct err *e)
{
	struct ending x = {en, t};
	const struct db_also also = {write_begin, &x};
	int rc = 0;
	if (t->op.kind != OPERATION_CREATE && t->op.sandbox[0])
		rc = engine_settle_on(en, t->op.sandbox, e);
	if (rc < 0)
		return rc;
	if (t->op.kind != OPERATION_CREATE && t->op.sandbox[0])
		t->row = rows_get(en->rows, t->op.sandbox);
	struct template old;
	// Again in the transaction; here for what is open in memory.
	if (t->op.kind == OPERATION_SNAPSHOT_DELETE &&
		templates_get(en->templates, text(t, "name"), &old, NULL) == 0)
		memcpy(t->op.snapshot, old.snapshot, sizeof t->op.snapshot);
	en->new_uuid(en->ctx, t->op.id);
	t->op.created_ns = en->now_ns(en->ctx);
	t->op.state = OPERATION_OPEN;
	rc = operations_activate(en->operations, &t->op, e);
	if (rc == 0)
		rc = fault_hit("control.before_begin", e);
	if (rc == 0)
		rc = write_first(en, t, new, n, &also, e);
	t->begun = rc == 0;
	if (rc < 0) {
		if (t->named)
			templates_end(en->templates, &t->name);
		t->named = false;
		operations_ended(en->operations, t->op.id);
		return rc;
	}
	fault_hit("control.after_begin", NULL);
	return 0;
}

void task_done(struct engine *en, struct task *t)
{
	if (t->named)
		templates_end(en->templates, &t->name);
	for (size_t i = 0; i < t->n_children; i++)
		row_unref(t->children[i].row);
	free(t->children);
	row_unref(t->row);
	operation_done(&t->op);
	*t = (struct task){0};
}

// --- orphans

int engine_claim_rows(struct engine *en, struct err *e)
{
	struct operation_ref *list;
	size_t n;
	int rc = operations_list_open(en->operations, &list, &n, e);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < n; i++) {
		struct task t = {.adopted = true};
		struct row_change c;
		struct err why = {0};
		if (list[i].kind != OPERATION_UPDATE ||
			operations_get(en->operations, list[i].id, &t.op, &why) != 1)
			continue;
		t.row = rows_get(en->rows, t.op.sandbox);
		read_change(&t, &c);
		if (t.row && rows_claim(en->rows, t.row, &c, NULL, &why) < 0)
			log_warn("a change is not kept operation=%s: %s", t.op.id, why.text);
		task_done(en, &t);
	}
	operations_refs_free(list, n);
	return 0;
}

int engine_adopt(struct engine *en, const char *op_id_, struct task *t, struct err *e)
{
	*t = (struct task){.adopted = true, .begun = true};
	if (!operations_adopt(en->operations, op_id_))
		return 0;
	int rc = operations_get(en->operations, op_id_, &t->op, e);
	if (rc == 1 && t->op.state != OPERATION_OPEN)
		rc = 0;
	if (rc == 0) // ended by another hand, as far as the database goes
		operations_ended(en->operations, op_id_);
	if (rc == 1 && t->op.kind == OPERATION_FORK) {
		json_t *list = json_object_get(t->op.request, "children"), *child;
		size_t i, n = json_array_size(list);
		rc = new_children(t, n, e) < 0 ? -ENOMEM : 1;
		json_array_foreach (list, i, child) {
			const char *id = json_string_value(json_object_get(child, "id"));
			if (rc == 1)
				t->children[i].row = rows_get(en->rows, id ? id : "");
		}
	}
	if (rc < 0)
		operations_orphan(en->operations, op_id_);
	if (rc == 1 && t->op.sandbox[0])
		t->row = rows_get(en->rows, t->op.sandbox);
	if (rc == 1 && t->op.kind == OPERATION_SNAPSHOT)
		set_name(t);
	if (rc != 1)
		task_done(en, t);
	return rc;
}

int engine_settle(struct engine *en, const char *id, struct err *e)
{
	struct task t;
	int rc = engine_adopt(en, id, &t, e);
	if (rc <= 0)
		return rc;
	engine_ask(en, &t);
	engine_finish(en, &t);
	if (t.lost)
		rc = err_set(e, ERR_UNAVAILABLE, "operation %s is not finished: %s", id, t.e.text);
	else
		log_info("operation finished after all operation=%s kind=%s sandbox=%s state=%s",
			id, operation_kind_name(t.op.kind), t.op.sandbox,
			operation_state_name(t.op.state));
	bool open = t.lost;
	task_done(en, &t);
	return open ? rc : 0;
}

int engine_settle_on(struct engine *en, const char *sandbox, struct err *e)
{
	char id[UUID_SIZE];
	while (operations_orphan_on(en->operations, sandbox, id)) {
		int rc = engine_settle(en, id, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}
