// SPDX-License-Identifier: Apache-2.0
// Snapshot templates: from a running sandbox, which goes on, or from a paused one.
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "http/json.h"
#include "disk/disk.h"
#include "sandbox/capture/checkpoint.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"

static int from_running(struct host *h, const struct host_snapshot_create *req, struct sandbox *s,
	struct store_snapshot *ret, struct err *e)
{
	static const struct checkpoint kind = {"template", "snapshot", "snapshot.before_commit",
		"snapshot_created", "snapshot_failed"};
	return checkpoint(h, s, &kind, req->op_id, req->snapshot,
		json_pack("{s:s}", "snapshot", req->snapshot), ret, e);
}

static int from_paused(struct host *h, const struct host_snapshot_create *req, struct sandbox *s,
	struct store_snapshot *ret, struct err *e)
{
	struct source src;
	char journal[160];
	snprintf(journal, sizeof journal, "{\"snapshot\":\"%s\"}", req->snapshot);
	int rc = source_open(h, s->info.snapshot, true, &src, e);
	if (rc < 0)
		return rc;
	rc = store_op_begin(h, req->op_id, "snapshot", s, journal, e);
	if (rc == 0)
		rc = snapshot_copy(h, &src, req->snapshot, SNAPSHOT_TEMPLATE, e);
	struct store_snapshot row = src.row;
	source_done(&src);
	snprintf(row.info.id, sizeof row.info.id, "%s", req->snapshot);
	snprintf(row.info.kind, sizeof row.info.kind, "template");
	snprintf(row.info.parent, sizeof row.info.parent, "%s", s->info.snapshot);
	row.info.created_ns = clock_realtime_ns();
	if (rc == 0)
		rc = fault_hit("snapshot.before_commit", e);
	_cleanup_json_ json_t *data = json_pack("{s:s}", "snapshot", req->snapshot);
	struct store_event ev = {.kind = rc == 0 ? "snapshot_created" : "snapshot_failed",
		.failed = rc == 0 ? NULL : e,
		.data = data};
	struct err why = {0};
	int committed =
		store_commit_snapshot(h, req->op_id, s, rc == 0 ? &row : NULL, NULL, &ev, &why);
	if (committed < 0 && rc == 0) {
		snapshot_delete(h->data_fd, req->snapshot, NULL);
		*e = why;
		rc = committed;
	}
	*ret = row;
	return rc;
}

int host_snapshot_create(struct host *h, const struct host_snapshot_create *req,
	struct host_snapshot *ret, struct err *e)
{
	struct err local = {0};
	struct store_snapshot row = {0};
	struct host_sandbox info;
	struct sandbox *s = NULL;
	if (!e)
		e = &local;
	if (!id_is_uuid(req->snapshot))
		return err_set(e, ERR_INVALID, "bad snapshot id");
	int rc = sandbox_claim(h, req->op_id, req->id, "snapshot",
		1u << SANDBOX_RUNNING | 1u << SANDBOX_PAUSED, &s, &info, e);
	if (rc == 1) { // asked again
		rc = store_get_snapshot(h, req->snapshot, &row, e);
		if (rc == 0)
			*ret = row.info;
		return rc;
	}
	if (rc < 0)
		return rc;
	rc = store_get_snapshot(h, req->snapshot, &row, NULL);
	if (rc == 0)
		rc = err_set(e, ERR_CONFLICT, "snapshot id was used before");
	else
		rc = s->info.state == SANDBOX_RUNNING ? from_running(h, req, s, &row, e)
						      : from_paused(h, req, s, &row, e);
	if (rc < 0)
		log_warn("snapshot failed sandbox=%s error=%s", req->id, err_text(e, rc));
	else
		*ret = row.info;
	pthread_mutex_lock(&h->lock);
	s->layer[0] = '\0';
	host_release(h, s);
	pthread_mutex_unlock(&h->lock);
	upkeep_wake(h); // to merge it into one layer
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
	struct store_event ev = {.kind = "snapshot_deleted", .data = data};
	rc = snapshot_drop(h, op_id, snapshot, &ev, e);
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
