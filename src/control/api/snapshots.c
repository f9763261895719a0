// SPDX-License-Identifier: Apache-2.0
// Snapshots have an id, chosen here and known to the host, and a name, known here alone. A deletion
// takes the name away first, so that nobody starts from what is about to go, and is done for the
// client then: the host is asked until it has followed. What a crash or a failing host leaves half
// done is the reconciler's (look.c).
#include <string.h>
#include "control/internal.h"
#include "http/json.h"

json_t *snapshots_json(const struct template *t)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o}", "name", t->name,
		"kind", "snapshot", "snapshot_id", t->snapshot, "sandbox_id", t->sandbox, "parent",
		t->parent, "vcpus", (json_int_t)t->vcpus, "memory_mb", (json_int_t)t->memory_mb,
		"disk_mb", (json_int_t)t->disk_mb, "memory_bytes", (json_int_t)t->memory_bytes,
		"disk_bytes", (json_int_t)t->disk_bytes, "created_at",
		control_json_time(t->created_ns));
}

// --- calls

struct create_body {
	const char *sandbox, *name;
	bool overwrite;
};

static int read_create(json_t *body, struct create_body *b, struct err *e)
{
	const struct json_field fields[] = {
		{.name = "sandbox_id", .type = JF_STRING, .out = &b->sandbox, .required = true},
		{.name = "name", .type = JF_STRING, .out = &b->name, .max = 63, .required = true},
		{.name = "overwrite", .type = JF_BOOL, .out = &b->overwrite},
	};
	int r = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (r < 0)
		return r;
	if (!id_is_name(b->name))
		return err_set(e, ERR_INVALID, "name: " NAME_RULE);
	return 0;
}

static int refuse_base(struct control *c, const char *name, const char *what, struct err *e)
{
	struct host_template base;
	int r = sandboxes_find_base(c, name, &base, NULL, e);
	return r == 1 ? err_set(e, ERR_CONFLICT, "name: '%s' is an image, %s", name, what) : r;
}

static int prepare(struct control *c, struct http_request *req, const struct create_body *b,
	struct task *t, struct err *e)
{
	_cleanup_(row_unrefp) struct row *row = NULL;
	char id[64];
	sandboxes_resolve(c, req, b->sandbox, id);
	int r = sandboxes_find_ready(c, id, &row, e);
	if (r == 0)
		r = refuse_base(c, b->name, "which a snapshot cannot replace", e);
	if (r < 0)
		return r;
	id_new_uuid(t->op.snapshot);
	snprintf(t->op.sandbox, sizeof t->op.sandbox, "%s", row->id);
	t->op.request = json_pack("{s:s, s:s, s:b}", "name", b->name, "parent", row->template,
		"overwrite", b->overwrite);
	return t->op.request ? 0 : err_errno(e, ENOMEM, "snapshot");
}

void snapshots_create(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct create_body b = {0};
	struct task t = {.op.kind = OPERATION_SNAPSHOT};
	struct err e = {0};
	_cleanup_json_ json_t *body = NULL;
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = read_create(body, &b, &e);
	if (rc == 0)
		rc = work_key(c, r, body, &t);
	if (rc == 0)
		rc = prepare(c, r, &b, &t, &e);
	if (rc == 0)
		work_run(c, r, &t);
	if (rc < 0)
		http_reply_error(r, &e);
	task_done(&c->engine, &t);
}

void snapshots_list(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_free_ struct template *list = NULL;
	size_t n = 0;
	struct err e = {0};
	if (templates_list(c->templates, &list, &n, &e) < 0) {
		http_reply_error(r, &e);
		return;
	}
	json_t *out = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(out, snapshots_json(&list[i]));
	http_reply_json(r, 200, json_pack("{s:o}", "snapshots", out));
}

void snapshots_get(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct template t;
	struct err e = {0};
	if (templates_get(c->templates, http_req_param(r, "name"), &t, &e) < 0)
		http_reply_error(r, &e);
	else
		http_reply_json(r, 200, snapshots_json(&t));
}

void snapshots_delete(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	const char *name = http_req_param(r, "name");
	struct task t = {.op.kind = OPERATION_SNAPSHOT_DELETE};
	struct template known;
	struct err e = {0};
	int rc = work_key(c, r, NULL, &t);
	if (rc == 0 && (rc = templates_get(c->templates, name, &known, &e)) < 0) {
		struct err why = {0};
		if (e.code == ERR_NOT_FOUND &&
			refuse_base(c, name, "and no snapshot: it is not deleted here", &why) < 0)
			e = why;
		http_reply_error(r, &e);
	}
	if (rc == 0) {
		t.op.request = json_pack("{s:s}", "name", name);
		work_run(c, r, &t);
	}
	task_done(&c->engine, &t);
}

static json_t *base_json(const struct host_template *t)
{
	return json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:o, s:n, s:n, s:n}", "name",
		t->name, "kind", t->kind, "frozen", t->frozen, "vcpus", (json_int_t)t->vcpus,
		"memory_mb", (json_int_t)t->memory_mb, "min_memory_mb",
		(json_int_t)t->min_memory_mb, "disk_mb", (json_int_t)t->disk_mb, "size_bytes",
		(json_int_t)t->disk_bytes, "created_at", control_json_time(t->created_ns),
		"snapshot_id", "sandbox_id", "parent");
}

static json_t *template_json(const struct template *t)
{
	return json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:s, s:s}", "name",
		t->name, "kind", "snapshot", "frozen", true, "vcpus", (json_int_t)t->vcpus,
		"memory_mb", (json_int_t)t->memory_mb, "min_memory_mb", (json_int_t)t->memory_mb,
		"disk_mb", (json_int_t)t->disk_mb, "size_bytes",
		(json_int_t)(t->memory_bytes + t->disk_bytes), "created_at",
		control_json_time(t->created_ns), "snapshot_id", t->snapshot, "sandbox_id",
		t->sandbox, "parent", t->parent);
}

void snapshots_list_templates(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_free_ struct host_template *base = NULL;
	_cleanup_free_ struct template *list = NULL;
	size_t n_base = 0, n = 0;
	struct err e = {0};
	int rc = c->host.ops->templates(c->host.host, &base, &n_base, &e);
	if (rc == 0)
		rc = templates_list(c->templates, &list, &n, &e);
	if (rc < 0) {
		http_reply_error(r, &e);
		return;
	}
	json_t *out = json_array();
	for (size_t i = 0; i < n_base; i++)
		json_array_append_new(out, base_json(&base[i]));
	for (size_t i = 0; i < n; i++)
		json_array_append_new(out, template_json(&list[i]));
	http_reply_json(r, 200, json_pack("{s:o}", "templates", out));
}
