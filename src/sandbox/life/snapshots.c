// SPDX-License-Identifier: Apache-2.0
// Snapshot templates: from a running sandbox, which goes on, or from a paused one.
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/json.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/life/checkpoint.h"
#include "sandbox/life/rewarm.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/space.h"

// --- of a running one

static int from_running(struct operation *o, struct err *e)
{
	const struct checkpoint *k = o->work;
	int rc = checkpoint_steps(o, e);
	if (rc < 0)
		return rc;
	o->event = "snapshot_created";
	json_object_set_new(o->data, "snapshot", json_string(k->capture.snapshot));
	return 0;
}

static const struct operation_kind running_kind = {.name = "snapshot",
	.from = 1u << SANDBOX_RUNNING | 1u << SANDBOX_PAUSED,
	.during = SANDBOX_STATE_MAX,
	.failed = "snapshot_failed",
	.prepare = checkpoint_prepare,
	.steps = from_running,
	.undo = checkpoint_undo,
	.done = checkpoint_done};

// --- of a paused one

struct copy {
	const char *id;
	struct source src;
	struct store_snapshot row;
	bool made;
};

static int copy_prepare(struct operation *o, struct err *e)
{
	struct copy *c = o->work;
	int rc = space_check(o->h, "snapshot", 0, e);
	if (rc < 0)
		return rc;
	snprintf(o->journal, sizeof o->journal, "{\"snapshot\":\"%s\"}", c->id);
	rc = source_open(o->h, o->s->info.snapshot, true, &c->src, e);
	return rc < 0 ? rc : source_refuse_unquiesced(&c->src, "snapshot", e);
}

static int copy_steps(struct operation *o, struct err *e)
{
	struct copy *c = o->work;
	int rc = snapshot_copy(o->h, &c->src, c->id, SNAPSHOT_TEMPLATE, e);
	if (rc < 0)
		return rc;
	c->made = true;
	c->row = c->src.row;
	snprintf(c->row.info.id, sizeof c->row.info.id, "%s", c->id);
	snprintf(c->row.info.kind, sizeof c->row.info.kind, "template");
	snprintf(c->row.info.parent, sizeof c->row.info.parent, "%s", o->s->info.snapshot);
	c->row.info.created_ns = clock_realtime_ns();
	o->next = *o->s;
	o->change.add = &c->row;
	o->event = "snapshot_created";
	o->data = json_pack("{s:s}", "snapshot", c->id);
	return 0;
}

static void copy_done(struct operation *o)
{
	struct copy *c = o->work;
	if (c->made && !o->succeeded)
		snapshot_discard(o->h, c->id);
	source_done(&c->src);
}

static const struct operation_kind paused_kind = {.name = "snapshot",
	.from = 1u << SANDBOX_PAUSED,
	.during = SANDBOX_STATE_MAX,
	.failed = "snapshot_failed",
	.prepare = copy_prepare,
	.steps = copy_steps,
	.done = copy_done};

int host_snapshot_create(struct host *h, const struct host_snapshot_create *req,
	struct host_snapshot *ret, struct err *e)
{
	struct err local = {0};
	struct store_snapshot row = {0};
	struct host_sandbox info;
	struct operation o;
	if (!e)
		e = &local;
	if (!id_is_uuid(req->snapshot))
		return err_set(e, ERR_INVALID, "bad snapshot id");
	if (req->rewarm[0])
		return rewarm(h, req, ret, e);
	int rc = operation_claim(&o, h, &running_kind, req->op_id, req->id, &info, e);
	if (rc == 1 && (rc = store_get_snapshot(h, req->snapshot, &row, e)) == 0) {
		*ret = row.info; // asked again
		return 0;
	}
	if (rc < 0)
		return rc;
	if (store_get_snapshot(h, req->snapshot, &row, NULL) == 0) {
		rc = err_set(e, ERR_CONFLICT, "snapshot id was used before");
	} else if (o.s->info.state == SANDBOX_RUNNING) {
		struct checkpoint k = {.kind = "template", .snapshot = req->snapshot};
		rc = operation_do(&o, &k, e);
		row = k.capture.row;
	} else {
		struct copy c = {.id = req->snapshot};
		o.kind = &paused_kind;
		rc = operation_do(&o, &c, e);
		row = c.row;
	}
	operation_release(&o, NULL);
	if (rc == 0)
		*ret = row.info;
	return rc;
}

int host_snapshot_delete(struct host *h, const char *op_id, const char *snapshot, struct err *e)
{
	struct store_snapshot row = {0};
	if (!id_is_uuid(op_id) || !id_is_uuid(snapshot))
		return err_set(e, ERR_INVALID, "bad snapshot or operation id");
	struct err why = {0};
	int rc = store_get_snapshot(h, snapshot, &row, &why);
	if (rc < 0 && why.code == ERR_NOT_FOUND)
		return 0;
	if (rc < 0) {
		if (e)
			*e = why;
		return rc;
	}
	if (!str_eq(row.info.kind, "template"))
		return err_set(e, ERR_CONFLICT, "snapshot %s is in use: it is a %s of sandbox '%s'",
			snapshot, row.info.kind, row.info.sandbox);
	_cleanup_json_ json_t *data = json_pack("{s:s}", "snapshot", snapshot);
	const struct store_event ev = {.kind = "snapshot_deleted", .data = data};
	const struct store_change c = {.op_id = op_id, .drop = snapshot, .event = &ev};
	rc = store_apply(h, &c, e);
	if (rc == 0)
		log_info("snapshot deleted snapshot=%s", snapshot);
	return rc;
}

int host_snapshots(struct host *h, struct host_snapshot **ret, size_t *ret_n, struct err *e)
{
	_cleanup_free_ struct store_snapshot *rows = NULL;
	size_t n = 0;
	int rc = store_list_snapshots(h, NULL, NULL, NULL, &rows, &n, e);
	if (rc < 0)
		return rc;
	struct host_snapshot *list = calloc(n + 1, sizeof *list);
	if (!list)
		return err_errno(e, ENOMEM, "list of snapshots");
	for (size_t i = 0; i < n; i++)
		list[i] = rows[i].info;
	*ret = list;
	*ret_n = n;
	return 0;
}
