// SPDX-License-Identifier: Apache-2.0
#include "control/api/usage.h"
#include "base/id.h"
#include "base/str.h"
#include "control/api/context.h"
#include "control/api/find.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/state/render.h"
#include "control/state/templates.h"

static bool client_is_gone(void *ctx)
{
	return http_req_aborted(ctx) || http_req_closing(ctx);
}

static int ask(
	struct control *c, struct http_request *r, const char *of, struct host_usage_report *ret)
{
	struct err e = {0};
	const struct host_usage_ask how = {.of = of, .stop = client_is_gone, .ctx = r};
	int rc = c->host.ops->usage(c->host.host, &how, ret, &e);
	if (rc < 0)
		reply_error(r, &e);
	return rc;
}

// --- names: the host knows ids alone

struct named {
	struct control *c;
	struct template *list;
	size_t n;
};

static void put_name(const struct named *names, json_t *j, const char *kind, const char *id)
{
	char name[64] = "";
	_cleanup_(row_unrefp) struct sandbox_row *row =
		str_eq(kind, "sandbox") ? rows_get(names->c->rows, id) : NULL;
	if (row)
		row_get_name(row, name);
	for (size_t i = 0; i < names->n && str_eq(kind, "snapshot"); i++)
		if (str_eq(names->list[i].snapshot, id))
			snprintf(name, sizeof name, "%s", names->list[i].name);
	json_object_set_new(j, "name", render_text(str_eq(kind, "image") ? id : name));
	json_object_set_new(j, "state",
		row && !row_ended(row) ? json_string(row_state_name(row->now)) : json_null());
}

static json_t *item_json(const struct named *names, const struct host_usage_item *x)
{
	json_t *j = json_pack("{s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:I}", "kind", x->kind, "id",
		render_text(x->id), "bytes", (json_int_t)x->bytes, "unique_bytes",
		(json_int_t)x->unique_bytes, "shared_bytes",
		(json_int_t)(x->bytes - MIN(x->unique_bytes, x->bytes)), "frees_bytes",
		(json_int_t)x->frees_bytes, "memory_bytes", (json_int_t)x->memory_bytes, "layers",
		(json_int_t)x->layers);
	put_name(names, j, x->kind, x->id);
	return j;
}

static json_t *shares_json(const struct named *names, const struct host_usage_report *u)
{
	json_t *out = json_array();
	for (size_t i = 0; i < u->n_shares; i++) {
		const struct host_usage_share *x = &u->shares[i];
		json_t *j = json_pack("{s:s, s:o, s:I}", "kind", x->kind, "id", render_text(x->id),
			"bytes", (json_int_t)x->bytes);
		put_name(names, j, x->kind, x->id);
		json_array_append_new(out, j);
	}
	return out;
}

static json_t *bytes_json(uint64_t bytes)
{
	return json_pack("{s:I}", "bytes", (json_int_t)bytes);
}

static json_t *count_json(uint64_t count, uint64_t bytes)
{
	return json_pack("{s:I, s:I}", "count", (json_int_t)count, "bytes", (json_int_t)bytes);
}

static json_t *sum_json(const struct host_usage *u)
{
	return json_pack("{s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
			 "s:{s:I, s:I, s:I}, s:b}",
		"total_bytes", (json_int_t)u->total_bytes, "free_bytes", (json_int_t)u->free_bytes,
		"used_bytes", (json_int_t)u->used_bytes, "sandboxes",
		count_json(u->sandboxes, u->sandbox_bytes), "snapshots",
		count_json(u->snapshots, u->snapshot_bytes), "images",
		count_json(u->images, u->image_bytes), "shared", bytes_json(u->shared_bytes),
		"programs", bytes_json(u->program_bytes), "databases",
		bytes_json(u->database_bytes), "pending", bytes_json(u->pending_bytes), "unknown",
		count_json(u->unknown, u->unknown_bytes), "other", bytes_json(u->other_bytes),
		"layers", "count", (json_int_t)u->layers, "own_bytes",
		(json_int_t)u->own_layer_bytes, "shared_bytes", (json_int_t)u->shared_layer_bytes,
		"estimated", u->estimated);
}

// What a client calls a sandbox, a snapshot or an image, as the host does.
static void host_id(
	const struct named *names, struct http_request *r, const char *text, char id[64])
{
	find_id(names->c, r, text, id);
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(names->c->rows, id);
	for (size_t i = 0; i < names->n && !row; i++)
		if (str_eq(names->list[i].name, text))
			snprintf(id, 64, "%s", names->list[i].snapshot);
}

void usage_get(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	const char *of = http_req_query(r, "of");
	struct named names = {.c = c};
	struct host_usage_report u = {0};
	struct err e = {0};
	char id[64] = "";
	if (templates_list(c->db, &names.list, &names.n, &e) < 0) {
		reply_error(r, &e);
		return;
	}
	if (of)
		host_id(&names, r, of, id);
	if (of && !*id)
		reply_error(r, (err_set(&e, ERR_INVALID, "of: is empty"), &e));
	else if (ask(c, r, id, &u) == 0) {
		json_t *j = sum_json(&u.sum), *items = json_array();
		for (size_t i = 0; i < u.n_items; i++)
			if (!of || str_eq(u.items[i].id, id))
				json_array_append_new(items, item_json(&names, &u.items[i]));
		json_object_set_new(j, "items", items);
		json_object_set_new(j, "left_out", json_integer((json_int_t)u.sum.left_out));
		if (of)
			json_object_set_new(j, "shared_with", shares_json(&names, &u));
		http_reply_json(r, 200, j);
	}
	host_usage_report_done(&u);
	free(names.list);
}

void usage_get_unknown(struct http_request *r, void *ctx)
{
	struct host_usage_report u = {0};
	if (ask(ctx, r, NULL, &u) < 0)
		return;
	json_t *out = json_array();
	for (size_t i = 0; i < u.n_unknown; i++)
		json_array_append_new(out, json_pack("{s:s, s:o, s:I}", "kind", u.unknown[i].kind,
						   "id", render_text(u.unknown[i].id), "bytes",
						   (json_int_t)u.unknown[i].bytes));
	http_reply_json(r, 200, json_pack("{s:o}", "unknown", out));
	host_usage_report_done(&u);
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
