// SPDX-License-Identifier: Apache-2.0
// A job of the pool tries to let the guest go on, with growing breaks, whenever no operation has
// the sandbox.
#include "sandbox/life/still.h"
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "sandbox/capture/capture.h"
#include "sandbox/life/silent.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/state.h"
#include "sandbox/table/store.h"

#define AGAIN_MS 2000
#define AGAIN_MAX_MS 60000

struct still {
	struct host *h;
	char id[64];
	int64_t again_ms;
};

void still_note(struct host_sandbox *next, const struct err *why)
{
	sandbox_move(next, SANDBOX_ERROR, "stands still");
	snprintf(next->detail, sizeof next->detail,
		"the guest stands still: %.200s; it is tried again", why->text);
	log_error("guest stands still, it is tried again sandbox=%s error=%s", next->id, why->text);
}

// 0: it runs, or is nobody's to let go any more.
static int let_go(struct still *w, struct sandbox *s, struct err *e)
{
	struct capture c = {0};
	int rc = capture_let_go(w->h, s, &c, e);
	capture_done(w->h, &c, false);
	if (rc < 0)
		return rc;
	struct sandbox next = *s;
	sandbox_move(&next.info, SANDBOX_RUNNING, "let go on");
	next.info.detail[0] = '\0';
	const struct store_event ev = {.kind = "running", .cause = "let_go"};
	rc = store_commit(w->h, NULL, &next, &ev, e);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&w->h->lock);
	if (!s->removed) {
		s->info.state = next.info.state;
		s->info.generation = next.info.generation;
	}
	s->info.detail[0] = '\0';
	pthread_mutex_unlock(&w->h->lock);
	log_info("guest goes on sandbox=%s", w->id);
	return 0;
}

// One that is held goes on when it has time again.
static bool still_is_due(const struct sandbox *s)
{
	return s->held && s->info.ends_at_ns && s->info.ends_at_ns <= clock_realtime_ns();
}

static void work(void *ctx)
{
	struct still *w = ctx;
	struct host *h = w->h;
	struct err e = {0};
	int rc = 0;
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, w->id);
	bool ours = s && (s->info.state == SANDBOX_ERROR || s->held) && s->pidfd >= 0 &&
		    !s->removed && !still_is_due(s);
	bool busy = ours && s->operation;
	if (ours && !busy)
		s->operation = "let_go";
	pthread_mutex_unlock(&h->lock);
	if (ours && !busy) {
		rc = let_go(w, s, &e);
		pthread_mutex_lock(&h->lock);
		if (rc == 0)
			monitor_watch(h, s);
		host_release(h, s);
		silent_ask(h, s);
		pthread_mutex_unlock(&h->lock);
		monitor_wake(h);
	}
	if (rc == 0 && !busy) {
		free(w);
		return;
	}
	w->again_ms = MIN(w->again_ms * 2, AGAIN_MAX_MS);
	if (workers_add(h->workers, false, deadline_in_ms(w->again_ms), work, w) < 0)
		free(w);
}

void still_retry(struct host *h, const struct sandbox *s, bool now)
{
	struct still *w = malloc(sizeof *w);
	if (!w)
		return;
	*w = (struct still){.h = h, .again_ms = AGAIN_MS};
	memcpy(w->id, s->info.id, sizeof w->id);
	if (workers_add(h->workers, false, now ? 0 : deadline_in_ms(AGAIN_MS), work, w) < 0)
		free(w);
}
