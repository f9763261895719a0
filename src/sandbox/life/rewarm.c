// SPDX-License-Identifier: Apache-2.0
// A named snapshot is taken again: its disk boots in a sandbox that nobody sees, which is captured
// and freed. Its memory is not needed, so it may be of a VMM that is refused or gone. A server that
// dies meanwhile undoes it as a create (watch/settle.c).
#include "sandbox/life/rewarm.h"
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "disk/image.h"
#include "sandbox/capture/capture.h"
#include "sandbox/capture/publish.h"
#include "sandbox/life/create.h"
#include "sandbox/life/free.h"
#include "sandbox/machine/machine.h"
#include "sandbox/table/space.h"
#include "sandbox/table/state.h"

struct rewarm {
	const struct host_snapshot_create *req;
	struct source src;
	struct image_info img;
	char token[65];
	struct capture capture;
};

static int prepare(struct operation *o, struct err *e)
{
	struct rewarm *w = o->work;
	int rc = space_check(o->h, "snapshot", (uint64_t)o->s->info.memory_mb << 20, e);
	if (rc < 0)
		return rc;
	rc = capture_init(&w->capture, "template", w->req->snapshot, false, o->journal);
	w->capture.of = &w->src.row.info;
	memcpy(o->layer, w->capture.layer, sizeof o->layer);
	return rc < 0 ? err_errno(e, rc, "journal entry") : 0;
}

static int steps(struct operation *o, struct err *e)
{
	struct rewarm *w = o->work;
	const struct machine_plan plan = {
		.operation = "create", .img = &w->img, .src = &w->src, .token = w->token};
	int rc = machine_up(o->h, o->s, &plan, &o->at_ns, e);
	if (rc == 0)
		rc = capture_take(o->h, o->s, &w->capture, &o->at_ns, e);
	if (rc == 0)
		rc = capture_publish(o->h, o->s, &w->capture, &o->at_ns, e);
	if (rc < 0)
		return rc;
	o->change.add = &w->capture.row;
	o->event = "rewarmed";
	o->data = json_pack("{s:s, s:s}", "snapshot", w->capture.snapshot, "of", w->src.info.id);
	o->next = *o->s;
	sandbox_move(&o->next.info, SANDBOX_STOPPED, o->id);
	o->next.info.stopped_ns = clock_realtime_ns();
	return 0;
}

static void undo(struct operation *o, const struct err *why)
{
	o->next = *o->s;
	sandbox_move(&o->next.info, SANDBOX_STOPPED, "rewarm failed");
	o->next.info.stopped_ns = clock_realtime_ns();
}

static void done(struct operation *o)
{
	struct rewarm *w = o->work;
	capture_done(o->h, &w->capture, o->succeeded);
}

static const struct operation_kind rewarm_kind = {.name = "rewarm",
	.during = SANDBOX_STATE_MAX,
	.failed = "create_failed",
	.prepare = prepare,
	.steps = steps,
	.undo = undo,
	.done = done};

static int run(struct host *h, struct rewarm *w, struct err *e)
{
	struct operation o = {0};
	const struct host_snapshot *of = &w->src.row.info;
	unsigned char raw[32];
	struct host_sandbox unused, info = {.state = SANDBOX_PENDING,
					    .generation = 1,
					    .created_ns = clock_realtime_ns(),
					    .vcpus = of->vcpus,
					    .memory_mb = of->memory_mb,
					    .disk_mb = of->disk_mb};
	id_random_bytes(raw, sizeof raw);
	id_hex(raw, sizeof raw, w->token);
	id_new_sandbox(info.id);
	snprintf(info.template, sizeof info.template, "%s", of->template);
	int rc = machine_check_size(h, &info, e);
	if (rc == 0)
		rc = create_insert(h, &rewarm_kind, w->req->op_id, &info, true, &o, &unused, e);
	if (rc == 0)
		rc = operation_do(&o, w, e);
	if (o.h) {
		sandbox_free(h, o.s, FREE_ALL, FREE_MS);
		sandbox_forget(h, o.s);
	}
	return rc;
}

// Until this very operation, which an earlier call began, has ended.
static void wait_for_earlier(struct host *h, const char *op_id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	for (struct sandbox *s = NULL; (s = host_next(h, s));)
		if (s->operation && str_eq(s->op_id, op_id)) {
			pthread_cond_wait(&h->changed, &h->lock);
			s = NULL; // from the first: the table has changed
		}
}

int rewarm(struct host *h, const struct host_snapshot_create *req, struct host_snapshot *ret,
	struct err *e)
{
	struct rewarm w = {.req = req};
	struct store_snapshot row = {0};
	struct gate_ticket ticket = {0};
	if (!id_is_uuid(req->snapshot) || !id_is_uuid(req->rewarm) || !id_is_uuid(req->op_id))
		return err_set(e, ERR_INVALID, "bad snapshot or operation id");
	wait_for_earlier(h, req->op_id);
	if (store_get_snapshot(h, req->snapshot, &row, NULL) == 0) {
		*ret = row.info; // asked again
		return 0;
	}
	int rc = source_open(h, req->rewarm, true, &w.src, e);
	if (rc < 0)
		return rc;
	if (!str_eq(w.src.row.info.kind, "template"))
		rc = err_set(e, ERR_CONFLICT, "snapshot %s is none that has a name", req->rewarm);
	if (rc == 0)
		rc = image_load(h->data_dir, "base", &w.img, e);
	if (rc == 0 && !gate_join(&h->gate, &ticket))
		rc = gate_wait(&h->gate, &ticket, e);
	if (rc == 0) {
		rc = run(h, &w, e);
		gate_leave(&h->gate, &ticket);
	}
	source_done(&w.src);
	if (rc == 0 && (rc = store_get_snapshot(h, req->snapshot, &row, e)) == 0)
		*ret = row.info;
	return err_prefix(e, rc, "rewarm");
}
