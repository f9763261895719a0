// SPDX-License-Identifier: Apache-2.0
#include "control/api/hooks.h"
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/events.h"
#include "control/state/render.h"

#define BATCH 100
#define IDLE_MS 10000 // how long a wait for events may go without a look around
#define TICK_MS 250
#define STACK (256u << 10)

struct hook {
	struct hooks *all;
	char id[UUID_SIZE];
	bool gone;    // removed: the thread ends by itself
	bool changed; // its row is to be read again
	struct hook *next;
};

struct hooks {
	struct db *db;
	struct feed *feed;
	struct receiver_rules rules;
	char *allow, *slots;
	pthread_mutex_t lock; // of what follows, and of the hooks
	pthread_cond_t wake;
	struct hook *list;
	unsigned running;
	bool stopping;
};

unsigned hooks_backoff_sec(unsigned attempts)
{
	return attempts > 10 ? HOOK_BACKOFF_MAX_SEC
			     : MIN(1u << (MAX(attempts, 1u) - 1), HOOK_BACKOFF_MAX_SEC);
}

// --- one event

static bool is_over(struct hook *k)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&k->all->lock);
	return k->all->stopping || k->gone || k->changed;
}

static int on_tick(void *ctx)
{
	return is_over(ctx);
}

struct batch {
	const struct webhook *w;
	struct host_event found; // owned
	bool has;
	uint64_t passed; // the last one that the webhook does not ask for
};

static bool is_wanted(const struct webhook *w, const char *kind)
{
	size_t i;
	json_t *v;
	json_array_foreach (w->kinds, i, v)
		if (str_eq(json_string_value(v), kind))
			return true;
	return json_array_size(w->kinds) == 0;
}

static int take_event(void *ctx, const struct host_event *ev)
{
	struct batch *b = ctx;
	if (!is_wanted(b->w, ev->kind)) {
		b->passed = ev->seq;
		return 0;
	}
	b->found = *ev;
	b->found.data = json_incref(ev->data);
	b->has = true;
	return 1;
}

static void note(struct hook *k, const struct webhook *w, const struct webhook_delivery *d)
{
	struct err e = {0};
	if (webhooks_note(k->all->db, w, d, &e) < 0)
		log_warn("delivery not noted, it may be made again webhook=%s error=%s", k->id,
			e.text);
}

static void go_on(struct webhook *w, uint64_t seq)
{
	w->cursor = seq;
	w->attempts = 0;
	w->first_ns = w->next_ns = 0;
}

static void deliver(
	struct hook *k, struct webhook *w, struct receiver *r, const struct host_event *ev)
{
	struct webhook_delivery d = {.event = ev->seq, .attempt = w->attempts + 1};
	char cursor[EVENT_CURSOR_SIZE];
	_cleanup_json_ json_t *j = events_json(w->epoch, ev);
	_cleanup_free_ char *body = json_compact(j);
	snprintf(d.kind, sizeof d.kind, "%s", ev->kind);
	events_format_cursor(w->epoch, ev->seq, cursor);
	if (!body)
		return;
	receiver_send(r, w, cursor, body, on_tick, k, &d);
	bool taken = str_eq(d.outcome, "delivered");
	if (!taken && is_over(k))
		return; // given up by us: no try of the receiver's
	w->attempts++;
	if (!w->first_ns)
		w->first_ns = d.at_ns;
	w->next_ns = d.at_ns + hooks_backoff_sec(w->attempts) * NSEC_PER_SEC;
	if (!taken && d.at_ns > w->first_ns + HOOK_GIVE_UP_NS)
		d.outcome = "given_up";
	if (w->attempts == 1 && !taken)
		log_info("webhook is tried again webhook=%s event=%lu status=%d error=%s", k->id,
			ev->seq, d.status, d.error);
	if (taken || str_eq(d.outcome, "given_up"))
		go_on(w, ev->seq);
	note(k, w, &d);
}

