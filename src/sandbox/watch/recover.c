// SPDX-License-Identifier: Apache-2.0
// What a starting server does with what an earlier one left, in this order:
//  1. every row is loaded; running ones whose shim is alive (boot id, pid, start time agree) are
//  kept;
//  2. the slot pool starts and removes all slots but theirs;
//  3. open creates and resumes are undone, open destroys finished, a pause is finished where its
//  snapshot exists and taken back otherwise, so is a fork or snapshot of a running one; ended
//  sandboxes get their cause from exit.json;
//  4. directories that no row claims are removed.
// Each step can be cut by another kill and done again.
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/proc.h"
#include "http/json.h"
#include "sandbox/capture/capture.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/life/end.h"
#include "sandbox/machine/reach.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/store.h"
#include "sandbox/watch/recover.h"
#include "shim/shim.h"

// What the journal says of the sandbox's open operation.
struct open_op {
	char kind[24], id[UUID_SIZE], snapshot[UUID_SIZE], layer[UUID_SIZE];
	bool full; // full_next of before
};

static void read_op(const char *kind, const char *id, const char *data, struct open_op *ret)
{
	_cleanup_json_ json_t *j = json_loads(data && *data ? data : "{}", 0, NULL);
	const char *snapshot = json_string_value(json_object_get(j, "snapshot"));
	const char *layer = json_string_value(json_object_get(j, "layer"));
	*ret = (struct open_op){.full = json_is_true(json_object_get(j, "full"))};
	snprintf(ret->kind, sizeof ret->kind, "%s", kind);
	snprintf(ret->id, sizeof ret->id, "%s", id);
	snprintf(ret->snapshot, sizeof ret->snapshot, "%s", snapshot ? snapshot : "");
	snprintf(ret->layer, sizeof ret->layer, "%s", layer ? layer : "");
}

static int load_row(struct host *h, struct sandbox *s, const char *open_kind, const char *op_id,
	const char *op_data)
{
	char dir[512];
	struct shim_state st;
	struct err e = {0};
	struct open_op *op = calloc(1, sizeof *op);
	if (!op) {
		free(s);
		return -ENOMEM;
	}
	s->operation = "recover";
	read_op(open_kind, op_id, op_data, op);
	if (s->info.state != SANDBOX_STOPPED && host_run_path(h, s->info.id, dir) == 0 &&
		shim_adopt(dir, &st, &s->pidfd, &e) < 0)
		s->pidfd = -1;
	if (str_eq(open_kind, "create"))
		s->info.state = SANDBOX_PENDING;
	else if (str_eq(open_kind, "destroy"))
		s->info.state = SANDBOX_STOPPING;
	if (host_insert(h, s) < 0) {
		free(s); // two open operations on one sandbox: the first row stands
		free(op);
		return 0;
	}
	s->recover = op;
	return 0;
}

// A pause may have to be taken back, so its machine is kept until that is clear.
static bool has_machine(const struct sandbox *s)
{
	return s->info.state == SANDBOX_RUNNING || s->info.state == SANDBOX_PAUSING;
}

static int start_slots(struct host *h, const struct host_config *cfg, struct err *e)
{
	_cleanup_free_ unsigned *keep = calloc(h->n_sandboxes + 1u, sizeof *keep);
	size_t n = 0;
	if (!keep)
		return err_errno(e, ENOMEM, "slots");
	for (size_t b = 0; b < HOST_BUCKETS; b++)
		for (struct sandbox *s = h->buckets[b]; s; s = s->next)
			if (has_machine(s) && s->pidfd >= 0 && s->has_slot)
				keep[n++] = s->slot.index;
	struct slot_pool_config sc = {.run_dir = h->run_dir,
		.range = cfg->slot_range,
		.warm = cfg->warm_slots,
		.max = h->max_sandboxes + cfg->warm_slots,
		.uid_base = HOST_UID_BASE,
		.allow = cfg->allow,
		.users = cfg->users,
		.n_users = cfg->n_users};
	return slot_pool_new(&sc, keep, n, &h->slots, e);
}

static bool snapshot_is_there(const struct host *h, const char *id)
{
	char path[sizeof "snapshots//snapshot.json" + UUID_SIZE];
	snprintf(path, sizeof path, "snapshots/%.36s/snapshot.json", id);
	return id[0] && file_exists(h->data_fd, path);
}

