// SPDX-License-Identifier: Apache-2.0
#include "sandbox/machine/learn.h"
#include "agentclient/client.h"
#include "base/log.h"
#include "sandbox/machine/reach.h"
#include "sandbox/table/table.h"

#define TRIES 3u
#define ASK_MS 5000

bool learn_wanted(struct host *h, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	if (!s || s->info.agent[0] || !s->has_slot || s->agent_asked >= TRIES)
		return false;
	s->agent_asked++;
	return true;
}

void learn_ask(struct host *h, const char *id)
{
	struct agent_version v = {0};
	struct err e = {0};
	char url[96];
	struct sandbox copy = {0};
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	if (s && s->has_slot) {
		copy.slot = s->slot;
		copy.info.generation = s->info.generation;
	}
	pthread_mutex_unlock(&h->lock);
	_cleanup_(http_client_freep) struct http_client *c = NULL;
	if (!copy.slot.address[0] || machine_agent(&copy, url, &c, &e) < 0)
		return;
	const struct envd_target t = {.base_url = url, .version = &v};
	if (envd_call_health(c, &t, ASK_MS, &e) < 0) {
		log_debug("agent's version is not known sandbox=%s error=%s", id, e.text);
		return;
	}
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	s = host_find(h, id);
	if (s && s->info.generation == copy.info.generation)
		snprintf(s->info.agent, sizeof s->info.agent, "%s", v.text);
}
