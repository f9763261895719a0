// SPDX-License-Identifier: Apache-2.0
// A snapshot of a sandbox that runs on, for fork and for templates. The guest stands still from the
// freeze to the thaw; what has to reach the disk does so while it runs again.
#include <string.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "http/json.h"
#include "sandbox/capture/checkpoint.h"
#include "sandbox/table/state.h"

static void add_times(
	json_t *data, const struct sandbox *s, const struct capture *c, uint64_t started)
{
	uint64_t stopped = c->went_on ? c->went_on_ns - c->stopped_ns : 0;
	json_object_set_new(data, "duration_us",
		json_integer((json_int_t)((clock_monotonic_ns() - started) / 1000)));
	json_object_set_new(data, "stopped_us", json_integer((json_int_t)(stopped / 1000)));
	json_object_set_new(data, "phases", sandbox_phases_json(&s->info));
}

// Whatever came of it, the operation is over and the row tells the lineage.
static int commit(struct host *h, struct sandbox *s, const char *op_id, struct capture *c,
	const struct store_event *ev, int rc, struct err *e)
{
	struct err why = {0};
	int committed =
		store_commit_snapshot(h, op_id, s, rc == 0 ? &c->row : NULL, NULL, ev, &why);
	if (committed == 0)
		return rc;
	log_error("snapshot not recorded sandbox=%s error=%s", s->info.id, why.text);
	s->full_next = true; // as the row says
	if (rc < 0)
		return rc;
	snapshot_delete(h->data_fd, c->snapshot, NULL);
	*e = why;
	return committed;
}

int checkpoint(struct host *h, struct sandbox *s, const struct checkpoint *k, const char *op_id,
	const char *snapshot, json_t *data, struct store_snapshot *ret, struct err *e)
{
	_cleanup_json_ _unused_ json_t *owned = data;
	_cleanup_(capture_done) struct capture c = {0};
	char journal[160];
	uint64_t t = clock_monotonic_ns(), started = t;
	bool full = s->full_next;
	int rc = capture_init(&c, k->kind, snapshot, full, journal);
	if (rc < 0)
		return err_set(e, ERR_INTERNAL, "journal entry too long");
	s->full_next = true; // in the row; the capture goes by what was before
	rc = store_op_begin(h, op_id, k->op, s, journal, e);
	s->full_next = full;
	if (rc < 0)
		return rc;
	sandbox_phase(&s->info, "journal", &t);
	rc = capture_take(h, s, &c, &t, e);
	if (rc == 0)
		rc = capture_let_go(h, s, &c, e);
	sandbox_phase(&s->info, "let_go", &t);
	if (rc == 0)
		rc = capture_publish(h, s, &c, &t, e);
	capture_settle(h, s, &c);
	if (rc == 0)
		rc = fault_hit(k->fault, e);
	add_times(data, s, &c, started);
	struct store_event ev = {.kind = rc == 0 ? k->done : k->failed,
		.cause = rc == 0 ? NULL : k->failed,
		.failed = rc == 0 ? NULL : e,
		.data = data};
	rc = commit(h, s, op_id, &c, &ev, rc, e);
	*ret = c.row;
	return rc;
}
