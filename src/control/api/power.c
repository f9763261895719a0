// SPDX-License-Identifier: Apache-2.0
#include "control/api/power.h"
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "control/api/fields.h"
#include "control/api/find.h"
#include "control/api/caller.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "base/json.h"

// --- pause

void power_pause(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct host_sandbox s;
	struct err e = {0};
	struct task t = {.op.kind = OPERATION_PAUSE};
	char id[64];
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, NULL, 0, false, &e);
	if (rc == 0)
		rc = work_key(c, r, body, &t);
	find_path_id(c, r, id);
	if (rc == 0)
		rc = find_ready(c, id, &row, &e);
	if (rc == 0)
		rc = find_report(c, row, &s, &e);
	if (rc == 0 && s.state == SANDBOX_PAUSED)
		rc = err_set(&e, ERR_CONFLICT, "sandbox '%s' is paused already", row->id);
	if (rc == 0) {
		snprintf(t.op.sandbox, sizeof t.op.sandbox, "%s", row->id);
		work_run(c, r, &t, NULL, 0);
	}
	if (rc < 0)
		reply_error(r, &e);
	task_done(&t);
}

// --- resume

struct resume_body {
	uint64_t timeout_sec;
	bool has_timeout, disk_only;
	const char *from;
};

static int read_resume(json_t *body, struct resume_body *b, struct err *e)
{
	const struct json_field fields[] = {
		{.name = "timeout_sec",
			.type = JF_U64,
			.out = &b->timeout_sec,
			.max = FIELDS_MAX_TIMEOUT_SEC,
			.present = &b->has_timeout},
		{.name = "from", .type = JF_STRING, .out = &b->from, .max = 63},
		{.name = "disk_only", .type = JF_BOOL, .out = &b->disk_only},
	};
	int r = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (r == 0 && b->from && !id_is_name(b->from))
		return err_set(e, ERR_INVALID, "from: " FIELDS_NAME_RULE);
	return r;
}

static int find_own_snapshot(struct control *c, const struct http_request *req,
	const struct sandbox_row *row, const char *name, char snapshot[UUID_SIZE], struct err *e)
{
	struct template t;
	int r = find_snapshot(c, req, name, false, &t, e);
	if (r < 0)
		return err_prefix(e, r, "from");
	if (!str_eq(t.sandbox, row->id))
		return err_set(e, ERR_INVALID,
			"from: snapshot '%s' is of sandbox '%s': create a sandbox from it instead",
			name, t.sandbox);
	memcpy(snapshot, t.snapshot, UUID_SIZE);
	return 0;
}

static int prepare_resume(struct control *c, const struct http_request *req,
	struct sandbox_row *row, const struct resume_body *b, struct task *t, struct err *e)
{
	struct host_sandbox s;
	char from[UUID_SIZE] = "";
	int r = b->from ? find_own_snapshot(c, req, row, b->from, from, e) : 0;
	if (r == 0)
		r = find_report(c, row, &s, e);
	if (r < 0)
		return r;
	if (s.state == SANDBOX_RUNNING && !b->from)
		return err_set(e, ERR_CONFLICT,
			"sandbox '%s' is running: there is nothing to resume", row->id);
	uint64_t ends_at = fields_ends_at(b->has_timeout ? b->timeout_sec : row->timeout_sec);
	t->op.kind = b->from ? OPERATION_ROLLBACK : OPERATION_RESUME;
	snprintf(t->op.sandbox, sizeof t->op.sandbox, "%s", row->id);
	t->op.request = json_pack("{s:s, s:b, s:I}", "from", from, "disk_only", b->disk_only,
		"ends_at", (json_int_t)ends_at);
	return t->op.request ? 0 : err_errno(e, ENOMEM, "resume");
}

void power_resume(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct resume_body b = {0};
	struct task t = {0};
	char id[64];
	struct err e = {0};
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0)
		rc = read_resume(body, &b, &e);
	if (rc == 0)
		rc = work_key(c, r, body, &t);
	find_path_id(c, r, id);
	if (rc == 0)
		rc = find_ready(c, id, &row, &e);
	if (rc == 0)
		rc = prepare_resume(c, r, row, &b, &t, &e);
	// Processors and memory count again from here on; while it was paused only its disk did.
	if (rc == 0)
		rc = rows_begin_resume(c->rows, row, caller_key(r), &e);
	if (rc == 0) {
		work_run(c, r, &t, NULL, 0);
		rows_end_resume(c->rows, row);
		if (task_is_done(&t))
			row->ready_ns = clock_monotonic_ns();
	}
	if (rc < 0)
		reply_error(r, &e);
	task_done(&t);
}
