// SPDX-License-Identifier: Apache-2.0
// How this works. A snapshot has an id, chosen here and known to the host, and a name, known here
// alone. An operation is noted in control.db before the host is told and struck out when both
// agree (templates.h); what is left over after a crash is settled by snapshots_reconcile, at the
// start and in the upkeep. A deletion takes the name away first, so that nobody starts from what is
// about to go, and is done for the client then: the host is asked until it has followed.
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "control/internal.h"
#include "http/json.h"

static json_t *snapshot_json(const struct template *t)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o}", "name", t->name,
		"kind", "snapshot", "snapshot_id", t->snapshot, "sandbox_id", t->sandbox, "parent",
		t->parent, "vcpus", (json_int_t)t->vcpus, "memory_mb", (json_int_t)t->memory_mb,
		"disk_mb", (json_int_t)t->disk_mb, "memory_bytes", (json_int_t)t->memory_bytes,
		"disk_bytes", (json_int_t)t->disk_bytes, "created_at",
		control_json_time(t->created_ns));
}

// What is noted as to be deleted. A failure leaves it to the upkeep.
static void delete_noted(struct control *c, const char *snapshot)
{
	char op[UUID_SIZE];
	struct err e = {0};
	id_new_uuid(op);
	int r = c->host.ops->snapshot_delete(c->host.host, op, snapshot, &e);
	if (r == 0 || e.code == ERR_NOT_FOUND)
		r = templates_deleted(c->templates, snapshot, &e);
	if (r < 0)
		log_warn(
			"deletion is tried again later snapshot=%s: %s", snapshot, err_text(&e, r));
}

// The host has it: gives it its name, and deletes what had the name.
static int commit(struct control *c, const struct template_op *op, const struct host_snapshot *s,
	struct template *ret, struct err *e)
{
	char old[UUID_SIZE];
	int r = templates_commit(c->templates, op, s, old, ret, e);
	if (r < 0)
		return r;
	log_info("snapshot made name=%s snapshot=%s sandbox=%s", op->name, op->snapshot,
		op->sandbox);
	if (old[0])
		delete_noted(c, old);
	return 0;
}

