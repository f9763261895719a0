// SPDX-License-Identifier: Apache-2.0
#include "control/api/operations.h"
#include <string.h>
#include "base/str.h"
#include "control/api/find.h"
#include "control/api/caller.h"
#include "control/api/page.h"
#include "control/api/reply.h"
#include "control/state/render.h"
#include "base/json.h"

json_t *operations_json(const struct operation *op)
{
	_cleanup_json_ json_t *children = json_array();
	json_t *list = json_object_get(op->request, "children"), *child;
	size_t i;
	json_array_foreach (list, i, child)
		json_array_append(children, json_object_get(child, "id"));
	json_t *failed = json_null();
	if (op->state == OPERATION_FAILED)
		failed = json_pack("{s:s, s:o}", "code", err_info(op->failed.code)->name, "message",
			render_text(op->failed.text));
	json_t *j = json_pack("{s:s, s:s, s:s, s:o, s:o, s:O, s:o, s:O, s:o, s:o, s:o}", "id",
		op->id, "kind", operation_kind_name(op->kind), "state",
		operation_state_name(op->state), "sandbox_id", render_text(op->sandbox),
		"snapshot_id", render_text(op->snapshot), "children", children, "error", failed,
		"phases", op->phases, "created_at", render_time(op->created_ns), "ended_at",
		render_time(op->ended_ns), "request_id", render_text(op->request_id));
	return j;
}

void operations_get_one(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	const char *id = http_req_param(r, "id");
	_cleanup_operation_ struct operation op = {0};
	struct err e = {0};
	int rc = operations_get(c->db, id, &op, &e);
	if (rc == 0 || (rc == 1 && !caller_sees(r, op.owner)))
		rc = err_set(&e, ERR_NOT_FOUND, "no operation '%.64s'", id);
	if (rc < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, operations_json(&op));
}

void operations_list_get(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	struct page page;
	char sandbox[64];
	struct operation *list = NULL;
	size_t n = 0;
	int rc = page_read(r, &page, &e);
	if (rc == 0)
		rc = find_filter_id(c, r, http_req_query(r, "sandbox"), sandbox, &e);
	// One more than asked for tells whether there is a next page.
	if (rc == 0)
		rc = operations_list(c->db, sandbox[0] ? sandbox : NULL, caller_owner(r),
			page.before, page.limit + 1, &list, &n, &e);
	if (rc < 0) {
		reply_error(r, &e);
		return;
	}
	json_t *out = json_array();
	uint64_t next = n > page.limit ? list[page.limit - 1].created_ns : 0;
	for (size_t i = 0; i < n && i < page.limit; i++)
		json_array_append_new(out, operations_json(&list[i]));
	for (size_t i = 0; i < n; i++)
		operation_done(&list[i]);
	free(list);
	page_reply(r, "operations", out, next);
}
