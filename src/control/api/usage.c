// SPDX-License-Identifier: Apache-2.0
#include "control/api/usage.h"
#include "base/id.h"
#include "control/api/context.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/state/render.h"

static int ask(struct control *c, struct http_request *r, struct host_usage *ret,
	struct host_unknown **ret_list, size_t *ret_n)
{
	struct err e = {0};
	int rc = c->host.ops->usage(c->host.host, ret, ret_list, ret_n, &e);
	if (rc < 0)
		reply_error(r, &e);
	return rc;
}

void usage_get(struct http_request *r, void *ctx)
{
	_cleanup_free_ struct host_unknown *list = NULL;
	struct host_usage u;
	size_t n;
	if (ask(ctx, r, &u, &list, &n) < 0)
		return;
	http_reply_json(r, 200,
		json_pack("{s:I, s:I, s:{s:I, s:I}, s:{s:I, s:I}, s:{s:I, s:I, s:I}, s:{s:I}, "
			  "s:{s:I, s:I}}",
			"total_bytes", (json_int_t)u.total_bytes, "free_bytes",
			(json_int_t)u.free_bytes, "sandboxes", "count", (json_int_t)u.sandboxes,
			"bytes", (json_int_t)u.sandbox_bytes, "snapshots", "count",
			(json_int_t)u.snapshots, "bytes", (json_int_t)u.snapshot_bytes, "layers",
			"count", (json_int_t)u.layers, "own_bytes", (json_int_t)u.own_layer_bytes,
			"shared_bytes", (json_int_t)u.shared_layer_bytes, "images", "bytes",
			(json_int_t)u.image_bytes, "unknown", "count", (json_int_t)u.unknown,
			"bytes", (json_int_t)u.unknown_bytes));
}

void usage_get_unknown(struct http_request *r, void *ctx)
{
	_cleanup_free_ struct host_unknown *list = NULL;
	struct host_usage u;
	size_t n;
	if (ask(ctx, r, &u, &list, &n) < 0)
		return;
	json_t *out = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(
			out, json_pack("{s:s, s:o, s:I}", "kind", list[i].kind, "id",
				     render_text(list[i].id), "bytes", (json_int_t)list[i].bytes));
	http_reply_json(r, 200, json_pack("{s:o}", "unknown", out));
}

void usage_remove_unknown(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	char op[UUID_SIZE];
	size_t n = 0;
	if (work_refuse_key(r, "what is removed is not there to be removed again"))
		return;
	id_new_uuid(op);
	if (c->host.ops->remove_unknown(c->host.host, op, &n, &e) < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, json_pack("{s:I}", "removed", (json_int_t)n));
}
