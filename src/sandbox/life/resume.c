// SPDX-License-Identifier: Apache-2.0
// Resume, and its relative the roll-back: a sandbox goes on from a snapshot.
//
// A roll-back first makes the chosen snapshot the one that the sandbox is paused at (a copy of its
// own, in one transaction with the journal entry); from there it is a resume like any other, so
// that whatever happens the sandbox is paused at either the old or the new one.
#include <string.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "disk/image.h"
#include "http/json.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/life/end.h"
#include "sandbox/machine/machine.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/state.h"
#include "sandbox/table/turn.h"

// The row of the sandbox as it is while it is being resumed.
static int journal(struct host *h, const struct host_resume *req, struct sandbox *s, struct err *e)
{
	pthread_mutex_lock(&h->lock);
	sandbox_move(&s->info, SANDBOX_RESUMING, req->op_id);
	pthread_mutex_unlock(&h->lock);
	int rc = store_op_begin(h, req->op_id, "resume", s, NULL, e);
	if (rc < 0) {
		pthread_mutex_lock(&h->lock);
		sandbox_move(&s->info, SANDBOX_PAUSED, "journal failed");
		pthread_mutex_unlock(&h->lock);
	}
	return rc;
}

// Still paused, whatever was made is gone. The reason is in e.
static void fail_back(struct host *h, struct sandbox *s, const char *op_id, const struct err *why)
{
	struct err e = {0};
	if (sandbox_free_resources(h, s, true) < 0)
		log_error("not freed after a failed resume sandbox=%s", s->info.id);
	struct sandbox done = *s;
	sandbox_move(&done.info, SANDBOX_PAUSED, "resume failed");
	done.info.address[0] = done.info.backend[0] = '\0';
	_cleanup_json_ json_t *data =
		json_pack("{s:s%}", "error", why->text, MIN(strlen(why->text), (size_t)400));
	struct store_event ev = {
		.kind = "resume_failed", .cause = "resume_failed", .data = data, .failed = why};
	if (store_commit(h, op_id, &done, &ev, &e) < 0)
		log_error("failed resume not recorded sandbox=%s error=%s", s->info.id, e.text);
	pthread_mutex_lock(&h->lock);
	s->info = done.info;
	pthread_mutex_unlock(&h->lock);
}

static int commit(struct host *h, const struct host_resume *req, struct sandbox *s, uint64_t asked,
	uint64_t started, uint64_t *since, struct err *e)
{
	char used[UUID_SIZE];
	struct sandbox done = *s;
	memcpy(used, s->info.snapshot, sizeof used);
	sandbox_move(&done.info, SANDBOX_RUNNING, req->op_id);
	done.info.snapshot[0] = '\0';
	done.info.started_ns = clock_realtime_ns();
	done.info.ends_at_ns = turn_ends_at(req->ends_at_ns, asked);
	_cleanup_json_ json_t *data = json_pack("{s:I, s:s, s:I, s:o}", "duration_us",
		(json_int_t)((clock_monotonic_ns() - started) / 1000), "backend", done.info.backend,
		"generation", (json_int_t)done.info.generation, "phases",
		sandbox_phases_json(&done.info));
	struct store_event ev = {.kind = "resumed",
		.cause = req->from[0]	  ? "rolled_back"
			 : req->disk_only ? "disk_only"
					  : NULL,
		.data = data};
	int rc = fault_hit("resume.before_commit", e);
	if (rc == 0)
		rc = store_commit(h, req->op_id, &done, &ev, e);
	if (rc < 0)
		return err_prefix(e, rc, "commit");
	sandbox_phase(&done.info, "commit", since);
	pthread_mutex_lock(&h->lock);
	s->info = done.info;
	s->retry_at_ns = 0;
	h->resumes++;
	monitor_watch(h, s);
	pthread_mutex_unlock(&h->lock);
	return 0;
}

static int resume_steps(struct host *h, const struct host_resume *req, struct sandbox *s,
	uint64_t asked, struct err *e)
{
	uint64_t t = clock_monotonic_ns(), started = t;
	struct image_info img;
	struct source src = {0};
	// What is wrong with the snapshot is told before anything is begun.
	int rc = source_open(h, s->info.snapshot, req->disk_only, &src, e);
	if (rc == 0 && req->disk_only)
		rc = image_load(h->data_dir, "base", &img, e);
	if (rc == 0)
		rc = journal(h, req, s, e);
	if (rc < 0) {
		source_done(&src);
		return rc;
	}
	sandbox_phase(&s->info, "journal", &t);
	const struct machine_plan plan = {.operation = "resume",
		.img = req->disk_only ? &img : NULL,
		.src = &src,
		.token = req->token};
	rc = fault_hit("resume.after_journal", e);
	if (rc == 0)
		rc = machine_up(h, s, &plan, &t, e);
	if (rc == 0)
		rc = commit(h, req, s, asked, started, &t, e);
	if (rc < 0)
		fail_back(h, s, req->op_id, e);
	source_done(&src);
	return rc;
}