// The remains of a snapshot that was not finished, or whose row was not written.
static void drop_unfinished(struct host *h, const char *id)
{
	struct err e = {0};
	char path[64];
	struct store_snapshot row;
	static const char *const parts[] = {"vmstate", "disk.img", "working_set"};
	if (!id[0] || store_get_snapshot(h, id, &row, &e) == 0 || e.code != ERR_NOT_FOUND)
		return;
	e = (struct err){0};
	if (snapshot_delete(h->data_fd, id, &e) < 0)
		log_warn("unfinished snapshot is kept for now snapshot=%s error=%s", id, e.text);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		snprintf(path, sizeof path, "snapshots/%.36s.%s", id, parts[i]);
		unlinkat(h->data_fd, path, 0);
	}
}

// The row of a snapshot whose files are all there: the server died between the two.
static int remember_snapshot(struct host *h, const struct sandbox *s, const struct open_op *op,
	struct store_snapshot *ret, struct err *e)
{
	struct snapshot_info info;
	_cleanup_(header_freep) struct header *hd = NULL;
	int rc = snapshot_read(h->data_fd, op->snapshot, &info, &hd, e);
	if (rc < 0)
		return rc;
	struct store_snapshot row = {.info.vcpus = info.vcpus,
		.info.memory_mb = (unsigned)(info.memory_bytes >> 20),
		.info.disk_mb = s->info.disk_mb,
		.info.memory_bytes = header_data_bytes(hd),
		.info.created_ns = info.created_ns};
	snprintf(row.info.id, sizeof row.info.id, "%s", op->snapshot);
	snprintf(row.info.kind, sizeof row.info.kind, "pause");
	snprintf(row.info.sandbox, sizeof row.info.sandbox, "%s", s->info.id);
	snprintf(row.info.template, sizeof row.info.template, "%s", s->info.template);
	snprintf(row.info.parent, sizeof row.info.parent, "%s", s->parent);
	snprintf(row.token, sizeof row.token, "%s", s->token);
	*ret = row;
	return 0;
}

// Its slot was kept by the pool; from here on it is given back with everything else.
static int adopt_slot(struct host *h, struct sandbox *s, struct err *e)
{
	unsigned index = s->slot.index;
	s->has_slot = false;
	int rc = slot_pool_adopt(h->slots, index, &s->slot, e);
	if (rc < 0)
		return rc;
	s->has_slot = true;
	snprintf(s->info.address, sizeof s->info.address, "%s", s->slot.address);
	return 0;
}

// The pause got as far as its snapshot: what is left of it is done now.
static int finish_pause(struct host *h, struct sandbox *s, const struct open_op *op, struct err *e)
{
	struct store_snapshot row;
	int rc = remember_snapshot(h, s, op, &row, e);
	if (rc < 0)
		return rc;
	if (s->pidfd < 0 || adopt_slot(h, s, NULL) < 0)
		s->has_slot = false; // not kept
	if ((rc = sandbox_free_resources(h, s, true)) < 0)
		return err_errno(e, rc, "sandbox '%s'", s->info.id);
	s->info.state = SANDBOX_PAUSED;
	s->info.address[0] = s->info.backend[0] = '\0';
	s->info.ends_at_ns = 0;
	s->full_next = false;
	snprintf(s->info.snapshot, sizeof s->info.snapshot, "%s", op->snapshot);
	struct store_event ev = {.kind = "paused", .cause = "server_restarted"};
	rc = store_commit_snapshot(h, op->id, s, &row, NULL, &ev, e);
	if (rc == 0)
		log_info("pause finished sandbox=%s", s->info.id);
	return rc;
}

// A capture was under way when the server ended. The machine goes on from wherever it stands.
static int take_back(struct host *h, struct sandbox *s, const struct open_op *op, struct err *e)
{
	_cleanup_(capture_done) struct capture c = {.asked = true};
	_cleanup_(vmm_freep) struct vmm *v = NULL;
	enum vmm_state state;
	// Its answer comes when it is done with what it was told before.
	int rc = machine_vmm(h, s, &v, e);
	if (rc == 0)
		rc = vmm_wait_idle(v, &state, e);
	if (rc < 0)
		return rc;
	snprintf(c.snapshot, sizeof c.snapshot, "%s", op->snapshot);
	snprintf(c.layer, sizeof c.layer, "%s", op->layer);
	id_new_uuid(c.image);
	drop_unfinished(h, op->snapshot);
	memcpy(s->layer, op->layer, sizeof s->layer);
	s->full_next = op->full; // the row's stood for "uncertain"
	capture_settle(h, s, &c);
	if ((rc = capture_let_go(h, s, &c, e)) < 0)
		return rc;
	s->info.state = SANDBOX_RUNNING;
	s->info.snapshot[0] = s->layer[0] = '\0';
	_cleanup_free_ char *kind = str_printf("%s_failed", op->kind);
	struct err why = {0};
	err_set(&why, ERR_INTERNAL, "the server was restarted during the %s; the sandbox runs on",
		op->kind);
	struct store_event ev = {
		.kind = kind ? kind : "failed", .cause = "server_restarted", .failed = &why};
	rc = store_commit(h, op->id, s, &ev, e);
	if (rc == 0)
		log_info("unfinished %s taken back sandbox=%s", op->kind, s->info.id);
	return rc;
}

