// SPDX-License-Identifier: Apache-2.0
#include "control/api/answer.h"
#include <string.h>
#include "base/str.h"
#include "control/api/find.h"
#include "control/state/port_access.h"
#include "control/state/render.h"
#include "base/json.h"

json_t *answer_snapshot(const struct template *t)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:b}",
		"name", t->name, "kind", "snapshot", "snapshot_id", t->snapshot, "sandbox_id",
		t->sandbox, "parent", t->parent, "vcpus", (json_int_t)t->vcpus, "memory_mb",
		(json_int_t)t->memory_mb, "disk_mb", (json_int_t)t->disk_mb, "memory_bytes",
		(json_int_t)t->memory_bytes, "disk_bytes", (json_int_t)t->disk_bytes, "created_at",
		render_time(t->created_ns), "owner", render_text(t->owner), "public",
		(int)t->public);
}

json_t *answer_of_child(const struct task *t, size_t i)
{
	const struct task_child *c = &t->children[i];
	const char *id = json_string_value(json_object_get(
		json_array_get(json_object_get(t->op.request, "children"), i), "id"));
	if (c->fate == CHILD_ALIVE && c->row) {
		// A child that was found by the journal alone has no report: what is known is told.
		struct host_sandbox s = c->info;
		if (!s.id[0])
			s.state = c->row->now == ROW_PAUSED ? SANDBOX_PAUSED : SANDBOX_RUNNING;
		return render_sandbox(c->row, &s);
	}
	return json_pack("{s:{s:s, s:o}, s:s}", "error", "code", err_info(c->e.code)->name,
		"message", render_text(c->e.text), "id", id ? id : "");
}

static json_t *children(const struct task *t)
{
	json_t *list = json_array();
	for (size_t i = 0; i < t->n_children; i++)
		json_array_append_new(list, answer_of_child(t, i));
	return json_pack("{s:o}", "children", list);
}

static json_t *made_snapshot(const struct task *t)
{
	static const struct host_sandbox none;
	const struct host_sandbox *s = t->has_info ? &t->info : &none;
	json_t *j = answer_snapshot(&t->template);
	json_object_set_new(j, "phases", render_phases(s));
	json_object_set_new(
		j, "memory_written_bytes", json_integer((json_int_t)s->memory_written_bytes));
	json_object_set_new(j, "memory_kept_bytes", json_integer((json_int_t)s->memory_kept_bytes));
	return j;
}

static json_t *sandbox(const struct task *t)
{
	return t->row ? render_sandbox(t->row, &t->info) : NULL;
}

static const struct {
	int status;
	json_t *(*body)(const struct task *t); // NULL: none
} answers[OPERATION_KIND_MAX] = {
	[OPERATION_CREATE] = {201, sandbox},
	[OPERATION_PAUSE] = {200, sandbox},
	[OPERATION_RESUME] = {200, sandbox},
	[OPERATION_ROLLBACK] = {200, sandbox},
	[OPERATION_FORK] = {200, children},
	[OPERATION_SNAPSHOT] = {201, made_snapshot},
	[OPERATION_SNAPSHOT_DELETE] = {204},
	[OPERATION_DESTROY] = {204},
	[OPERATION_SET_TIMEOUT] = {200, sandbox},
	[OPERATION_KEY_DELETE] = {204},
	[OPERATION_UPDATE] = {200, sandbox},
};

json_t *answer_of(const struct task *t, int *ret_status)
{
	if (!task_is_done(t)) {
		struct err e = t->e;
		find_say_cause(t->row, &e);
		*ret_status = err_info(e.code)->http_status;
		return http_error_json(&e);
	}
	*ret_status = answers[t->op.kind].status;
	return answers[t->op.kind].body ? answers[t->op.kind].body(t) : NULL;
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
	json_object_set_new(sandbox, "port_token", json_string(""));
}

json_t *answer_to_keep(const struct task *t, int *ret_status)
{
	json_t *body = answer_of(t, ret_status);
	each_sandbox(body, hide, NULL);
	return body;
}

// The port token is the one that counts now; what is forgotten has none.
static void show(void *ctx, json_t *sandbox)
{
	char token[SHA256_HEX_SIZE];
	const char *id = json_string_value(json_object_get(sandbox, "id"));
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(ctx, id ? id : "");
	rows_token(ctx, id ? id : "", token);
	json_object_set_new(sandbox, "envd_token", json_string(token));
	if (row) {
		port_access_token(row, token);
		json_object_set_new(sandbox, "port_token", json_string(token));
	}
}

void answer_show_tokens(json_t *body, struct rows *rows)
{
	each_sandbox(body, show, rows);
}
