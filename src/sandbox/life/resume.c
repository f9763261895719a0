// SPDX-License-Identifier: Apache-2.0
// Resume: a paused sandbox goes on from its snapshot. On any error it is still paused.
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "disk/image.h"
#include "base/json.h"
#include "sandbox/life/free.h"
#include "sandbox/life/operation.h"
#include "sandbox/life/rollback.h"
#include "sandbox/machine/agent_program.h"
#include "sandbox/machine/machine.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/promise.h"
#include "sandbox/table/state.h"
#include "sandbox/table/turn.h"
#include "sandbox/table/space.h"

struct resume {
	const struct host_resume *req;
	struct source src;
	struct image_info img;
};

// What is wrong with the snapshot is told before anything is begun.
// A server that finds the machine running tells its agent the token, and keeps its time.
static int journal_once(struct operation *o, const struct host_resume *req, struct err *e)
{
	_cleanup_json_ json_t *j =
		json_pack("{s:b, s:s, s:I}", "once", 1, "token", req->token ? req->token : "",
			"ends_at_ns", (json_int_t)turn_ends_at(req->ends_at_ns, o->asked_ns));
	_cleanup_free_ char *text = j ? json_compact(j) : NULL;
	if (!text || str_format(o->journal, sizeof o->journal, "%s", text) < 0)
		return err_set(e, ERR_INVALID, "token: is no text, or too long");
	return 0;
}

static int prepare(struct operation *o, struct err *e)
{
	struct resume *r = o->work;
	// It takes no room at once; what it may need for its next pause is asked for where that is
	// kept.
	int rc = o->h->pause_room ? space_start(o->h, "resume", o->s, e) : 0;
	if (rc == 0)
		rc = source_open(o->h, o->s->info.snapshot, r->req->disk_only, &r->src, e);
	if (rc == 0 && !r->req->disk_only)
		rc = source_once(o->h, &r->src, e);
	if (rc == 0 && !r->req->disk_only && !r->src.info.quiesced)
		rc = journal_once(o, r->req, e);
	if (rc == 0 && r->req->disk_only)
		rc = image_load(o->h->data_dir, "base", &r->img, e);
	return rc;
}

static int steps(struct operation *o, struct err *e)
{
	struct resume *r = o->work;
	const struct host_resume *req = r->req;
	const struct machine_plan plan = {.operation = "resume",
		.img = req->disk_only ? &r->img : NULL,
		.src = &r->src,
		.token = req->token};
	int rc = machine_up(o->h, o->s, &plan, &o->at_ns, e);
	if (rc < 0)
		return rc;
	o->next = *o->s;
	struct host_sandbox *i = &o->next.info;
	sandbox_move(i, SANDBOX_RUNNING, o->id);
	i->snapshot[0] = '\0';
	i->unquiesced = false;
	i->started_ns = clock_realtime_ns();
	i->ends_at_ns = turn_ends_at(req->ends_at_ns, o->asked_ns);
	o->change.sets_time = true;
	o->change.drop = r->src.row.info.id;
	o->event = "resumed";
	o->cause = req->from[0] ? "rolled_back" : req->disk_only ? "disk_only" : NULL;
	o->data = json_pack(
		"{s:s, s:I}", "backend", i->backend, "generation", (json_int_t)i->generation);
	agent_program_note(o->s, o->data);
	return 0;
}

static void undo(struct operation *o, const struct err *why)
{
	sandbox_free(o->h, o->s, FREE_BUT_CONSOLE, FREE_MS);
	o->next = *o->s;
	sandbox_move(&o->next.info, SANDBOX_PAUSED, "resume failed");
	o->next.info.address[0] = o->next.info.backend[0] = '\0';
	o->next.has_slot = false;
}

static void finish(struct operation *o)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&o->h->lock);
	o->h->resumes++;
}

static void done(struct operation *o)
{
	struct resume *r = o->work;
	source_done(&r->src);
}

static const struct operation_kind resume_kind = {.name = "resume",
	.from = 1u << SANDBOX_PAUSED | 1u << SANDBOX_RUNNING,
	.during = SANDBOX_RESUMING,
	.failed = "resume_failed",
	.prepare = prepare,
	.steps = steps,
	.undo = undo,
	.finish = finish,
	.done = done};

// One that is rolled back runs on while it waits.
static int wait_for_turn(struct operation *o, bool rolls_back, struct err *e)
{
	struct host *h = o->h;
	struct sandbox *s = o->s;
	int rc = 0;
	bool turn = true;
	struct promise_limits limits;
	promise_limits(h, &limits);
	pthread_mutex_lock(&h->lock);
	if (!rolls_back && s->info.state != SANDBOX_PAUSED)
		rc = err_set(e, ERR_CONFLICT, "sandbox '%s' is %s", s->info.id,
			sandbox_state_name(s->info.state));
	else if (s->info.state == SANDBOX_PAUSED &&
		 sandbox_wait_free(h, s, deadline_in_ms(FREE_MS)) < 0)
		rc = err_set(e, ERR_UNAVAILABLE,
			"sandbox '%s' is paused, but its processes have not ended yet: try again",
			s->info.id);
	else if (s->info.state == SANDBOX_PAUSED && host_live(h) >= h->max_sandboxes)
		rc = err_set(e, ERR_LIMIT,
			"this host runs %u sandboxes, its limit (serve --max-sandboxes)",
			h->max_sandboxes);
	else if (s->info.state == SANDBOX_PAUSED)
		rc = promise_check(h, &limits, &s->info, 1, false, e);
	if (rc == 0) {
		s->starts = true;
		// Rolled back it is paused for a moment, and goes on in its room.
		s->has_room = s->info.state == SANDBOX_RUNNING;
		turn = turn_join(h, s);
	}
	pthread_mutex_unlock(&h->lock);
	return turn ? rc : turn_wait(h, s, e);
}

int host_resume(
	struct host *h, const struct host_resume *req, struct host_sandbox *ret, struct err *e)
{
	struct resume r = {.req = req};
	struct operation o;
	struct err local = {0};
	if (!e)
		e = &local;
	if (req->from[0] && !id_is_uuid(req->from))
		return err_set(e, ERR_INVALID, "bad snapshot id");
	int rc = operation_claim(&o, h, &resume_kind, req->op_id, req->id, ret, e);
	if (rc != 0)
		return MIN(rc, 0);
	rc = wait_for_turn(&o, req->from[0], e);
	if (rc == 0 && req->from[0])
		rc = roll_back(h, req, o.s, e);
	if (rc == 0)
		rc = operation_do(&o, &r, e);
	gate_leave(&h->gate, &o.s->ticket);
	pthread_mutex_lock(&h->lock);
	o.s->starts = false;
	pthread_mutex_unlock(&h->lock);
	operation_release(&o, ret);
	return rc;
}
