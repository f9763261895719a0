// SPDX-License-Identifier: Apache-2.0
// Pause: the sandbox becomes a snapshot, then everything it has on the machine is freed.
//
// The line between "it was never paused" and "it is paused" is snapshot.json, which is written
// last. If the server is killed before that line, the next start lets the sandbox go on; if the
// power goes before it, the machine is gone and its end is recorded. After that line the next start
// writes the row and frees the rest. The database comes after the line, and the machine is freed
// last: a sandbox whose processes are slow to die is paused all the same (free.h).
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "sandbox/capture/publish.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/capture/settle.h"
#include "sandbox/capture/capture.h"
#include "sandbox/capture/harvest.h"
#include "sandbox/life/free.h"
#include "sandbox/life/hold.h"
#include "sandbox/life/operation.h"
#include "sandbox/life/still.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/space.h"
#include "sandbox/table/state.h"
#include "shim/shim.h"

static int prepare(struct operation *o, struct err *e)
{
	struct capture *c = o->work;
	uint64_t needs = capture_needs(o->h, o->s);
	int rc = capture_init(c, "pause", NULL, o->s->full_next, o->journal);
	memcpy(o->layer, c->layer, sizeof o->layer);
	o->full_next = true; // in the row; the capture goes by what was before
	if (rc < 0)
		return err_errno(e, rc, "journal entry");
	if ((rc = space_promise(o->h, "pause", needs, e)) < 0)
		return rc;
	c->promised = needs;
	// What this run touched at its start is the next one's working set. The pager has written
	// it by the time that memory is written.
	if (str_eq(o->s->info.backend, "uffd"))
		shim_poke_pager(o->s->pidfd);
	// The end of the VM during a pause is seen by the calls to it; it is judged afterwards.
	pthread_mutex_lock(&o->h->lock);
	monitor_unwatch(o->h, o->s);
	pthread_mutex_unlock(&o->h->lock);
	return 0;
}

static int steps(struct operation *o, struct err *e)
{
	struct capture *c = o->work;
	int rc = capture_take(o->h, o->s, c, &o->at_ns, e);
	harvest(o->h, o->s);
	if (rc == 0)
		rc = capture_publish(o->h, o->s, c, &o->at_ns, e);
	if (rc < 0)
		return rc;
	o->next = *o->s;
	struct host_sandbox *i = &o->next.info;
	sandbox_move(i, SANDBOX_PAUSED, o->id);
	i->address[0] = i->backend[0] = '\0';
	i->ends_at_ns = 0; // its time does not run
	snprintf(i->snapshot, sizeof i->snapshot, "%s", c->snapshot);
	i->agent_silent = false;
	i->unquiesced = !c->quiesced;
	o->next.owed = (struct sandbox_owed){0};
	o->next.full_next = false;
	o->next.has_slot = false;
	o->change.sets_time = true;
	o->change.add = &c->row;
	o->event = "paused";
	o->data = json_pack("{s:I, s:I, s:I, s:I}", "memory_bytes",
		(json_int_t)c->row.info.memory_bytes, "generation", (json_int_t)i->generation,
		"memory_written_bytes", (json_int_t)i->memory_written_bytes, "memory_kept_bytes",
		(json_int_t)i->memory_kept_bytes);
	json_object_set_new(o->data, "quiesced", json_boolean(c->quiesced));
	if (!c->quiesced)
		json_object_set_new(o->data, "agent_error", json_string(c->unanswered));
	return 0;
}

// The sandbox runs on. One that is held (hold.h) stands still as before.
static void undo(struct operation *o, const struct err *why)
{
	struct capture *c = o->work;
	struct err e = {0};
	// The line between paused and never paused (see above) goes before the guest goes on.
	if (c->published)
		snapshot_discard(o->h, c->snapshot);
	c->published = false;
	bool held = o->s->held != NOT_HELD;
	bool still = !held && !c->went_on && c->stopped_ns && capture_let_go(o->h, o->s, c, &e) < 0;
	capture_settle(o->h, o->s, c);
	o->next = *o->s;
	o->next.info.snapshot[0] = '\0';
	if (still)
		still_note(&o->next.info, &e);
	else if (held)
		hold_note(&o->next.info, why);
	else
		sandbox_move(&o->next.info, SANDBOX_RUNNING, "pause failed");
}

static void finish(struct operation *o)
{
	struct host *h = o->h;
	if (sandbox_free(h, o->s, FREE_BUT_CONSOLE, FREE_MS) < 0)
		log_info("paused, its processes have not ended yet sandbox=%s", o->s->info.id);
	operation_phase(o, "free");
	pthread_mutex_lock(&h->lock);
	o->s->held = NOT_HELD;
	h->pauses++;
	pthread_mutex_unlock(&h->lock);
}

static void done(struct operation *o)
{
	capture_done(o->h, o->work, o->succeeded);
}

static const struct operation_kind pause_kind = {.name = "pause",
	.from = 1u << SANDBOX_RUNNING | 1u << SANDBOX_PAUSING, // of one that is held
	.during = SANDBOX_PAUSING,
	.failed = "pause_failed",
	.prepare = prepare,
	.steps = steps,
	.undo = undo,
	.finish = finish,
	.done = done};

int host_pause(
	struct host *h, const char *op_id, const char *id, struct host_sandbox *ret, struct err *e)
{
	struct capture c = {0};
	struct err local = {0};
	return operation_run(h, &pause_kind, op_id, id, &c, ret, e ? e : &local);
}
