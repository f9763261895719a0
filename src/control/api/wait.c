// SPDX-License-Identifier: Apache-2.0
// How this works: an event of the sandbox wakes the call, which then
// asks the host. Between events it looks once a second at its connection and at the server. Two
// things have no event: an answer that the host gives a moment before it is at the new state itself
// (the event is written in the transaction, the state follows), for which it asks again soon; and a
// host that is silent, which is asked again each second.
#include "control/api/wait.h"
#include <inttypes.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "control/api/calls.h"
#include "control/api/find.h"
#include "control/api/reply.h"
#include "control/api/sandbox_list.h"
#include "control/state/render.h"

#define LOOK_MS 1000
#define SOON_MS 5
#define MAX_WAIT_SEC 3600

struct wait {
	struct control *c;
	struct http_request *req;
	struct sandbox_row *row;
	struct feed_watch watch;
	bool states[SANDBOX_STATE_MAX + 1];
	uint64_t until_ns, timeout_sec; // CLOCK_MONOTONIC
	const char *names;		// of the states, as asked for
	struct host_sandbox now;
};

static bool is_passing(enum sandbox_state s)
{
	return s == SANDBOX_PENDING || s == SANDBOX_PAUSING || s == SANDBOX_RESUMING ||
	       s == SANDBOX_STOPPING;
}

// 1: it has come to what was asked for. 0: not yet.
static int look(struct wait *w, struct err *e)
{
	const char *id = w->row->id;
	int rc = find_report(w->c, w->row, &w->now, e);
	if (rc < 0)
		return rc;
	if (w->states[w->now.state])
		return 1;
	const struct host_sandbox *ended = row_ended(w->row);
	if (ended) {
		err_set(e, ERR_CONFLICT, "sandbox '%s' has ended (%s) and will not be %s", id,
			ended->cause, w->names);
		find_say_cause(w->row, e);
		return -EBUSY;
	}
	// A create that failed leaves nothing.
	if (!w->row->linked)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%s' any more", id);
	return 0;
}

static int wait_for_it(struct wait *w, struct err *e)
{
	enum engine_reach reach = w->c->engine.reach;
	// Milliseconds to the next question, 0: none is due. The event may be told already.
	int soon = SOON_MS;
	for (;;) {
		int rc = look(w, e);
		if (rc != 0)
			return rc;
		if (!is_passing(w->now.state))
			soon = 0;
		for (bool asks = false; !asks;) {
			uint64_t now = clock_monotonic_ns();
			if (http_req_closing(w->req) || feed_is_closed(w->c->feed))
				return err_set(e, ERR_UNAVAILABLE, "the server is stopping");
			if (http_req_aborted(w->req))
				return err_set(e, ERR_CANCELED, "the client went away");
			if (now >= w->until_ns)
				return err_set(e, ERR_TIMEOUT,
					"sandbox '%s' is %s, and was not %s within %" PRIu64 " s",
					w->row->id, render_state_name(w->now.state), w->names,
					w->timeout_sec);
			uint64_t ms = (w->until_ns - now) / NSEC_PER_MSEC + 1;
			ms = MIN(ms, (uint64_t)(soon ? soon : LOOK_MS));
			bool woken = feed_watch_wait(w->c->feed, &w->watch, (int)ms);
			asks = woken || soon || w->now.state == SANDBOX_UNREACHABLE ||
			       w->c->engine.reach != reach;
			reach = w->c->engine.reach;
			soon = woken ? SOON_MS : MIN(soon * 2, LOOK_MS);
		}
	}
}

static int read_query(struct http_request *r, struct wait *w, struct err *e)
{
	const char *timeout = http_req_query(r, "timeout_sec");
	w->names = http_req_query(r, "state");
	w->timeout_sec = 60;
	if (!w->names)
		return err_set(e, ERR_INVALID,
			"state: is missing: say what is waited for, as state=paused,stopped");
	if (timeout && (str_to_u64(timeout, MAX_WAIT_SEC, &w->timeout_sec) < 0 || !w->timeout_sec))
		return err_set(e, ERR_INVALID, "timeout_sec: must be an integer from 1 to %d",
			MAX_WAIT_SEC);
	w->until_ns = clock_monotonic_ns() + w->timeout_sec * NSEC_PER_SEC;
	return states_read(w->names, w->states, e);
}

static int run(struct wait *w, struct err *e)
{
	int rc = calls_begin(&w->c->waits, WAIT_CALLS_MAX, "wait", e);
	if (rc < 0)
		return rc;
	feed_watch(w->c->feed, &w->watch, w->row->id);
	rc = wait_for_it(w, e);
	feed_unwatch(w->c->feed, &w->watch);
	calls_end(&w->c->waits);
	return MIN(rc, 0);
}

void sandboxes_wait(struct http_request *r, void *ctx)
{
	struct wait w = {.c = ctx, .req = r};
	struct err e = {0};
	char id[64];
	int rc = read_query(r, &w, &e);
	find_path_id(ctx, r, id);
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(w.c->rows, id);
	w.row = row;
	if (rc == 0)
		rc = row ? run(&w, &e) : err_set(&e, ERR_NOT_FOUND, "no sandbox '%.64s'", id);
	if (rc < 0)
		reply_error(r, &e);
	else
		reply_sandbox(r, 200, row, &w.now);
}
