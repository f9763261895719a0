// SPDX-License-Identifier: Apache-2.0
// How this works. A call that changes something is an operation (engine.h); its answer is a
// function of the finished task, so that it can be kept with the operation and given again to a
// request with the same Idempotency-Key. What is refused before the operation is begun (a bad body,
// an unknown sandbox) leaves no trace, and the key stays free.
//
// A request whose key is known waits for the end of that operation where a thread is at it, and
// settles it itself where an earlier server left it.
#include <inttypes.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "control/internal.h"
#include "http/json.h"

#define WAIT_MS 500 // between looks at the client's connection
#define PAGE_MAX 100

// --- answers

json_t *task_child_answer(const struct task *t, size_t i)
{
	const struct task_child *c = &t->children[i];
	const char *id = json_string_value(json_object_get(
		json_array_get(json_object_get(t->op.request, "children"), i), "id"));
	if (c->alive && c->row) {
		// A child that was found by the journal alone has no report: what is known is told.
		struct host_sandbox s = c->info;
		if (!s.id[0])
			s.state = c->row->now == ROW_PAUSED ? SANDBOX_PAUSED : SANDBOX_RUNNING;
		return sandboxes_json(c->row, &s);
	}
	return json_pack("{s:{s:s, s:o}, s:s}", "error", "code", err_info(c->e.code)->name,
		"message", control_json_or_null(c->e.text), "id", id ? id : "");
}

static json_t *fork_answer(const struct task *t)
{
	json_t *list = json_array();
	for (size_t i = 0; i < t->n_children; i++)
		json_array_append_new(list, task_child_answer(t, i));
	return json_pack("{s:o}", "children", list);
}

static json_t *snapshot_answer(const struct task *t)
{
	static const struct host_sandbox none;
	json_t *j = snapshots_json(&t->template);
	json_object_set_new(j, "phases", control_json_phases(t->has_info ? &t->info : &none));
	return j;
}

json_t *task_answer(const struct task *t, int *ret_status)
{
	if (t->rc < 0) {
		struct err e = t->e;
		sandboxes_say_cause(t->row, &e);
		*ret_status = err_info(e.code)->http_status;
		return http_error_json(&e);
	}
	switch (t->op.kind) {
	case OPERATION_CREATE:
		*ret_status = 201;
		return t->row ? sandboxes_json(t->row, &t->info) : NULL;
	case OPERATION_SNAPSHOT:
		*ret_status = 201;
		return snapshot_answer(t);
	case OPERATION_FORK:
		*ret_status = 200;
		return fork_answer(t);
	case OPERATION_SNAPSHOT_DELETE:
	case OPERATION_DESTROY:
	case OPERATION_KEY_DELETE:
		*ret_status = 204;
		return NULL;
	default:
		*ret_status = t->row ? 200 : 204;
		return t->row ? sandboxes_json(t->row, &t->info) : NULL;
	}
}

static void each_sandbox(json_t *body, void (*f)(void *ctx, json_t *sandbox), void *ctx)
{
	json_t *list = json_object_get(body, "children"), *child;
	size_t i;
	if (json_object_get(body, "envd_token"))
		f(ctx, body);
	json_array_foreach (list, i, child)
		if (json_object_get(child, "envd_token"))
			f(ctx, child);
}

static void hide(void *ctx, json_t *sandbox)
{
	json_object_set_new(sandbox, "envd_token", json_string(""));
}

void task_hide_tokens(json_t *body)
{
	each_sandbox(body, hide, NULL);
}

static void show(void *ctx, json_t *sandbox)
{
	struct control *c = ctx;
	char token[SHA256_HEX_SIZE];
	const char *id = json_string_value(json_object_get(sandbox, "id"));
	rows_token(c->rows, id ? id : "", token);
	json_object_set_new(sandbox, "envd_token", json_string(token));
}

static void reply_body(struct http_request *r, int status, json_t *body)
{
	if (body)
		http_reply_json(r, status, body);
	else
		http_reply_empty(r, status);
}

void work_reply(struct http_request *r, struct task *t)
{
	int status;
	if (t->op.id[0] && t->begun)
		http_reply_header(r, "Stasis-Operation", t->op.id);
	if (t->rc < 0) {
		sandboxes_say_cause(t->row, &t->e);
		http_reply_error(r, &t->e);
		return;
	}
	json_t *body = task_answer(t, &status);
	if (!body && status != 204) {
		struct err e = {0};
		err_set(&e, ERR_INTERNAL, "the answer cannot be shown");
		http_reply_error(r, &e);
		return;
	}
	reply_body(r, status, body);
}

// --- keys