static int adopt(struct host *h, struct sandbox *s, const struct open_op *op, struct err *e)
{
	int rc = adopt_slot(h, s, e);
	if (rc < 0)
		return rc;
	if (op->layer[0] && (rc = take_back(h, s, op, e)) < 0)
		return rc;
	if (op->kind[0] && !op->layer[0]) { // a roll-back before its commit
		drop_unfinished(h, op->snapshot);
		if ((rc = store_commit(h, op->id, s, NULL, e)) < 0)
			return rc;
	}
	log_info("adopted sandbox=%s", s->info.id);
	monitor_watch(h, s);
	return 0;
}

// Of a paused one nothing runs; what a resume had made goes.
static int settle_paused(struct host *h, struct sandbox *s, const struct open_op *op, struct err *e)
{
	s->has_slot = false;
	int rc = sandbox_free_resources(h, s, true);
	if (rc < 0)
		return err_errno(e, rc, "sandbox '%s'", s->info.id);
	bool resuming = s->info.state == SANDBOX_RESUMING;
	if (op->kind[0])
		drop_unfinished(h, str_eq(op->snapshot, s->info.snapshot) ? "" : op->snapshot);
	s->info.state = SANDBOX_PAUSED;
	s->info.address[0] = s->info.backend[0] = '\0';
	struct err why = {0};
	err_set(&why, ERR_INTERNAL,
		"the server was restarted during the resume; it is still paused");
	struct store_event ev = {
		.kind = "resume_failed", .cause = "server_restarted", .failed = &why};
	if (op->kind[0] || resuming)
		rc = store_commit(h, op->kind[0] ? op->id : NULL, s, resuming ? &ev : NULL, e);
	return rc;
}

