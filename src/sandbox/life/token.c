// SPDX-License-Identifier: Apache-2.0
// Another access token for the agent of one that runs. The agent takes it from whoever knows the
// present one, or names the new one again: so a call whose answer was lost is simply made once
// more, whichever of the two the row has.
#include <string.h>
#include "agentclient/client.h"
#include "sandbox/life/operation.h"
#include "sandbox/machine/reach.h"

#define TELL_MS 5000

static int steps(struct operation *o, struct err *e)
{
	const char *token = o->work;
	char url[96];
	_cleanup_(http_client_freep) struct http_client *c = NULL;
	int rc = machine_agent(o->s, url, &c, e);
	if (rc < 0)
		return rc;
	const struct envd_target t = {.base_url = url,
		.token = o->s->token,
		.instance = o->s->agent,
		.tick = machine_is_gone,
		.ctx = o->s};
	const struct envd_init i = {.token = token};
	rc = envd_call_init(c, &t, &i, TELL_MS, NULL, e);
	if (rc < 0)
		return err_prefix(e, rc, "token");
	o->next = *o->s;
	snprintf(o->next.token, sizeof o->next.token, "%s", token);
	o->event = "token_set";
	return 0;
}

static void finish(struct operation *o)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&o->h->lock);
	memcpy(o->s->token, o->next.token, sizeof o->s->token);
}

static const struct operation_kind token_kind = {.name = "set_token",
	.from = 1u << SANDBOX_RUNNING,
	.during = SANDBOX_STATE_MAX,
	.failed = "token_failed",
	.steps = steps,
	.finish = finish};

int host_set_token(
	struct host *h, const char *op_id, const char *id, const char *token, struct err *e)
{
	char copy[sizeof((struct sandbox *)0)->token];
	struct err local = {0};
	if (!e)
		e = &local;
	if (str_format(copy, sizeof copy, "%s", token) < 0 || !*copy)
		return err_set(e, ERR_INVALID, "bad token");
	return operation_run(h, &token_kind, op_id, id, copy, NULL, e);
}
