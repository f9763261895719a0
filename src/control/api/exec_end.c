// SPDX-License-Identifier: Apache-2.0
// How this works: the sandbox's events since the command began say what happened. The host's report
// tells how long to wait for one: an operation that is under way comes to its end, but what runs
// and goes on running has lost only its agent.
#include "control/api/exec_end.h"
#include <string.h>
#include "base/clock.h"
#include "control/api/find.h"
#include "control/state/event_log.h"

#define RUNNING_WAIT_NS (3 * NSEC_PER_SEC) // for an end that nobody has noticed yet
#define OPERATION_WAIT_NS (60 * NSEC_PER_SEC)
#define LOOK_MS 250

struct happened {
	char kind[32], cause[64];
	uint64_t at_ns;
};

static int take(void *ctx, const struct host_event *ev)
{
	static const char *const ends[] = {"paused", "rolled_back", "stopped"};
	struct happened *h = ctx;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		if (!str_eq(ev->kind, ends[i]))
			continue;
		snprintf(h->kind, sizeof h->kind, "%s", ev->kind);
		snprintf(h->cause, sizeof h->cause, "%s", ev->cause);
		h->at_ns = ev->at_ns;
		return 1;
	}
	return 0;
}

static int say(const struct happened *h, struct exec_result *x, const char *command, struct err *e)
{
	if (str_eq(h->kind, "paused")) {
		x->fate = EXEC_RUNNING;
		return err_set(e, ERR_CONFLICT,
			"the sandbox was paused: %s goes on in it when it is resumed", command);
	}
	x->fate = EXEC_GONE;
	if (str_eq(h->kind, "rolled_back"))
		return err_set(e, ERR_CONFLICT, "the sandbox went back to a snapshot: %s is gone",
			command);
	int rc = err_set(e, ERR_CONFLICT, "the sandbox %s (%s): %s is gone with it",
		str_eq(h->cause, "killed") ? "was destroyed" : "ended", h->cause, command);
	if (e) {
		snprintf(e->cause, sizeof e->cause, "%s", h->cause);
		e->ended_ns = h->at_ns;
	}
	return rc;
}

// 1: h says what happened. 0: nothing yet.
static int look(struct control *c, struct sandbox_row *row, uint64_t began_ns, struct happened *h)
{
	feed_catch_up(c->feed, NULL);
	return event_log_read(c->db, 0, began_ns, row->id, 100, take, h, NULL) == 1;
}

static bool is_still(struct control *c, struct sandbox_row *row)
{
	struct host_sandbox now;
	return find_report(c, row, &now, NULL) == 0 && now.state == SANDBOX_RUNNING;
}

static int wait_for_it(struct control *c, struct http_request *r, struct sandbox_row *row,
	uint64_t began_ns, struct happened *h)
{
	struct feed_watch watch;
	uint64_t start = clock_monotonic_ns();
	feed_watch(c->feed, &watch, row->id);
	int found = look(c, row, began_ns, h);
	while (!found && !http_req_aborted(r) && !http_req_closing(r) && !feed_is_closed(c->feed)) {
		uint64_t waited = clock_monotonic_ns() - start;
		if (waited > OPERATION_WAIT_NS || (waited > RUNNING_WAIT_NS && is_still(c, row)))
			break;
		feed_watch_wait(c->feed, &watch, LOOK_MS);
		found = look(c, row, began_ns, h);
	}
	feed_unwatch(c->feed, &watch);
	return found;
}

int exec_explain(struct control *c, struct http_request *r, struct sandbox_row *row,
	uint64_t began_ns, struct exec_result *x, struct err *e)
{
	struct happened h = {0};
	char command[48] = "the command, if it had started,";
	if (x->pid)
		snprintf(command, sizeof command, "the command (pid %u)", x->pid);
	if (wait_for_it(c, r, row, began_ns, &h))
		return say(&h, x, command, e);
	return err_set(e, ERR_BAD_GATEWAY,
		"the sandbox's agent went away: whether %s goes on is not known", command);
}