// Checkpoints whose fork did not live to drop them.
static void drop_checkpoints(struct host *h)
{
	_cleanup_free_ struct store_snapshot *list = NULL;
	size_t n = 0;
	struct err e = {0};
	int rc = store_list_snapshots(h, "checkpoint", NULL, NULL, &list, &n, &e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = snapshot_drop(h, NULL, list[i].info.id, NULL, &e);
	if (rc < 0)
		log_warn("checkpoints are kept for now error=%s", e.text);
}

static int settle(struct host *h, struct sandbox *s, const struct open_op *op, struct err *e)
{
	int rc;
	switch (s->info.state) {
	case SANDBOX_STOPPED:
		return 0;
	case SANDBOX_PAUSED:
	case SANDBOX_RESUMING:
		return settle_paused(h, s, op, e);
	case SANDBOX_PAUSING:
		if (str_eq(op->kind, "pause") && snapshot_is_there(h, op->snapshot))
			return finish_pause(h, s, op, e);
		// fallthrough
	case SANDBOX_RUNNING:
		if (s->pidfd >= 0) {
			rc = adopt(h, s, op, e);
			if (rc == 0)
				return 0;
			log_warn("not adopted sandbox=%s error=%s", s->info.id, e->text);
		} else {
			s->has_slot = false; // not kept
		}
		drop_unfinished(h, op->snapshot);
		sandbox_ended(h, s);
		if (op->kind[0])
			store_commit(h, op->id, s, NULL, e);
		return 0;
	case SANDBOX_PENDING: {
		struct store_event ev = {.kind = "create_failed", .cause = "server_lost"};
		s->has_slot = false;
		drop_unfinished(h, op->snapshot);
		if ((rc = sandbox_free_resources(h, s, false)) < 0)
			return err_errno(e, rc, "sandbox '%s' of an unfinished create", s->info.id);
		if ((rc = store_forget(h, s->info.id, &ev, e)) < 0)
			return rc;
		log_info("unfinished create undone sandbox=%s", s->info.id);
		host_remove(h, s);
		return 1;
	}
	default: { // destroy under way, or an error that freeing may mend
		struct store_event ev = {.kind = "stopped", .cause = "killed"};
		s->has_slot = false;
		if ((rc = sandbox_free_resources(h, s, false)) < 0)
			return err_errno(e, rc, "sandbox '%s'", s->info.id);
		s->info.state = SANDBOX_STOPPED;
		s->info.stopped_ns = clock_realtime_ns();
		s->info.address[0] = '\0';
		if (!s->info.cause[0])
			snprintf(s->info.cause, sizeof s->info.cause, "killed");
		return store_commit(h, op->id[0] ? op->id : NULL, s, &ev, e);
	}
	}
}

// Directories named like sandboxes that no row knows.
static int sweep(struct host *h, const char *path, bool run, struct err *e)
{
	_cleanup_closedir_ DIR *d = opendir(path);
	if (!d)
		return errno == ENOENT ? 0 : err_errno(e, errno, "%s", path);
	for (struct dirent *de; (de = readdir(d));) {
		if (!id_is_sandbox(de->d_name) || strlen(de->d_name) != SANDBOX_ID_LEN)
			continue;
		struct sandbox *s = host_find(h, de->d_name);
		if (s && !(run && s->info.state == SANDBOX_STOPPED))
			continue;
		char full[1024];
		struct err why = {0};
		_cleanup_close_ int pidfd = -1;
		struct shim_state st;
		if (str_format(full, sizeof full, "%s/%s", path, de->d_name) < 0)
			continue;
		log_info("left over, removed path=%s", full);
		if (run && shim_adopt(full, &st, &pidfd, &why) < 0)
			pidfd = -1;
		int rc = run ? shim_stop(full, pidfd, &why) : file_rm_rf(AT_FDCWD, full);
		if (rc < 0)
			log_warn("could not remove path=%s error=%s", full, err_text(&why, rc));
	}
	return 0;
}

int host_clear_run_dir(const char *run_dir, struct err *e)
{
	// No row claims anything.
	_cleanup_free_ struct host *nobody = calloc(1, sizeof *nobody);
	if (!nobody)
		return err_errno(e, ENOMEM, "%s", run_dir);
	int rc = sweep(nobody, run_dir, true, e);
	if (rc == 0 && (rc = slot_cleanup_all(run_dir, e)) == -ENOENT)
		rc = 0;
	if (rc == 0 && (rc = file_rm_rf(AT_FDCWD, run_dir)) < 0)
		err_errno(e, rc, "remove %s", run_dir);
	return rc;
}

void host_recover_abandon(struct host *h)
{
	for (size_t b = 0; b < HOST_BUCKETS; b++)
		for (struct sandbox *s = h->buckets[b]; s; s = s->next)
			if (s->recover) {
				free(s->recover);
				s->recover = NULL;
				s->operation = NULL;
			}
}

int host_recover(struct host *h, const struct host_config *cfg, struct err *e)
{
	char disks[512];
	int rc = cfg->alone ? 0 : store_load(h, load_row, e);
	if (rc < 0 || (rc = start_slots(h, cfg, e)) < 0 || cfg->alone)
		return rc;
	for (size_t b = 0; b < HOST_BUCKETS; b++)
		for (struct sandbox *s = h->buckets[b], *next; s; s = next) {
			next = s->next;
			struct err why = {0};
			struct open_op op = *s->recover;
			free(s->recover);
			s->recover = NULL;
			rc = settle(h, s, &op, &why);
			if (rc < 0) {
				// One that cannot be settled must not keep the others from their
				// users.
				log_error("not settled sandbox=%s error=%s", s->info.id, why.text);
				s->info.state = SANDBOX_ERROR;
			}
			if (rc <= 0) {
				pthread_mutex_lock(&h->lock);
				host_release(h, s);
				pthread_mutex_unlock(&h->lock);
			}
		}
	if (str_format(disks, sizeof disks, "%s/sandboxes", h->data_dir) < 0)
		return err_set(e, ERR_INTERNAL, "data directory path too long");
	if ((rc = sweep(h, h->run_dir, true, e)) < 0 || (rc = sweep(h, disks, false, e)) < 0)
		return rc;
	drop_checkpoints(h);
	monitor_wake(h);
	return 0;
}
