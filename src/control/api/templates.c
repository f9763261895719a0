// SPDX-License-Identifier: Apache-2.0
#include "control/api/templates.h"
#include "control/api/caller.h"
#include "control/api/reply.h"
#include "control/state/render.h"
#include "control/state/templates.h"

static json_t *base_json(const struct host_template *t)
{
	return json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:o, s:n, s:n, s:n, s:n, s:b}",
		"name", t->name, "kind", t->kind, "frozen", t->frozen, "vcpus",
		(json_int_t)t->vcpus, "memory_mb", (json_int_t)t->memory_mb, "min_memory_mb",
		(json_int_t)t->min_memory_mb, "disk_mb", (json_int_t)t->disk_mb, "size_bytes",
		(json_int_t)t->disk_bytes, "created_at", render_time(t->created_ns), "snapshot_id",
		"sandbox_id", "parent", "owner", "public", 1);
}

static json_t *template_json(const struct template *t)
{
	return json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:s, s:s, s:o, s:b}",
		"name", t->name, "kind", "snapshot", "frozen", true, "vcpus", (json_int_t)t->vcpus,
		"memory_mb", (json_int_t)t->memory_mb, "min_memory_mb", (json_int_t)t->memory_mb,
		"disk_mb", (json_int_t)t->disk_mb, "size_bytes",
		(json_int_t)(t->memory_bytes + t->disk_bytes), "created_at",
		render_time(t->created_ns), "snapshot_id", t->snapshot, "sandbox_id", t->sandbox,
		"parent", t->parent, "owner", render_text(t->owner), "public", (int)t->public);
}

void templates_list_all(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_free_ struct host_template *base = NULL;
	_cleanup_free_ struct template *list = NULL;
	size_t n_base = 0, n = 0;
	struct err e = {0};
	int rc = c->host.ops->templates(c->host.host, &base, &n_base, &e);
	if (rc == 0)
		rc = templates_list(c->db, &list, &n, &e);
	if (rc < 0) {
		reply_error(r, &e);
		return;
	}
	json_t *out = json_array();
	for (size_t i = 0; i < n_base; i++)
		json_array_append_new(out, base_json(&base[i]));
	for (size_t i = 0; i < n; i++)
		if (list[i].public || caller_sees(r, list[i].owner))
			json_array_append_new(out, template_json(&list[i]));
	http_reply_json(r, 200, json_pack("{s:o}", "templates", out));
}
