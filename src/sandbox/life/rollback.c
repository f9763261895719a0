// SPDX-License-Identifier: Apache-2.0
// See rollback.h for the rules. The undo is done alone: what was copied is removed.
#include "sandbox/life/rollback.h"
#include <string.h>
#include "base/clock.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/life/free.h"
#include "sandbox/life/operation.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/state.h"

struct rollback {
	const struct host_resume *req;
	struct source src;
	struct store_snapshot row;
	char copy[UUID_SIZE];
	bool made;
};

static int prepare(struct operation *o, struct err *e)
{
	struct rollback *r = o->work;
	int rc = source_open(o->h, r->req->from, r->req->disk_only, &r->src, e);
	if (rc == 0 && !r->req->disk_only)
		rc = source_once(o->h, &r->src, e);
	if (rc < 0)
		return rc;
	const char *of = r->src.row.info.sandbox;
	if (!str_eq(of, o->s->info.id))
		return err_set(e, ERR_INVALID,
			"snapshot %s is of sandbox '%s': a sandbox goes back only to its own",
			r->req->from, of);
	id_new_uuid(r->copy);
	snprintf(o->journal, sizeof o->journal, "{\"snapshot\":\"%s\"}", r->copy);
	return 0;
}

static int steps(struct operation *o, struct err *e)
{
	struct rollback *r = o->work;
	int rc = snapshot_copy(o->h, &r->src, r->copy, SNAPSHOT_PAUSE, e);
	if (rc < 0)
		return rc;
	r->made = true;
	r->row = r->src.row;
	struct host_snapshot *row = &r->row.info;
	snprintf(row->id, sizeof row->id, "%s", r->copy);
	snprintf(row->kind, sizeof row->kind, "pause");
	row->created_ns = clock_realtime_ns();
	o->next = *o->s;
	struct host_sandbox *i = &o->next.info;
	if (i->state == SANDBOX_RUNNING)
		sandbox_move(i, SANDBOX_PAUSING, "roll-back");
	sandbox_move(i, SANDBOX_PAUSED, "roll-back");
	snprintf(i->snapshot, sizeof i->snapshot, "%s", r->copy);
	i->vcpus = row->vcpus;
	i->memory_mb = row->memory_mb;
	i->disk_mb = row->disk_mb;
	i->address[0] = i->backend[0] = '\0';
	i->ends_at_ns = 0;
	i->agent_silent = false;
	i->unquiesced = !r->src.info.quiesced;
	o->next.owed = (struct sandbox_owed){0};
	o->next.full_next = false;
	o->next.has_slot = false;
	o->change.sets_time = true;
	o->change.add = &r->row;
	o->change.drop = o->s->info.snapshot;
	o->event = "rolled_back";
	// From the commit on the machine that runs is of no account, and its end none of the
	// sandbox's.
	pthread_mutex_lock(&o->h->lock);
	monitor_unwatch(o->h, o->s);
	pthread_mutex_unlock(&o->h->lock);
	return 0;
}

static void done(struct operation *o)
{
	struct rollback *r = o->work;
	if (r->made && !o->succeeded)
		snapshot_discard(o->h, r->copy);
	source_done(&r->src);
}

static const struct operation_kind rollback_kind = {.name = "roll_back",
	.during = SANDBOX_STATE_MAX,
	.failed = "rollback_failed",
	.prepare = prepare,
	.steps = steps,
	.done = done};

int roll_back(struct host *h, const struct host_resume *req, struct sandbox *s, struct err *e)
{
	struct rollback r = {.req = req};
	struct operation o = {.h = h, .kind = &rollback_kind, .s = s};
	id_new_uuid(o.id);
	int rc = operation_do(&o, &r, e);
	if (rc == 0 && s->pidfd >= 0 && sandbox_free(h, s, FREE_BUT_CONSOLE, FREE_MS) < 0)
		rc = err_set(e, ERR_UNAVAILABLE,
			"sandbox '%s' is paused at %s, but its processes have not ended yet: "
			"resume "
			"it later",
			s->info.id, r.copy);
	return rc;
}
