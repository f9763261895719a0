// SPDX-License-Identifier: Apache-2.0
#include "control/api/snapshots.h"
#include <string.h>
#include "base/str.h"
#include "control/api/answer.h"
#include "control/api/fields.h"
#include "control/api/find.h"
#include "control/api/caller.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/state/render.h"
#include "base/json.h"

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
		return err_set(e, ERR_INVALID, "name: " FIELDS_NAME_RULE);
	return 0;
}

static int refuse_base(struct control *c, const char *name, const char *what, struct err *e)
{
	struct host_template base;
	int r = find_base(c, name, &base, NULL, e);
	return r == 1 ? err_set(e, ERR_CONFLICT, "name: '%s' is an image, %s", name, what) : r;
}

static int prepare(struct control *c, struct http_request *req, const struct create_body *b,
	struct task *t, struct err *e)
{
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	char id[64];
	int r = find_mine(c, req, b->sandbox, id, e);
	if (r == 0)
		r = find_ready(c, id, &row, e);
	if (r == 0)
		r = refuse_base(c, b->name, "which a snapshot cannot replace", e);
	if (r < 0)
		return r;
	id_new_uuid(t->op.snapshot);
	snprintf(t->op.sandbox, sizeof t->op.sandbox, "%s", row->id);
	t->op.request = json_pack("{s:s, s:s, s:b, s:s}", "name", b->name, "parent", row->template,
		"overwrite", b->overwrite, "owner", caller_key(req)->id);
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
		work_run(c, r, &t, NULL, 0);
	if (rc < 0)
		reply_error(r, &e);
	task_done(&t);
}

void snapshots_list(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_free_ struct template *list = NULL;
	size_t n = 0;
	struct err e = {0};
	if (templates_list(c->db, &list, &n, &e) < 0) {
		reply_error(r, &e);
		return;
	}
	json_t *out = json_array();
	for (size_t i = 0; i < n; i++)
		if (list[i].public || caller_sees(r, list[i].owner))
			json_array_append_new(out, answer_snapshot(&list[i]));
	http_reply_json(r, 200, json_pack("{s:o}", "snapshots", out));
}

void snapshots_get(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct template t;
	struct err e = {0};
	if (find_snapshot(c, r, http_req_param(r, "name"), false, &t, &e) < 0) {
		reply_error(r, &e);
		return;
	}
	// The host has it; while it does not answer it is not known.
	struct host_snapshot_check check = {0};
	json_t *answer = answer_snapshot(&t);
	c->host.ops->snapshot_check(c->host.host, t.snapshot, &check, NULL);
	if (answer)
		render_agent(answer, check.agent);
	http_reply_json(r, 200, answer);
}

void snapshots_check(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct template t;
	struct host_snapshot_check check;
	struct err e = {0};
	int rc = find_snapshot(c, r, http_req_param(r, "name"), false, &t, &e);
	if (rc == 0)
		rc = c->host.ops->snapshot_check(c->host.host, t.snapshot, &check, &e);
	if (rc < 0) {
		reply_error(r, &e);
		return;
	}
	json_t *answer = json_pack("{s:s, s:b, s:o, s:o, s:o, s:b}", "name", t.name, "resumes",
		(int)check.resumes, "reason", render_text(check.reason), "runtime",
		render_text(check.runtime), "vmm", render_text(check.vmm), "current",
		(int)check.current);
	if (answer)
		render_agent(answer, check.agent);
	http_reply_json(r, 200, answer);
}

// The name is the old one's until the new one is there.
void snapshots_rewarm(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct task t = {.op.kind = OPERATION_SNAPSHOT};
	struct template known;
	struct err e = {0};
	int rc = work_key(c, r, NULL, &t);
	if (rc == 0 && (rc = find_snapshot(c, r, http_req_param(r, "name"), true, &known, &e)) < 0)
		reply_error(r, &e);
	if (rc == 0) {
		id_new_uuid(t.op.snapshot);
		t.op.request = json_pack("{s:s, s:s, s:b, s:s, s:s, s:s}", "name", known.name,
			"parent", known.parent, "overwrite", 1, "owner", known.api_key, "rewarm",
			known.snapshot, "sandbox", known.sandbox);
		memcpy(t.op.owner, known.owner, sizeof t.op.owner);
		work_run(c, r, &t, NULL, 0);
	}
	task_done(&t);
}

void snapshots_update(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	bool public = false;
	const struct json_field fields[] = {
		{.name = "public", .type = JF_BOOL, .out = &public, .required = true}};
	const char *name = http_req_param(r, "name");
	_cleanup_json_ json_t *body = NULL;
	struct template t;
	struct err e = {0};
	if (work_refuse_key(r, "asked again it is the same"))
		return;
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, &e);
	if (rc == 0)
		rc = templates_publish(c->db, name, public, &e);
	if (rc == 0)
		rc = templates_get(c->db, name, &t, &e);
	if (rc < 0)
		reply_error(r, &e);
	else
		http_reply_json(r, 200, answer_snapshot(&t));
}

void snapshots_delete(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	const char *name = http_req_param(r, "name");
	struct task t = {.op.kind = OPERATION_SNAPSHOT_DELETE};
	struct template known;
	struct err e = {0};
	int rc = work_key(c, r, NULL, &t);
	if (rc == 0 && (rc = find_snapshot(c, r, name, true, &known, &e)) < 0) {
		struct err why = {0};
		if (e.code == ERR_NOT_FOUND &&
			refuse_base(c, name, "and no snapshot: it is not deleted here", &why) < 0)
			e = why;
		reply_error(r, &e);
	}
	if (rc == 0) {
		// Another owner's may have the name by then: that one is not meant.
		t.op.request = caller_owner(r) ? json_pack("{s:s, s:s}", "name", name, "snapshot",
							 known.snapshot)
					       : json_pack("{s:s}", "name", name);
		memcpy(t.op.owner, known.owner, sizeof t.op.owner);
		work_run(c, r, &t, NULL, 0);
	}
	task_done(&t);
}
