// SPDX-License-Identifier: Apache-2.0
#include "control/api/runtimes.h"
#include "base/id.h"
#include "base/str.h"
#include "control/api/context.h"
#include "control/api/reply.h"
#include "control/state/render.h"

static json_t *runtime_json(const struct host_runtime *x)
{
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:b, s:b, s:o, s:o, s:o, s:I, s:o, s:o}", "id",
		x->id, "program", render_text(x->program), "version", render_text(x->version),
		"package", render_text(x->package), "state_format", render_text(x->state_format),
		"current", (int)x->current, "denied", (int)x->denied, "refused",
		render_text(x->refused), "first_used_at", render_time(x->first_ns), "last_used_at",
		render_time(x->last_ns), "snapshots", (json_int_t)x->snapshots,
		"oldest_snapshot_at", render_time(x->oldest_ns), "newest_snapshot_at",
		render_time(x->newest_ns));
}

static json_t *list_json(const struct host_runtime *list, size_t n, bool current_too)
{
	json_t *out = json_array();
	for (size_t i = 0; i < n; i++)
		if (current_too || !list[i].current)
			json_array_append_new(out, runtime_json(&list[i]));
	return out;
}

json_t *runtimes_kept_json(struct control *c)
{
	_cleanup_free_ struct host_runtime *list = NULL;
	size_t n = 0;
	struct err e = {0};
	if (c->host.ops->runtimes(c->host.host, &list, &n, &e) < 0)
		return json_null();
	return list_json(list, n, false);
}

void runtimes_list_get(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_free_ struct host_runtime *list = NULL;
	size_t n = 0;
	struct err e = {0};
	if (c->host.ops->runtimes(c->host.host, &list, &n, &e) < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, json_pack("{s:o}", "runtimes", list_json(list, n, true)));
}

// What is known of it afterwards.
static void reply_one(struct control *c, struct http_request *r, const char *id)
{
	_cleanup_free_ struct host_runtime *list = NULL;
	size_t n = 0, i = 0;
	struct err e = {0};
	if (c->host.ops->runtimes(c->host.host, &list, &n, &e) < 0) {
		reply_error(r, &e);
		return;
	}
	while (i < n && !str_eq(list[i].id, id))
		i++;
	http_reply_json(r, 200,
		i < n ? runtime_json(&list[i]) : json_pack("{s:s, s:n}", "id", id, "program"));
}

static void set_denied(struct control *c, struct http_request *r, bool on)
{
	const char *id = http_req_param(r, "id");
	char op[UUID_SIZE];
	struct err e = {0};
	id_new_uuid(op);
	if (c->host.ops->runtime_deny(c->host.host, op, id, on, &e) < 0)
		reply_error(r, &e);
	else
		reply_one(c, r, id);
}

void runtimes_deny(struct http_request *r, void *ctx)
{
	set_denied(ctx, r, true);
}

void runtimes_allow(struct http_request *r, void *ctx)
{
	set_denied(ctx, r, false);
}