int work_refuse_key(struct http_request *r, const char *why)
{
	struct err e = {0};
	if (!http_req_header(r, "Idempotency-Key"))
		return 0;
	err_set(&e, ERR_INVALID, "Idempotency-Key: %s", why);
	http_reply_error(r, &e);
	return 1;
}

static int read_key(
	struct control *c, struct http_request *r, json_t *body, struct task *t, struct err *e)
{
	const char *key = http_req_header(r, "Idempotency-Key");
	const char *api_key = control_request_key(r);
	size_t n = strlen(key);
	if (n == 0 || n > OPERATION_KEY_MAX)
		return err_set(e, ERR_INVALID, "Idempotency-Key: must be 1 to %d characters",
			OPERATION_KEY_MAX);
	for (const char *p = key; *p; p++)
		if (*p < 0x21 || *p > 0x7e)
			return err_set(e, ERR_INVALID,
				"Idempotency-Key: must be printable ASCII without blanks");
	if (!api_key || !keys_find(c->keys, api_key, t->op.api_key))
		return err_set(e, ERR_UNAUTHENTICATED, "unknown API key");
	_cleanup_free_ char *text =
		body ? json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS) : strdup("");
	_cleanup_free_ char *all =
		text ? str_printf("%s %s\n%s", http_req_method(r), http_req_path(r), text) : NULL;
	if (!all)
		return err_errno(e, ENOMEM, "Idempotency-Key");
	hash_sha256_hex(all, strlen(all), t->op.hash);
	snprintf(t->op.key, sizeof t->op.key, "%s", key);
	return 0;
}

static void replay(struct control *c, struct http_request *r, const struct operation *op)
{
	const char *accept = http_req_header(r, "Accept");
	http_reply_header(r, "Stasis-Operation", op->id);
	http_reply_header(r, "Idempotent-Replayed", "true");
	json_t *body = op->answer ? json_loads(op->answer, 0, NULL) : NULL;
	each_sandbox(body, show, c);
	json_t *children = json_object_get(body, "children"), *child = NULL;
	if (children && accept && strstr(accept, "application/x-ndjson")) {
		_cleanup_strbuf_ struct strbuf lines = {0};
		size_t i;
		json_array_foreach (children, i, child) {
			_cleanup_free_ char *line = json_compact(child);
			strbuf_addf(&lines, "%s\n", line ? line : "{}");
		}
		http_reply_data(r, 200, "application/x-ndjson", lines.data, lines.len);
		json_decref(body);
		return;
	}
	reply_body(r, op->status, body);
}

// 1: answered, or refused with e set. 0: the key is new.
static int look_up(struct control *c, struct http_request *r, struct task *t, struct err *e)
{
	for (;;) {
		_cleanup_operation_ struct operation op = {0};
		int rc = operations_find_key(
			c->operations, t->op.api_key, t->op.key, clock_realtime_ns(), &op, e);
		if (rc <= 0)
			return rc;
		if (!str_eq(op.hash, t->op.hash))
			return err_set(e, ERR_CONFLICT,
				"Idempotency-Key: was used for another request (operation %s)",
				op.id);
		if (op.state != OPERATION_OPEN) {
			replay(c, r, &op);
			return 1;
		}
		if (operations_wait(c->operations, op.id, 0))
			continue; // ended in between
		struct err why = {0};
		if (engine_settle(&c->engine, op.id, &why) < 0)
			return err_set(e, why.code, "%s", why.text);
		if (operations_wait(c->operations, op.id, WAIT_MS))
			continue;
		if (http_req_aborted(r) || http_req_closing(r))
			return err_set(e, ERR_CANCELED, "operation %s is under way", op.id);
	}
}

static int answered(struct http_request *r, int rc, const struct err *e)
{
	if (rc < 0)
		http_reply_error(r, e);
	return rc != 0;
}

int work_key(struct control *c, struct http_request *r, json_t *body, struct task *t)
{
	struct err e = {0};
	if (!http_req_header(r, "Idempotency-Key"))
		return 0;
	int rc = read_key(c, r, body, t, &e);
	if (rc == 0)
		rc = look_up(c, r, t, &e);
	return answered(r, rc, &e);
}

// --- running

int work_begin(struct control *c, struct http_request *r, struct task *t, const struct row_new *new,
	size_t n, struct err *e)
{
	int rc = engine_begin(&c->engine, t, new, n, e);
	if (rc == 0 || !t->op.key[0] || e->code != ERR_CONFLICT)
		return rc;
	// Two requests with one key at once: the other one was first.
	struct err why = {0};
	int found = look_up(c, r, t, &why);
	if (found < 0)
		*e = why;
	return found != 0 ? found : rc;
}

