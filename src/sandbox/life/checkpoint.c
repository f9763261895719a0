// SPDX-License-Identifier: Apache-2.0
// take, let go, publish, settle (capture/capture.c) as steps of an operation. On every way out the
// diff is settled once. A guest that could not be let go on is in the state error (still.h).
#include "sandbox/capture/publish.h"
#include "sandbox/capture/settle.h"
#include "sandbox/life/checkpoint.h"
#include <string.h>
#include "base/log.h"
#include "sandbox/life/still.h"
#include "sandbox/table/space.h"
#include "sandbox/table/state.h"

int checkpoint_prepare(struct operation *o, struct err *e)
{
	struct checkpoint *k = o->work;
	int rc = space_check(o->h, o->kind->name, capture_needs(o->h, o->s), e);
	if (rc < 0)
		return rc;
	rc = capture_init(&k->capture, k->kind, k->snapshot, o->s->full_next, o->journal);
	memcpy(o->layer, k->capture.layer, sizeof o->layer);
	o->full_next = true; // in the row; the capture goes by what was before
	return rc < 0 ? err_errno(e, rc, "journal entry") : 0;
}

static void settle(struct operation *o, struct checkpoint *k)
{
	if (!k->settled)
		capture_settle(o->h, o->s, &k->capture);
	k->settled = true;
}

int checkpoint_steps(struct operation *o, struct err *e)
{
	struct checkpoint *k = o->work;
	struct capture *c = &k->capture;
	int rc = capture_take(o->h, o->s, c, &o->at_ns, e);
	if (rc == 0)
		rc = capture_let_go(o->h, o->s, c, e);
	operation_phase(o, "let_go");
	if (rc == 0)
		rc = capture_publish(o->h, o->s, c, &o->at_ns, e);
	settle(o, k);
	if (rc < 0)
		return rc;
	o->next = *o->s;
	o->change.add = &c->row;
	const struct host_sandbox *i = &o->next.info;
	o->data = json_pack("{s:I, s:I, s:I}", "stopped_us",
		(json_int_t)((c->went_on_ns - c->stopped_ns) / 1000), "memory_written_bytes",
		(json_int_t)i->memory_written_bytes, "memory_kept_bytes",
		(json_int_t)i->memory_kept_bytes);
	return 0;
}

void checkpoint_undo(struct operation *o, const struct err *why)
{
	struct checkpoint *k = o->work;
	struct capture *c = &k->capture;
	settle(o, k);
	o->next = *o->s;
	if (c->stopped_ns && !c->went_on)
		still_note(&o->next.info, why);
}

void checkpoint_done(struct operation *o)
{
	struct checkpoint *k = o->work;
	capture_done(o->h, &k->capture, o->succeeded);
}