static void abandon(struct control *c, const struct template_op *op, const char *reason)
{
	struct err e = {0};
	int r = templates_abandon(c->templates, op->snapshot, &e);
	if (r < 0 && e.code == ERR_NOT_FOUND)
		return;
	log_warn("snapshot failed name=%s snapshot=%s sandbox=%s: %s", op->name, op->snapshot,
		op->sandbox, reason);
	if (r == 0) {
		delete_noted(c, op->snapshot);
		return;
	}
	// The note says that it is wanted, and cannot be changed: at least nothing is to be found
	// under it.
	char id[UUID_SIZE];
	log_warn("failure not noted snapshot=%s: %s", op->snapshot, e.text);
	id_new_uuid(id);
	c->host.ops->snapshot_delete(c->host.host, id, op->snapshot, NULL);
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

static int create(struct control *c, const struct create_body *b, struct template *ret,
	struct host_sandbox *ret_source, struct err *e)
{
	_cleanup_(row_unrefp) struct row *row = NULL;
	struct host_snapshot_create req = {0};
	struct host_snapshot s = {0};
	struct template_op op = {.overwrite = b->overwrite};
	int r = sandboxes_find_ready(c, b->sandbox, &row, e);
	if (r == 0)
		r = refuse_base(c, b->name, "which a snapshot cannot replace", e);
	if (r < 0)
		return r;
	id_new_uuid(req.op_id);
	id_new_uuid(req.snapshot);
	snprintf(req.id, sizeof req.id, "%s", row->id);
	memcpy(op.snapshot, req.snapshot, sizeof op.snapshot);
	snprintf(op.name, sizeof op.name, "%s", b->name);
	snprintf(op.sandbox, sizeof op.sandbox, "%s", row->id);
	snprintf(op.parent, sizeof op.parent, "%s", row->template);
	r = templates_begin(c->templates, &op, e);
	if (r == 0) {
		r = c->host.ops->snapshot_create(c->host.host, &req, &s, e);
		if (r == 0)
			r = commit(c, &op, &s, ret, e);
		if (r < 0)
			abandon(c, &op, err_text(e, r));
	}
	templates_end(c->templates, &op);
	if (r == 0 && sandboxes_report(c, row, ret_source, NULL) < 0)
		*ret_source = (struct host_sandbox){0};
	return r;
}

void snapshots_create(struct http_request *r, void *ctx)
{
	struct create_body b = {0};
	struct template t;
	struct host_sandbox source = {0};
	struct err e = {0};
	_cleanup_json_ json_t *body = NULL;
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = read_create(body, &b, &e);
	if (rc == 0)
		rc = create(ctx, &b, &t, &source, &e);
	if (rc < 0) {
		http_reply_error(r, &e);
		return;
	}
	json_t *j = snapshot_json(&t);
	json_object_set_new(j, "phases", control_json_phases(&source));
	http_reply_json(r, 201, j);
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
		json_array_append_new(out, snapshot_json(&list[i]));
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
		http_reply_json(r, 200, snapshot_json(&t));
}

void snapshots_delete(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	const char *name = http_req_param(r, "name");
	char snapshot[UUID_SIZE];
	struct err e = {0};
	int rc = templates_remove(c->templates, name, snapshot, &e);
	if (rc < 0 && e.code == ERR_NOT_FOUND) {
		struct err why = {0};
		if (refuse_base(c, name, "and no snapshot: it is not deleted here", &why) < 0)
			e = why;
	}
	if (rc < 0) {
		http_reply_error(r, &e);
		return;
	}
	log_info("snapshot deleted name=%s snapshot=%s", name, snapshot);
	delete_noted(c, snapshot);
	http_reply_empty(r, 204);
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

// --- upkeep

static const struct host_snapshot *find_snapshot(
	const struct host_snapshot *list, size_t n, const char *id)
{
	for (size_t i = 0; i < n; i++)
		if (str_eq(list[i].id, id))
			return &list[i];
	return NULL;
}

static void settle(struct control *c, const struct template_op *op, const struct host_snapshot *s)
{
	struct template t;
	struct err e = {0};
	if (op->deletes) {
		delete_noted(c, op->snapshot);
		return;
	}
	int r = s ? commit(c, op, s, &t, &e) : err_set(&e, ERR_NOT_FOUND, "it was not made");
	if (r < 0)
		abandon(c, op, e.text);
}

static void delete_unknown(struct control *c, const struct host_snapshot *s)
{
	char op[UUID_SIZE];
	struct err e = {0};
	id_new_uuid(op);
	log_warn("deleting a snapshot that has no name snapshot=%s sandbox=%s", s->id, s->sandbox);
	if (c->host.ops->snapshot_delete(c->host.host, op, s->id, &e) < 0)
		log_warn("deletion is tried again later snapshot=%s: %s", s->id, e.text);
}

void snapshots_reconcile(struct control *c)
{
	_cleanup_free_ struct host_snapshot *host = NULL;
	_cleanup_free_ struct template *named = NULL;
	_cleanup_free_ struct template_op *ops = NULL;
	size_t n_host = 0, n_named = 0, n_ops = 0;
	struct host_info info;
	struct err e = {0};
	// Without its volume the host cannot tell what there is.
	if (c->host.ops->info(c->host.host, &info, &e) < 0 || !info.volume_ok)
		return;
	// The host first: all that it knows then is in the database by now, by name or as an
	// operation, unless nobody knows of it.
	int r = c->host.ops->snapshots(c->host.host, &host, &n_host, &e);
	if (r == 0)
		r = templates_state(c->templates, &named, &n_named, &ops, &n_ops, &e);
	if (r < 0) {
		log_warn("snapshots are not looked after: %s", e.text);
		return;
	}
	for (size_t i = 0; i < n_ops; i++)
		if (!templates_is_active(c->templates, ops[i].snapshot))
			settle(c, &ops[i], find_snapshot(host, n_host, ops[i].snapshot));
	for (size_t i = 0; i < n_host; i++) {
		bool known = !str_eq(host[i].kind, "template");
		for (size_t k = 0; k < n_named && !known; k++)
			known = str_eq(named[k].snapshot, host[i].id);
		for (size_t k = 0; k < n_ops && !known; k++)
			known = str_eq(ops[k].snapshot, host[i].id);
		if (!known)
			delete_unknown(c, &host[i]);
	}
	for (size_t k = 0; k < n_named; k++)
		if (!find_snapshot(host, n_host, named[k].snapshot))
			log_debug("the host lacks a snapshot name=%s snapshot=%s", named[k].name,
				named[k].snapshot);
}