void work_run(struct control *c, struct http_request *r, struct task *t)
{
	struct err e = {0};
	int rc = work_begin(c, r, t, NULL, 0, &e);
	if (rc == 1)
		return;
	if (rc < 0) {
		http_reply_error(r, &e);
		return;
	}
	engine_ask(&c->engine, t);
	engine_finish(&c->engine, t);
	work_reply(r, t);
}

// --- /v1/operations

static json_t *operation_json(const struct operation *op)
{
	_cleanup_json_ json_t *children = json_array();
	json_t *list = json_object_get(op->request, "children"), *child;
	size_t i;
	json_array_foreach (list, i, child)
		json_array_append(children, json_object_get(child, "id"));
	json_t *failed = json_null();
	if (op->state == OPERATION_FAILED)
		failed = json_pack("{s:s, s:o}", "code", err_info(op->failed.code)->name, "message",
			control_json_or_null(op->failed.text));
	json_t *j = json_pack("{s:s, s:s, s:s, s:o, s:o, s:O, s:o, s:O, s:o, s:o}", "id", op->id,
		"kind", operation_kind_name(op->kind), "state", operation_state_name(op->state),
		"sandbox_id", control_json_or_null(op->sandbox), "snapshot_id",
		control_json_or_null(op->snapshot), "children", children, "error", failed, "phases",
		op->phases, "created_at", control_json_time(op->created_ns), "ended_at",
		control_json_time(op->ended_ns));
	return j;
}

void operations_get_one(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	const char *id = http_req_param(r, "id");
	_cleanup_operation_ struct operation op = {0};
	struct err e = {0};
	int rc = operations_get(c->operations, id, &op, &e);
	if (rc == 0)
		rc = err_set(&e, ERR_NOT_FOUND, "no operation '%.64s'", id);
	if (rc < 0)
		http_reply_error(r, &e);
	else
		http_reply_json(r, 200, operation_json(&op));
}

void operations_list_get(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	const char *limit = http_req_query(r, "limit"), *cursor = http_req_query(r, "cursor");
	uint64_t max = PAGE_MAX, before = INT64_MAX;
	char sandbox[64];
	struct operation *list = NULL;
	size_t n = 0;
	int rc = 0;
	if (limit && (str_to_u64(limit, PAGE_MAX, &max) < 0 || max == 0))
		rc = err_set(&e, ERR_INVALID, "limit: must be an integer from 1 to %d", PAGE_MAX);
	else if (cursor && *cursor && str_to_u64(cursor, INT64_MAX, &before) < 0)
		rc = err_set(&e, ERR_INVALID, "cursor: is not one that a list has given");
	if (rc == 0)
		rc = sandboxes_resolve_filter(c, r, http_req_query(r, "sandbox"), sandbox, &e);
	// One more than asked for tells whether there is a next page.
	if (rc == 0)
		rc = operations_list(
			c->operations, sandbox[0] ? sandbox : NULL, before, max + 1, &list, &n, &e);
	if (rc < 0) {
		http_reply_error(r, &e);
		return;
	}
	json_t *out = json_array(), *next = json_null();
	for (size_t i = 0; i < n && i < max; i++)
		json_array_append_new(out, operation_json(&list[i]));
	if (n > max) {
		char text[24];
		snprintf(text, sizeof text, "%" PRIu64, list[max - 1].created_ns);
		next = json_string(text);
	}
	for (size_t i = 0; i < n; i++)
		operation_done(&list[i]);
	free(list);
	http_reply_json(r, 200, json_pack("{s:o, s:o}", "operations", out, "next_cursor", next));
}

// --- /v1/reconcile

void work_reconcile(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	bool dry = false;
	const struct json_field fields[] = {{.name = "dry_run", .type = JF_BOOL, .out = &dry}};
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(look_freep) struct look *l = NULL;
	struct err e = {0};
	if (work_refuse_key(r, "a look at the host has no answer to be given again"))
		return;
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, &e);
	if (rc == 0)
		rc = engine_look(&c->engine, dry, &l, &e);
	if (rc < 0) {
		http_reply_error(r, &e);
		return;
	}
	if (!dry)
		engine_apply(&c->engine, l);
	size_t n;
	const struct reconcile_action *a = look_actions(l, &n);
	json_t *out = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(out,
			json_pack("{s:s, s:o, s:o, s:o, s:s}", "action",
				reconcile_kind_name(a[i].kind), "id", control_json_or_null(a[i].id),
				"operation", control_json_or_null(a[i].op), "cause",
				control_json_or_null(a[i].cause), "reason", a[i].reason));
	http_reply_json(r, 200, json_pack("{s:b, s:o}", "dry_run", dry, "actions", out));
}
