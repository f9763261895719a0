// SPDX-License-Identifier: Apache-2.0
#include "control/api/keys.h"
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/str.h"
#include "control/api/context.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/state/render.h"

#define QUOTA_MAX (1ull << 40)

static json_t *limit(uint64_t n)
{
	return n ? json_integer((json_int_t)n) : json_null();
}

static json_t *key_json(struct control *c, const struct key_info *k)
{
	const struct key_quota *q = &k->quota;
	const struct rows_usage u = rows_usage(c->rows, k);
	return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:{s:o, s:o, s:o, s:o, s:o}, "
			 "s:{s:I, s:I, s:I, s:I}}",
		"id", k->id, "name", k->name, "prefix", k->prefix, "scope",
		key_scope_name(k->scope), "owner", render_text(k->owner), "created_at",
		render_time(k->created_ns), "last_used_at", render_time(k->last_used_ns),
		"expires_at", render_time(k->expires_ns), "quota", "sandboxes", limit(q->sandboxes),
		"vcpus", limit(q->vcpus), "memory_mb", limit(q->memory_mb), "disk_mb",
		limit(q->disk_mb), "creates_per_minute", limit(q->creates), "usage", "sandboxes",
		(json_int_t)u.sandboxes, "vcpus", (json_int_t)u.vcpus, "memory_mb",
		(json_int_t)u.memory_mb, "disk_mb", (json_int_t)u.disk_mb);
}

// --- bodies

