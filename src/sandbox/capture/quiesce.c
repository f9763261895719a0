// SPDX-License-Identifier: Apache-2.0
// The agent freezes or thaws the guest's processes. An agent that was restarted meanwhile is
// greeted again first.
#include "sandbox/capture/quiesce.h"
#include <string.h>
#include "agentclient/client.h"
#include "base/log.h"
#include "sandbox/machine/reach.h"

// For one that answers /health meanwhile: it may have much to write.
#define ASK_MS 30000
#define GREET_MS 5000

static int ask(struct http_client *c, const struct envd_target *t, bool frozen, struct err *e)
{
	return frozen ? envd_call_freeze(c, t, ASK_MS, e) : envd_call_thaw(c, t, ASK_MS, e);
}

// Another instance of the agent than the one that was greeted has its settings from its file, or
// has lost them and refuses: it is greeted again, so that the snapshot has an agent that knows its
// token.
static int ask_and_greet(struct host *h, struct sandbox *s, struct http_client *c,
	struct envd_target *t, bool frozen, struct err *e)
{
	const char *seen = t->instance;
	struct err refused = {0};
	int rc = ask(c, t, frozen, &refused);
	machine_note_agent(h, s, t->version);
	bool lost = rc < 0 && refused.code == ERR_UNAUTHENTICATED;
	// After a restart of the server it is not known who was greeted: one that takes the token
	// is.
	if (rc == 0 && !s->agent[0])
		snprintf(s->agent, sizeof s->agent, "%s", seen);
	if (lost || (rc == 0 && seen[0] && !str_eq(seen, s->agent))) {
		struct err why = {0};
		bool greeted = envd_call_greet(c, t, s->info.id, GREET_MS, &why) == 0;
		log_info("agent was started anew sandbox=%s instance=%s greeted=%s%s%s", s->info.id,
			seen, greeted ? "yes" : "no", greeted ? "" : " error=", why.text);
		if (greeted)
			snprintf(s->agent, sizeof s->agent, "%s", seen);
		// What it did already stays done.
		if (greeted && lost)
			return ask(c, t, frozen, e);
	}
	if (rc < 0 && e)
		*e = refused;
	return rc;
}

int quiesce(
	struct host *h, struct sandbox *s, struct http_client **client, bool frozen, struct err *e)
{
	char url[96];
	int rc = *client ? 0 : machine_agent(s, url, client, e);
	if (rc < 0)
		return rc;
	snprintf(url, sizeof url, "http://%s:%d", s->slot.address, ENVD_PORT);
	char seen[ENVD_INSTANCE_SIZE] = "";
	struct agent_version version = {0};
	struct agent_wait w;
	agent_wait_begin(&w, h, s, ASK_MS);
	struct envd_target t = {.base_url = url,
		.token = s->token,
		.tick = agent_wait_tick,
		.ctx = &w,
		.instance = seen,
		.version = &version};
	rc = ask_and_greet(h, s, *client, &t, frozen, e);
	if (w.silent) // the next call needs a connection of its own
		*client = http_client_free(*client);
	return agent_wait_error(&w, rc, e);
}
