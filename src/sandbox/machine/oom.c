// SPDX-License-Identifier: Apache-2.0
#include "sandbox/machine/oom.h"
#include <string.h>
#include "agentclient/client.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "sandbox/machine/console.h"
#include "sandbox/machine/reach.h"
#include "sandbox/table/store.h"

#define ASK_MS 2000
#define PAUSE_MIN_NS (2 * NSEC_PER_SEC)
#define PAUSE_MAX_NS (300 * NSEC_PER_SEC)
#define CALM_NS (600 * NSEC_PER_SEC)

// The time between two questions doubles, until the guest has been quiet for CALM_NS.
static void note_question_locked(struct sandbox *s, uint64_t now)
{
	bool calm = now > s->oom.after_ns + CALM_NS;
	s->oom.pause_ns =
		calm || !s->oom.pause_ns ? PAUSE_MIN_NS : MIN(s->oom.pause_ns * 2, PAUSE_MAX_NS);
	s->oom.after_ns = now + s->oom.pause_ns;
	s->oom.rung = false;
}

bool oom_listen(struct host *h, const char *id)
{
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	uint64_t seen = s ? s->oom.console_seen : 0;
	pthread_mutex_unlock(&h->lock);
	bool rung = s && console_tells_of_kill(h, id, &seen);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	if (!(s = host_find(h, id)))
		return false;
	s->oom.console_seen = seen;
	s->oom.rung |= rung;
	return s->oom.rung && !s->oom.asking && s->info.state == SANDBOX_RUNNING &&
	       deadline_over(s->oom.after_ns);
}

static json_t *event_data(const struct sandbox *s, const struct envd_oom_report *r, uint64_t count)
{
	json_t *kills = json_array();
	for (size_t i = 0; i < r->n; i++)
		json_array_append_new(kills, envd_oom_json(&r->kills[i]));
	return json_pack("{s:I, s:I, s:I, s:I, s:o}", "count", (json_int_t)count, "total",
		(json_int_t)r->total, "memory_mb", (json_int_t)s->info.memory_mb, "memory_bytes",
		(json_int_t)r->memory_bytes, "kills", kills);
}

static int write_event(
	struct host *h, const struct sandbox *s, const struct envd_oom_report *r, struct err *e)
{
	uint64_t count = MAX(r->untold, (uint64_t)r->n);
	_cleanup_json_ json_t *data = event_data(s, r, count);
	const struct envd_oom *last = r->n ? &r->kills[r->n - 1] : NULL;
	const struct store_event ev = {.kind = "oom",
		.cause = last && last->cgroup[0] ? "cgroup_limit" : "guest_memory",
		.data = data};
	int rc = data ? store_tell(h, s->info.id, &ev, e) : err_errno(e, ENOMEM, "event");
	if (rc < 0)
		return rc;
	log_warn("out of memory in a guest sandbox=%s kills=%lu process=%s memory_mb=%u",
		s->info.id, count, last ? last->process : "?", s->info.memory_mb);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	h->oom_kills += count;
	return 0;
}

// s: a copy. Told twice where the second call is lost: better than never.
static int ask(struct host *h, const struct sandbox *s, struct err *e)
{
	char url[96];
	struct envd_oom_report r, rest;
	_cleanup_(http_client_freep) struct http_client *c = NULL;
	int rc = machine_agent(s, url, &c, e);
	if (rc < 0)
		return rc;
	const struct envd_target t = {.base_url = url, .token = s->token};
	rc = envd_call_oom(c, &t, NULL, ASK_MS, &r, e);
	if (rc < 0 || (r.untold == 0 && r.n == 0))
		return rc;
	rc = write_event(h, s, &r, e);
	return rc < 0 ? rc : envd_call_oom(c, &t, &r, ASK_MS, &rest, e);
}

void oom_ask(struct host *h, const char *id)
{
	struct err e = {0};
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id), copy;
	bool mine = s && s->has_slot && !s->oom.asking && !s->removed;
	if (mine) {
		s->oom.asking = true;
		note_question_locked(s, clock_monotonic_ns());
		copy = *s;
	}
	pthread_mutex_unlock(&h->lock);
	if (!mine)
		return;
	if (ask(h, &copy, &e) < 0)
		log_debug("not asked for its kills sandbox=%s error=%s", id, e.text);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	if ((s = host_find(h, id)))
		s->oom.asking = false;
	pthread_cond_broadcast(&h->changed);
}

void oom_settle(struct host *h, const struct sandbox *s)
{
	const uint64_t until = deadline_in_ms(2 * ASK_MS);
	oom_listen(h, s->info.id);
	pthread_mutex_lock(&h->lock);
	while (s->oom.asking && cond_wait_until(&h->changed, &h->lock, until) == 0)
		;
	bool rung = s->oom.rung;
	pthread_mutex_unlock(&h->lock);
	if (rung)
		oom_ask(h, s->info.id);
}
