// SPDX-License-Identifier: Apache-2.0
#include "control/engine/power.h"
#include <string.h>
#include "base/log.h"

int pause_ask(struct engine *en, struct task *t)
{
	return en->host.ops->pause(en->host.host, t->op.id, t->op.sandbox, &t->info, &t->e);
}

static int resume(struct engine *en, struct task *t, const char *from)
{
	char token[SHA256_HEX_SIZE];
	struct err why = {0};
	uint64_t epoch =
		t->row ? t->row->token_epoch : 0; // before the token: told is never too much
	struct host_resume req = {.disk_only = task_flag(t, "disk_only"),
		.ends_at_ns = task_number(t, "ends_at"),
		.token = token};
	rows_token(en->rows, t->op.sandbox, token);
	memcpy(req.op_id, t->op.id, sizeof req.op_id);
	snprintf(req.id, sizeof req.id, "%s", t->op.sandbox);
	snprintf(req.from, sizeof req.from, "%s", from);
	int rc = en->host.ops->resume(en->host.host, &req, &t->info, &t->e);
	if (rc == 0 && t->row && rows_token_told(en->rows, t->row, epoch, &why) < 0)
		log_warn("the agent is told its token again later sandbox=%s: %s", t->op.sandbox,
			why.text);
	return rc;
}

int resume_ask(struct engine *en, struct task *t)
{
	return resume(en, t, "");
}

int rollback_ask(struct engine *en, struct task *t)
{
	return resume(en, t, task_text(t, "from"));
}