// The machine of a running sandbox is given up; it is paused at the snapshot afterwards.
static int roll_back(
	struct host *h, const struct host_resume *req, struct sandbox *s, struct err *e)
{
	struct source src;
	char old[UUID_SIZE], copy[UUID_SIZE], text[160];
	bool running = s->info.state == SANDBOX_RUNNING;
	int rc = source_open(h, req->from, req->disk_only, &src, e);
	if (rc < 0)
		return rc;
	struct store_snapshot row = src.row;
	if (!str_eq(row.info.sandbox, s->info.id))
		rc = err_set(e, ERR_INVALID,
			"snapshot %s is of sandbox '%s': a sandbox goes back only to its own",
			req->from, row.info.sandbox);
	id_new_uuid(copy);
	memcpy(old, s->info.snapshot, sizeof old);
	snprintf(text, sizeof text, "{\"snapshot\":\"%s\"}", copy);
	char op[UUID_SIZE];
	id_new_uuid(op);
	if (rc == 0)
		rc = store_op_begin(h, op, "roll_back", s, text, e);
	if (rc < 0) {
		source_done(&src);
		return rc;
	}
	rc = snapshot_copy(h, &src, copy, SNAPSHOT_PAUSE, e);
	source_done(&src);
	if (rc < 0) {
		struct err why = {0};
		if (store_commit(h, op, s, NULL, &why) < 0)
			log_error("journal not closed sandbox=%s error=%s", s->info.id, why.text);
		return rc;
	}
	snprintf(row.info.id, sizeof row.info.id, "%s", copy);
	snprintf(row.info.kind, sizeof row.info.kind, "pause");
	row.info.created_ns = clock_realtime_ns();
	struct sandbox done = *s;
	if (running)
		sandbox_move(&done.info, SANDBOX_PAUSING, "roll-back");
	sandbox_move(&done.info, SANDBOX_PAUSED, "roll-back");
	snprintf(done.info.snapshot, sizeof done.info.snapshot, "%s", copy);
	done.info.vcpus = row.info.vcpus;
	done.info.memory_mb = row.info.memory_mb;
	done.info.disk_mb = row.info.disk_mb;
	done.info.address[0] = '\0';
	done.info.ends_at_ns = 0;
	done.full_next = false;
	struct store_event ev = {.kind = "rolled_back"};
	rc = store_commit_snapshot(h, op, &done, &row, NULL, &ev, e);
	if (rc < 0) {
		snapshot_delete(h->data_fd, copy, NULL);
		return rc;
	}
	// Paused at the new one from here on; what still runs is of no account.
	if (running && (rc = sandbox_free_resources(h, s, true)) < 0)
		err_errno(e, rc, "sandbox '%s' could not be stopped", s->info.id);
	done.slot = s->slot;
	done.has_slot = s->has_slot;
	pthread_mutex_lock(&h->lock);
	s->info = done.info;
	s->full_next = false;
	pthread_mutex_unlock(&h->lock);
	struct err why = {0};
	if (old[0] && snapshot_drop(h, NULL, old, NULL, &why) < 0)
		log_warn("old snapshot is kept for now snapshot=%s error=%s", old, why.text);
	return rc;
}

int host_resume(
	struct host *h, const struct host_resume *req, struct host_sandbox *ret, struct err *e)
{
	struct err local = {0};
	struct sandbox *s = NULL;
	uint64_t asked = clock_monotonic_ns();
	bool turn = true;
	if (!e)
		e = &local;
	if (req->from[0] && !id_is_uuid(req->from))
		return err_set(e, ERR_INVALID, "bad snapshot id");
	unsigned states = 1u << SANDBOX_PAUSED | (req->from[0] ? 1u << SANDBOX_RUNNING : 0);
	int rc = sandbox_claim(h, req->op_id, req->id, "resume", states, &s, ret, e);
	if (rc != 0)
		return rc < 0 ? rc : 0;
	pthread_mutex_lock(&h->lock);
	if (s->info.state == SANDBOX_PAUSED && host_live(h) >= h->max_sandboxes)
		rc = err_set(e, ERR_LIMIT,
			"this host runs %u sandboxes, its limit (serve --max-sandboxes)",
			h->max_sandboxes);
	s->starts = rc == 0;
	if (rc == 0)
		turn = turn_join(h, s);
	monitor_unwatch(h, s);
	pthread_mutex_unlock(&h->lock);
	// One that is rolled back runs on while it waits.
	if (!turn)
		rc = turn_wait(h, s, e);
	if (rc == 0 && req->from[0])
		rc = roll_back(h, req, s, e);
	if (rc == 0) {
		pthread_rwlock_rdlock(&h->layers_lock);
		rc = resume_steps(h, req, s, asked, e);
		pthread_rwlock_unlock(&h->layers_lock);
	}
	gate_leave(&h->gate, &s->ticket);
	if (rc < 0)
		log_warn("resume failed sandbox=%s error=%s", req->id, err_text(e, rc));
	else
		log_info("resumed sandbox=%s backend=%s", req->id, s->info.backend);
	pthread_mutex_lock(&h->lock);
	s->starts = false;
	if (s->pidfd >= 0)
		monitor_watch(h, s);
	*ret = s->info;
	host_release(h, s);
	pthread_mutex_unlock(&h->lock);
	monitor_wake(h);
	upkeep_wake(h); // the snapshot is not needed any more; it goes there
	return rc;
}
