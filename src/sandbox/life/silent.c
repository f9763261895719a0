// SPDX-License-Identifier: Apache-2.0
#include "sandbox/life/silent.h"
#include <string.h>
#include "agentclient/client.h"
#include "agentclient/probe.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "sandbox/capture/quiesce.h"
#include "sandbox/machine/greet.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/state.h"
#include "sandbox/table/store.h"

#define FIRST_MS 1000
#define AGAIN_MAX_MS 15000
#define PROBE_MS 500
// So many ask at once; the pool has other things to do than to wait for agents.
#define ASKING_MAX 6u
#define BUSY_MS 300
// A freeze that was not waited for may lie in the agent's connections, and lasts 10 s at most.
#define LATE_FREEZE_MS 12000

struct asker {
	struct host *h;
	char id[64];
	int64_t again_ms;
	uint64_t since_ns; // CLOCK_MONOTONIC
	bool answered;	   // once more for the late freeze
};

enum { OVER, LATER, NOW };

// What is to be done with it; host.lock held.
static int look(const struct asker *a, struct sandbox **ret)
{
	struct sandbox *s = host_find(a->h, a->id);
	*ret = s;
	bool runs = s && s->pidfd >= 0 && !s->removed && !s->ending && s->has_slot &&
		    (s->operation || s->info.state == SANDBOX_RUNNING);
	if (!runs || (!a->answered && !s->info.agent_silent))
		return OVER;
	return s->operation || s->held ? LATER : NOW;
}

static bool answers(struct asker *a, const char *address)
{
	if (atomic_fetch_add(&a->h->asking_silent, 1) >= ASKING_MAX) {
		atomic_fetch_sub(&a->h->asking_silent, 1);
		a->again_ms = BUSY_MS;
		return false;
	}
	bool yes = envd_probe(address, ENVD_PORT, PROBE_MS) == 0;
	atomic_fetch_sub(&a->h->asking_silent, 1);
	return yes;
}

static int thaw(struct asker *a, struct sandbox *s, struct err *e)
{
	struct http_client *agent = NULL;
	int rc = quiesce(a->h, s, &agent, false, e);
	http_client_free(agent);
	return rc;
}

// The agent's word, then the row. The claim is ours.
static int ask(struct asker *a, struct sandbox *s, struct err *e)
{
	int rc = s->owed.init && !a->answered ? greet_late(a->h, s, e) : 0;
	if (rc == 0)
		rc = thaw(a, s, e);
	if (rc < 0 || a->answered)
		return rc;
	struct sandbox next = *s;
	next.owed = (struct sandbox_owed){0};
	next.info.agent_silent = false;
	_cleanup_json_ json_t *data = json_pack("{s:I}", "silent_ms",
		(json_int_t)((clock_monotonic_ns() - a->since_ns) / NSEC_PER_MSEC));
	const struct store_event ev = {.kind = "agent_answers", .data = data};
	rc = store_apply(a->h, &(struct store_change){.row = &next, .event = &ev}, e);
	if (rc < 0)
		return rc;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->h->lock);
	s->owed = next.owed;
	s->info.agent_silent = false;
	log_info("agent answers sandbox=%s", a->id);
	return 0;
}

static void again(struct asker *a, int64_t ms, work_fn f)
{
	if (workers_add(a->h->workers, false, deadline_in_ms(ms), f, a) < 0)
		free(a);
}

static void work(void *ctx)
{
	struct asker *a = ctx;
	struct host *h = a->h;
	struct sandbox *s;
	struct err e = {0};
	char address[sizeof s->slot.address] = "";
	int64_t ms = a->again_ms;
	a->again_ms = MIN(a->again_ms * 2, AGAIN_MAX_MS);
	pthread_mutex_lock(&h->lock);
	int what = look(a, &s);
	if (what == NOW)
		memcpy(address, s->slot.address, sizeof address);
	else if (what == OVER && s)
		s->asks_silent = false;
	pthread_mutex_unlock(&h->lock);
	if (what == OVER) {
		free(a);
		return;
	}
	bool mine = what == NOW && answers(a, address);
	pthread_mutex_lock(&h->lock);
	mine = mine && look(a, &s) == NOW;
	if (mine)
		s->operation = SILENT_OPERATION;
	pthread_mutex_unlock(&h->lock);
	if (mine) {
		bool over = a->answered;
		int rc = ask(a, s, &e);
		if (rc < 0)
			log_debug("agent does not answer sandbox=%s error=%s", a->id, e.text);
		pthread_mutex_lock(&h->lock);
		s->asks_silent = !over;
		host_release(h, s);
		silent_ask(h, s);
		pthread_mutex_unlock(&h->lock);
		if (over) {
			free(a);
			return;
		}
		a->answered |= rc == 0;
		ms = a->answered ? LATE_FREEZE_MS : ms;
	}
	again(a, ms, work);
}

void silent_ask(struct host *h, struct sandbox *s)
{
	if (!s->info.agent_silent || s->asks_silent || s->removed ||
		s->info.state != SANDBOX_RUNNING)
		return;
	struct asker *a = malloc(sizeof *a);
	if (!a)
		return;
	*a = (struct asker){.h = h, .again_ms = FIRST_MS, .since_ns = clock_monotonic_ns()};
	memcpy(a->id, s->info.id, sizeof a->id);
	s->asks_silent = workers_add(h->workers, false, deadline_in_ms(FIRST_MS), work, a) == 0;
	if (!s->asks_silent)
		free(a);
}