// Events that the webhook did not get in time are not kept any more.
static void note_lost(struct hook *k, struct webhook *w, uint64_t first)
{
	struct webhook_delivery d = {.event = first - 1,
		.at_ns = clock_realtime_ns(),
		.outcome = "given_up",
		.kind = "events_lost"};
	snprintf(d.error, sizeof d.error, "events %" PRIu64 " to %" PRIu64 " are not kept any more",
		w->cursor + 1, first - 1);
	go_on(w, first - 1);
	note(k, w, &d);
}

// --- a webhook's thread

static bool wait_until(struct hook *k, uint64_t at_ns)
{
	uint64_t now;
	pthread_mutex_lock(&k->all->lock);
	while (!k->all->stopping && !k->gone && !k->changed &&
		(now = clock_realtime_ns()) < at_ns) {
		// A clock that was set back must not make it longer than the longest wait.
		uint64_t left = MIN(at_ns - now, HOOK_BACKOFF_MAX_SEC * NSEC_PER_SEC);
		if (left < at_ns - now)
			at_ns = now + left;
		cond_wait_until(&k->all->wake, &k->all->lock,
			deadline_in_ms((int)MIN(left / NSEC_PER_MSEC + 1, 5000u)));
	}
	bool over = k->all->stopping || k->gone || k->changed;
	pthread_mutex_unlock(&k->all->lock);
	return !over;
}

// Of one look: 1: there was something to do.
static int step(struct hook *k, struct webhook *w, struct receiver *r)
{
	struct event_log_range range;
	struct err e = {0};
	int rc = event_log_range(k->all->db, &range, &e);
	if (rc < 0)
		return rc;
	// Numbers that are counted anew: what came before the restored copy is not known.
	if (!str_eq(w->epoch, range.epoch)) {
		memcpy(w->epoch, range.epoch, sizeof w->epoch);
		go_on(w, MIN(w->cursor, range.last));
	}
	if (w->cursor + 1 < range.first && w->cursor < range.last)
		note_lost(k, w, range.first);
	struct batch b = {.w = w, .passed = w->cursor};
	rc = event_log_read(k->all->db, w->cursor, 0, NULL, BATCH, take_event, &b, &e);
	if (rc < 0)
		return rc;
	if (b.passed != w->cursor) {
		go_on(w, b.passed);
		if (!b.has)
			note(k, w, NULL);
	}
	if (!b.has)
		return w->cursor < range.last;
	if (wait_until(k, w->next_ns))
		deliver(k, w, r, &b.found);
	host_event_done(&b.found);
	return 1;
}

// With its row as of now, until that changes.
static void serve(struct hook *k)
{
	_cleanup_webhook_ struct webhook w = {0};
	_cleanup_(receiver_freep) struct receiver *r = NULL;
	struct err e = {0};
	pthread_mutex_lock(&k->all->lock);
	k->changed = false;
	pthread_mutex_unlock(&k->all->lock);
	int rc = webhooks_get(k->all->db, k->id, &w, &e);
	if (rc == 0)
		rc = receiver_new(w.url, &k->all->rules, &r, &e);
	if (rc < 0 || !w.enabled) {
		wait_until(k, rc < 0 ? clock_realtime_ns() + NSEC_PER_SEC : UINT64_MAX / 2);
		return;
	}
	while (!is_over(k)) {
		rc = step(k, &w, r);
		if (rc < 0 && !wait_until(k, clock_realtime_ns() + NSEC_PER_SEC))
			break;
		// Short enough for a change to be seen; no file is read for it.
		for (int i = 0; rc == 0 && i < IDLE_MS / TICK_MS && !is_over(k); i++)
			if (feed_wait(k->all->feed, w.cursor, TICK_MS) > w.cursor)
				break;
	}
}

static void *run(void *arg)
{
	struct hook *k = arg;
	struct hooks *h = k->all;
	for (;;) {
		pthread_mutex_lock(&h->lock);
		bool end = h->stopping || k->gone;
		pthread_mutex_unlock(&h->lock);
		if (end)
			break;
		serve(k);
	}
	pthread_mutex_lock(&h->lock);
	struct hook **p = &h->list;
	while (*p != k)
		p = &(*p)->next;
	*p = k->next;
	h->running--;
	pthread_cond_broadcast(&h->wake);
	pthread_mutex_unlock(&h->lock);
	free(k);
	return NULL;
}

