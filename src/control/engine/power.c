// SPDX-License-Identifier: Apache-2.0
#include "control/engine/power.h"
#include <string.h>

int pause_ask(struct engine *en, struct task *t)
{
	return en->host.ops->pause(en->host.host, t->op.id, t->op.sandbox, &t->info, &t->e);
}

static int resume(struct engine *en, struct task *t, const char *from)
{
	char token[SHA256_HEX_SIZE];
	struct host_resume req = {.disk_only = task_flag(t, "disk_only"),
		.ends_at_ns = task_number(t, "ends_at"),
		.token = token};
	rows_token(en->rows, t->op.sandbox, token);
	memcpy(req.op_id, t->op.id, sizeof req.op_id);
	snprintf(req.id, sizeof req.id, "%s", t->op.sandbox);
	snprintf(req.from, sizeof req.from, "%s", from);
	return en->host.ops->resume(en->host.host, &req, &t->info, &t->e);
}

int resume_ask(struct engine *en, struct task *t)
{
	return resume(en, t, "");
}

int rollback_ask(struct engine *en, struct task *t)
{
	return resume(en, t, task_text(t, "from"));
}
