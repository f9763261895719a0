// SPDX-License-Identifier: Apache-2.0
#include "control/api/keys.h"
#include <string.h>
#include "control/api/context.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/state/render.h"
#include "base/json.h"

static json_t *key_json(const struct key_info *k)
{
	return json_pack("{s:s, s:s, s:s, s:o, s:o}", "id", k->id, "name", k->name, "prefix",
		k->prefix, "created_at", render_time(k->created_ns), "last_used_at",
		render_time(k->last_used_ns));
}

void keys_create(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	const char *name = NULL;
	const struct json_field fields[] = {
		{.name = "name", .type = JF_STRING, .out = &name, .max = 64, .required = true}};
	_cleanup_json_ json_t *body = NULL;
	struct key_info info;
	char key[API_KEY_SIZE];
	struct err e = {0};
	if (work_refuse_key(r, "a new key is told once and not kept, so not again either"))
		return;
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, &e);
	for (const char *p = name; rc == 0 && (p == name || *p); p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			rc = err_set(&e, ERR_INVALID,
				"name: must not be empty or hold control characters");
	if (rc == 0) {
		keys_generate(key);
		rc = keys_add(c->keys, name, key, &info, &e);
	}
	if (rc < 0) {
		reply_error(r, &e);
		return;
	}
	json_t *j = key_json(&info);
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
		json_array_append_new(out, key_json(&list[i]));
	http_reply_json(r, 200, json_pack("{s:o}", "keys", out));
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