// With the lock held.
static int begin(struct hooks *h, const char *id, struct err *e)
{
	pthread_t thread;
	pthread_attr_t attr;
	struct hook *k = calloc(1, sizeof *k);
	if (!k)
		return err_errno(e, ENOMEM, "webhook");
	k->all = h;
	snprintf(k->id, sizeof k->id, "%s", id);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK);
	int errnum = pthread_create(&thread, &attr, run, k);
	pthread_attr_destroy(&attr);
	if (errnum) {
		free(k);
		return err_errno(e, errnum, "thread of a webhook");
	}
	k->next = h->list;
	h->list = k;
	h->running++;
	return 0;
}

// --- from outside

int hooks_changed(struct hooks *h, const char *id, struct err *e)
{
	_cleanup_webhook_ struct webhook w = {0};
	int rc = webhooks_get(h->db, id, &w, NULL);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	struct hook *k = h->list;
	while (k && (k->gone || !str_eq(k->id, id)))
		k = k->next;
	if (!k)
		return rc == 0 && !h->stopping ? begin(h, id, e) : 0;
	k->changed = true;
	k->gone = rc < 0;
	pthread_cond_broadcast(&h->wake);
	return 0;
}

int hooks_test(struct hooks *h, const char *id, struct webhook_delivery *ret, struct err *e)
{
	_cleanup_webhook_ struct webhook w = {0};
	_cleanup_(receiver_freep) struct receiver *r = NULL;
	struct host_event ev = {.at_ns = clock_realtime_ns(), .kind = "webhook_test"};
	int rc = webhooks_get(h->db, id, &w, e);
	if (rc == 0)
		rc = receiver_new(w.url, &h->rules, &r, e);
	if (rc < 0)
		return rc;
	_cleanup_json_ json_t *j = events_json(w.epoch, &ev);
	_cleanup_free_ char *body = json_compact(j);
	if (!body)
		return err_errno(e, ENOMEM, "webhook");
	*ret = (struct webhook_delivery){.kind = "webhook_test", .attempt = 1};
	receiver_send(r, &w, "test", body, NULL, NULL, ret);
	return webhooks_add_delivery(h->db, id, ret, e);
}

int hooks_start(struct db *db, struct feed *feed, const struct receiver_rules *rules,
	struct hooks **ret, struct err *e)
{
	_cleanup_free_ struct webhook *list = NULL;
	size_t n = 0;
	int rc = receiver_check_list(rules->allow, e);
	if (rc == 0)
		rc = webhooks_list(db, &list, &n, e);
	if (rc < 0)
		return rc;
	struct hooks *h = calloc(1, sizeof *h);
	if (h) {
		h->db = db;
		h->feed = feed;
		h->allow = strdup(rules->allow ? rules->allow : "");
		h->slots = strdup(rules->slots ? rules->slots : "");
		h->rules = (struct receiver_rules){h->allow, h->slots};
		pthread_mutex_init(&h->lock, NULL);
		pthread_cond_init(&h->wake, NULL);
	}
	rc = h && h->allow && h->slots ? 0 : err_errno(e, ENOMEM, "webhooks");
	for (size_t i = 0; i < n; i++) {
		if (rc == 0) {
			pthread_mutex_lock(&h->lock);
			rc = begin(h, list[i].id, e);
			pthread_mutex_unlock(&h->lock);
		}
		webhook_done(&list[i]);
	}
	if (rc < 0)
		hooks_stop(h);
	else
		*ret = h;
	return rc;
}

struct hooks *hooks_stop(struct hooks *h)
{
	if (!h)
		return NULL;
	pthread_mutex_lock(&h->lock);
	h->stopping = true;
	pthread_cond_broadcast(&h->wake);
	while (h->running)
		cond_wait_until(&h->wake, &h->lock, TIME_NEVER);
	pthread_mutex_unlock(&h->lock);
	pthread_cond_destroy(&h->wake);
	pthread_mutex_destroy(&h->lock);
	free(h->allow);
	free(h->slots);
	free(h);
	return NULL;
}
