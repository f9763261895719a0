// SPDX-License-Identifier: Apache-2.0
#include "control/api/token.h"
#include "base/json.h"
#include "control/api/find.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "control/engine/tokens.h"
#include "control/state/render.h"

void token_rotate(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	_cleanup_json_ json_t *body = NULL;
	struct host_sandbox s;
	struct err e = {0};
	bool told = false;
	char id[64];
	if (work_refuse_key(r, "asked again it makes another token"))
		return;
	find_path_id(c, r, id);
	int rc = http_req_json(r, true, &body, &e);
	if (rc == 0)
		rc = json_read_fields(body, NULL, 0, false, &e);
	if (rc == 0)
		rc = find_running(c, id, &row, &s, &e);
	if (rc == 0)
		rc = engine_rotate_token(&c->engine, row, &told, &e);
	json_t *j = rc == 0 ? render_sandbox(row, &s) : NULL;
	if (rc == 0 && !j)
		rc = err_set(&e, ERR_INTERNAL, "sandbox %s cannot be shown", id);
	if (rc < 0) {
		reply_error(r, &e);
		return;
	}
	json_object_set_new(j, "agent_told", json_boolean(told));
	http_reply_json(r, 200, j);
}
