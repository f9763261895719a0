// SPDX-License-Identifier: Apache-2.0
#include "sandbox/life/hold.h"
#include <string.h>
#include "base/log.h"
#include "sandbox/capture/capture.h"
#include "sandbox/capture/quiesce.h"
#include "sandbox/life/operation.h"
#include "sandbox/machine/reach.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/state.h"

struct hold {
	const struct err *why;
	struct capture capture; // for its agent's client
};

void hold_note(struct host_sandbox *next, const struct err *why)
{
	sandbox_move(next, SANDBOX_PAUSING, "held");
	snprintf(next->detail, sizeof next->detail,
		"its time is over and it could not be paused: %.150s; it stands still, and the "
		"pause is tried again",
		why->text);
}

static int prepare(struct operation *o, struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&o->h->lock);
	monitor_unwatch(o->h, o->s); // until the claim ends
	return 0;
}

static int steps(struct operation *o, struct err *e)
{
	struct hold *w = o->work;
	struct sandbox *s = o->s;
	struct err unanswered = {0};
	_cleanup_(vmm_freep) struct vmm *v = NULL;
	bool frozen = quiesce(o->h, s, &w->capture.agent, true, &unanswered) == 0;
	int rc = machine_vmm(o->h, s, &v, e);
	if (rc == 0)
		rc = vmm_pause(v, e);
	if (rc < 0)
		return err_prefix(e, rc, "stop");
	s->held = frozen ? HELD_FROZEN : HELD;
	o->next = *s;
	hold_note(&o->next.info, w->why);
	o->event = "held";
	o->cause = "timeout";
	o->data = operation_error(w->why);
	return 0;
}

static void undo(struct operation *o, const struct err *why)
{
	struct hold *w = o->work;
	struct err e = {0};
	if (capture_let_go(o->h, o->s, &w->capture, &e) < 0)
		log_warn("not held, and not let go sandbox=%s error=%s", o->s->info.id, e.text);
	o->next = *o->s;
	sandbox_move(&o->next.info, SANDBOX_RUNNING, "not held");
}

static void done(struct operation *o)
{
	struct hold *w = o->work;
	w->capture.agent = http_client_free(w->capture.agent);
}

static const struct operation_kind hold_kind = {.name = "hold",
	.from = 1u << SANDBOX_RUNNING,
	.during = SANDBOX_PAUSING,
	.failed = "hold_failed",
	.prepare = prepare,
	.steps = steps,
	.undo = undo,
	.done = done};

int host_hold(struct host *h, const char *id, const struct err *why, struct err *e)
{
	struct hold w = {.why = why};
	char op[UUID_SIZE];
	id_new_uuid(op);
	return operation_run(h, &hold_kind, op, id, &w, NULL, e);
}
