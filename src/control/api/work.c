// SPDX-License-Identifier: Apache-2.0
// How this works. A request whose key is known waits for the end of that operation where a thread
// is at it, and settles it itself where an earlier server left it.
#include "control/api/work.h"
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "control/api/answer.h"
#include "control/api/caller.h"
#include "control/api/reply.h"
#include "control/engine/run.h"
#include "base/json.h"

#define WAIT_MS 500 // between looks at the client's connection

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
	if (t->outcome != OUTCOME_NEW)
		http_reply_header(r, "Stasis-Operation", t->op.id);
	json_t *body = answer_of(t, &status);
	if (body || status == 204) {
		reply_retry_after(r, status);
		reply_body(r, status, body);
		return;
	}
	struct err e = {0};
	err_set(&e, ERR_INTERNAL, "the answer cannot be shown");
	reply_error(r, &e);
}

// --- keys

int work_refuse_key(struct http_request *r, const char *why)
{
	struct err e = {0};
	if (!http_req_header(r, "Idempotency-Key"))
		return 0;
	err_set(&e, ERR_INVALID, "Idempotency-Key: %s", why);
	reply_error(r, &e);
	return 1;
}

static int read_key(struct http_request *r, json_t *body, struct task *t, struct err *e)
{
	const char *key = http_req_header(r, "Idempotency-Key");
	size_t n = strlen(key);
	if (n == 0 || n > OPERATION_KEY_MAX)
		return err_set(e, ERR_INVALID, "Idempotency-Key: must be 1 to %d characters",
			OPERATION_KEY_MAX);
	for (const char *p = key; *p; p++)
		if (*p < 0x21 || *p > 0x7e)
			return err_set(e, ERR_INVALID,
				"Idempotency-Key: must be printable ASCII without blanks");
	memcpy(t->op.api_key, caller_key(r)->id, sizeof t->op.api_key);
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
	answer_show_tokens(body, c->rows);
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
	reply_retry_after(r, op->status);
	reply_body(r, op->status, body);
}

// 1: answered, or refused with e set. 0: the key is new.
static int look_up(struct control *c, struct http_request *r, struct task *t, struct err *e)
{
	for (;;) {
		_cleanup_operation_ struct operation op = {0};
		int rc = operations_find_key(
			c->db, t->op.api_key, t->op.key, clock_realtime_ns(), &op, e);
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
		if (underway_wait(c->underway, op.id, 0))
			continue; // ended in between
		struct err why = {0};
		if (engine_settle(&c->engine, op.id, &why) < 0)
			return err_set(e, why.code, "%s", why.text);
		if (underway_wait(c->underway, op.id, WAIT_MS))
			continue;
		if (http_req_aborted(r) || http_req_closing(r))
			return err_set(e, ERR_CANCELED, "operation %s is under way", op.id);
	}
}

static int answered(struct http_request *r, int rc, const struct err *e)
{
	if (rc < 0)
		reply_error(r, e);
	return rc != 0;
}

int work_key(struct control *c, struct http_request *r, json_t *body, struct task *t)
{
	struct err e = {0};
	if (!http_req_header(r, "Idempotency-Key"))
		return 0;
	int rc = read_key(r, body, t, &e);
	if (rc == 0)
		rc = look_up(c, r, t, &e);
	return answered(r, rc, &e);
}

// --- running

// A change of the same row is under way: this one comes after it, so that the last one counts.
static int begin_in_turn(struct control *c, struct http_request *r, struct task *t,
	const struct row_new *new, size_t n, struct err *e)
{
	for (;;) {
		*e = (struct err){0};
		int rc = engine_begin(&c->engine, t, new, n, e);
		if (rc != -EAGAIN || e->code != ERR_CONFLICT || http_req_aborted(r) ||
			http_req_closing(r))
			return rc;
		underway_wait_idle(c->underway, t->op.sandbox, t->op.kind, WAIT_MS);
	}
}

int work_begin(struct control *c, struct http_request *r, struct task *t, const struct row_new *new,
	size_t n, struct err *e)
{
	int rc = begin_in_turn(c, r, t, new, n, e);
	if (rc == 0 || !t->op.key[0] || e->code != ERR_CONFLICT)
		return rc;
	// Two requests with one key at once: the other one was first.
	struct err why = {0};
	int found = look_up(c, r, t, &why);
	if (found < 0)
		*e = why;
	return found != 0 ? found : rc;
}

void work_run(struct control *c, struct http_request *r, struct task *t, const struct row_new *new,
	size_t n)
{
	struct err e = {0};
	int rc = work_begin(c, r, t, new, n, &e);
	if (rc == 1)
		return;
	if (rc < 0) {
		reply_error(r, &e);
		return;
	}
	engine_ask(&c->engine, t);
	engine_finish(&c->engine, t);
	work_reply(r, t);
}
