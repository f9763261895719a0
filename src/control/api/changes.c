// SPDX-License-Identifier: Apache-2.0
#include "control/api/changes.h"
#include <string.h>
#include "base/str.h"
#include "control/api/fields.h"
#include "control/api/find.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "base/json.h"

void sandboxes_set_timeout(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	uint64_t sec = 0;
	const struct json_field fields[] = {{.name = "timeout_sec",
		.type = JF_U64,
		.out = &sec,
		.max = FIELDS_MAX_TIMEOUT_SEC,
		.required = true}};
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	struct task t = {.op.kind = OPERATION_SET_TIMEOUT};
	struct host_sandbox s = {0};
	char id[64];
	struct err e = {0};
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, &e);
	if (rc == 0)
		rc = work_key(c, r, body, &t);
	find_path_id(c, r, id);
	if (rc == 0)
		rc = find_live(c, id, &row, &e);
	if (rc == 0)
		rc = find_report(c, row, &s, &e);
	if (rc == 0 && row_ended(row))
		rc = find_say_ended(&s, &e);
	// Its time does not run, and the next resume gives it a new one.
	if (rc == 0 && s.state == SANDBOX_PAUSED)
		rc = err_set(&e, ERR_CONFLICT,
			"sandbox '%s' is paused: resume it with the time-out it shall have",
			row->id);
	if (rc == 0) {
		snprintf(t.op.sandbox, sizeof t.op.sandbox, "%s", row->id);
		t.op.request = json_pack("{s:I}", "ends_at", (json_int_t)fields_ends_at(sec));
		work_run(c, r, &t, NULL, 0);
	}
	if (rc < 0)
		reply_error(r, &e);
	task_done(&t);
}

static int read_update(json_t *body, struct err *e)
{
	json_t *name = NULL, *metadata = NULL, *on_timeout = NULL;
	enum on_timeout parsed;
	const struct json_field fields[] = {
		{.name = "name", .type = JF_ANY, .out = &name},
		{.name = "metadata", .type = JF_ANY, .out = &metadata},
		{.name = "on_timeout", .type = JF_ANY, .out = &on_timeout},
	};
	int r = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (r < 0)
		return r;
	if (name && !json_is_null(name)) {
		const char *text = json_string_value(name);
		if (!text || strlen(text) != json_string_length(name))
			return err_set(e, ERR_INVALID, "name: must be a string, or null for none");
		if ((r = fields_check_name(text, e)) < 0)
			return r;
	}
	if (on_timeout) {
		const char *text = json_string_value(on_timeout);
		if ((r = fields_on_timeout(text ? text : "", &parsed, e)) < 0)
			return r;
	}
	return fields_check_patch(metadata, e);
}

void sandboxes_update(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	struct task t = {.op.kind = OPERATION_UPDATE};
	struct host_sandbox s;
	struct err e = {0};
	char id[64];
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = read_update(body, &e);
	if (rc == 0)
		rc = work_key(c, r, body, &t);
	find_path_id(c, r, id);
	if (rc == 0)
		rc = find_running(c, id, &row, &s, &e);
	if (rc == 0) {
		snprintf(t.op.sandbox, sizeof t.op.sandbox, "%s", row->id);
		t.op.request = json_incref(body);
		work_run(c, r, &t, NULL, 0);
	}
	if (rc < 0)
		reply_error(r, &e);
	task_done(&t);
}
