// SPDX-License-Identifier: Apache-2.0
#include "control/api/reconcile.h"
#include "control/api/context.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/engine/catchup.h"
#include "control/engine/upkeep.h"
#include "control/state/render.h"
#include "base/json.h"

void reconcile_now(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	bool dry = false;
	const struct json_field fields[] = {{.name = "dry_run", .type = JF_BOOL, .out = &dry}};
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(look_freep) struct look *l = NULL;
	struct err e = {0};
	if (work_refuse_key(r, "a look at the host has no answer to be given again"))
		return;
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, fields, ARRAY_SIZE(fields), false, &e);
	if (rc == 0)
		rc = engine_look(&c->engine, dry, &l, &e);
	if (rc < 0) {
		reply_error(r, &e);
		return;
	}
	if (!dry)
		engine_apply(&c->engine, l);
	const struct reconcile_action *a = l->actions;
	json_t *out = json_array();
	for (size_t i = 0; i < l->n_actions; i++)
		json_array_append_new(
			out, json_pack("{s:s, s:o, s:o, s:o, s:s}", "action",
				     reconcile_kind_name(a[i].kind), "id", render_text(a[i].id),
				     "operation", render_text(a[i].op), "cause",
				     render_text(a[i].cause), "reason", a[i].reason));
	http_reply_json(r, 200, json_pack("{s:b, s:o}", "dry_run", dry, "actions", out));
}