// Of a key or an owner: printed in logs and tables.
static int check_label(const char *what, const char *text, struct err *e)
{
	for (const char *p = text; p == text || *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return err_set(e, ERR_INVALID,
				"%s: must not be empty or hold control characters", what);
	return 0;
}

// A number, or null for no limit.
static int read_limit(json_t *quota, const char *name, uint64_t *out, struct err *e)
{
	json_t *j = json_object_get(quota, name);
	if (!j)
		return 0;
	if (!json_is_null(j) && (!json_is_integer(j) || json_integer_value(j) < 1 ||
					json_integer_value(j) > (json_int_t)QUOTA_MAX))
		return err_set(e, ERR_INVALID,
			"quota.%s: must be a whole number from 1, or null for no limit", name);
	*out = (uint64_t)json_integer_value(j);
	return 0;
}

static int read_quota(json_t *quota, struct key_quota *q, struct err *e)
{
	const struct {
		const char *name;
		uint64_t *out;
	} limits[] = {{"sandboxes", &q->sandboxes}, {"vcpus", &q->vcpus},
		{"memory_mb", &q->memory_mb}, {"disk_mb", &q->disk_mb},
		{"creates_per_minute", &q->creates}};
	const char *name;
	json_t *value;
	json_object_foreach (quota, name, value) {
		bool known = false;
		for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
			known |= str_eq(name, limits[i].name);
		if (!known)
			return err_set(e, ERR_INVALID, "quota: unknown field '%.60s'", name);
	}
	int rc = 0;
	for (size_t i = 0; i < ARRAY_SIZE(limits) && rc == 0; i++)
		rc = read_limit(quota, limits[i].name, limits[i].out, e);
	return rc;
}

// null: it never expires.
static int read_expiry(const json_t *j, uint64_t *out, struct err *e)
{
	const char *text = json_string_value(j);
	if (json_is_null(j)) {
		*out = 0;
		return 0;
	}
	if (!text || clock_parse_rfc3339(text, out) < 0)
		return err_set(e, ERR_INVALID,
			"expires_at: must be a time as 2026-11-24T03:00:00Z (RFC 3339), or null");
	if (*out <= clock_realtime_ns())
		return err_set(e, ERR_INVALID, "expires_at: is over already");
	return 0;
}

static int read_owner(const char *owner, struct key_info *k, struct err *e)
{
	// A tenant's key without a word about the tenant is one of its own.
	const char *own = !owner && k->scope == KEY_SANDBOXES && !k->owner[0] ? k->name : owner;
	if (own && str_format(k->owner, sizeof k->owner, "%s", own) < 0)
		return err_set(
			e, ERR_INVALID, "owner: is longer than %d bytes", (int)sizeof k->owner - 1);
	if (k->owner[0])
		return check_label("owner", k->owner, e);
	if (k->scope == KEY_SANDBOXES)
		return err_set(e, ERR_INVALID,
			"owner: a key of the scope sandboxes needs one, and sees its sandboxes "
			"alone");
	return 0;
}

// What is not in the body stays as it is in k.
static int read_body(json_t *body, bool new, struct key_info *k, struct err *e)
{
	const char *name = NULL, *scope = NULL, *owner = NULL;
	json_t *expires = NULL, *quota = NULL;
	const struct json_field fields[] = {
		{.name = "name", .type = JF_STRING, .out = &name, .max = 64, .required = new},
		{.name = "scope", .type = JF_STRING, .out = &scope},
		{.name = "owner", .type = JF_STRING, .out = &owner},
		{.name = "expires_at", .type = JF_ANY, .out = &expires},
		{.name = "quota", .type = JF_OBJECT, .out = &quota},
	};
	int rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (rc == 0 && name && (rc = check_label("name", name, e)) == 0)
		snprintf(k->name, sizeof k->name, "%s", name);
	if (rc == 0 && scope && (k->scope = key_scope_parse(scope)) == KEY_SCOPE_MAX)
		rc = err_set(
			e, ERR_INVALID, "scope: '%.40s' is not admin, sandboxes or read", scope);
	if (rc == 0)
		rc = read_owner(owner, k, e);
	if (rc == 0 && expires)
		rc = read_expiry(expires, &k->expires_ns, e);
	return rc == 0 ? read_quota(quota, &k->quota, e) : rc;
}

// --- calls

void keys_create(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_json_ json_t *body = NULL;
	struct key_info info = {.scope = KEY_ADMIN};
	char key[API_KEY_SIZE];
	struct err e = {0};
	if (work_refuse_key(r, "a new key is told once and not kept, so not again either"))
		return;
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = read_body(body, true, &info, &e);
	if (rc == 0) {
		keys_generate(key);
		rc = keys_add(c->keys, key, &info, &e);
	}
	if (rc < 0) {
		reply_error(r, &e);
		return;
	}
	json_t *j = key_json(c, &info);
	json_object_set_new(j, "key", json_string(key));
	http_reply_json(r, 201, j);
	explicit_bzero(key, sizeof key);
}

void keys_list_get(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_free_ struct key_info *list = NULL;
	size_t n = 0;
	struct err e = {0};
	if (keys_list(c->keys, &list, &n, &e) < 0) {
		reply_error(r, &e);
		return;
	}
	json_t *out = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(out, key_json(c, &list[i]));
	http_reply_json(r, 200, json_pack("{s:o}", "keys", out));
}

void keys_get_one(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct key_info info;
	struct err e = {0};
	if (keys_get(c->keys, http_req_param(r, "id"), &info, &e) < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, key_json(c, &info));
}

void keys_change(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_json_ json_t *body = NULL;
	struct key_info info;
	struct err e = {0};
	if (work_refuse_key(r, "asked again it is the same"))
		return;
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = keys_get(c->keys, http_req_param(r, "id"), &info, &e);
	if (rc == 0)
		rc = read_body(body, false, &info, &e);
	if (rc == 0)
		rc = keys_update(c->keys, &info, &e);
	if (rc < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, key_json(c, &info));
}

void keys_delete(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	struct task t = {.op.kind = OPERATION_KEY_DELETE};
	if (http_req_header(r, "Idempotency-Key")) {
		t.op.request = json_pack("{s:s}", "key", http_req_param(r, "id"));
		if (!work_key(c, r, NULL, &t))
			work_run(c, r, &t, NULL, 0);
		task_done(&t);
		return;
	}
	if (keys_remove(c->keys, http_req_param(r, "id"), &e) < 0)
		reply_error(r, &e);
	else
		http_reply_empty(r, 204);
}
