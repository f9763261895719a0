// SPDX-License-Identifier: Apache-2.0
// How a sandbox ends: destroyed by a call, by its time-out, or by itself.
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "net/sockets.h"
#include "sandbox/life/end.h"
#include "sandbox/capture/harvest.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/state.h"
#include "sandbox/table/store.h"
#include "shim/shim.h"

int sandbox_free_resources(struct host *h, struct sandbox *s, bool keep_log)
{
	static const char *const parts[] = {"rootfs.img", "base.hdr", "snap", "stage.mem",
		"stage.vmstate", "stage.disk", "working_set"};
	char dir[512], disk[512];
	struct err e = {0};
	int first = 0;
	if (host_run_path(h, s->info.id, dir) < 0 || host_disk_path(h, s->info.id, NULL, disk) < 0)
		return -ENAMETOOLONG;
	int rc = file_exists(AT_FDCWD, dir) || s->pidfd >= 0 ? shim_stop(dir, s->pidfd, &e) : 0;
	if (rc < 0) {
		log_error("shim not ended sandbox=%s error=%s", s->info.id, err_text(&e, rc));
		return rc; // its slot and disk are still in use
	}
	s->pidfd = safe_close(s->pidfd);
	s->ready_ns = 0;
	harvest(h, s);
	if (s->has_slot) {
		// Requests under way would wait for a guest that is gone.
		if (s->slot.address[0] && sockets_abort(s->slot.address, NULL, &e) < 0)
			log_debug("connections not aborted error=%s", e.text);
		if (h->slots)
			slot_pool_give(h->slots, &s->slot);
		s->has_slot = false;
	}
	for (size_t i = 0; keep_log && i < ARRAY_SIZE(parts); i++) {
		char part[sizeof disk + 32];
		snprintf(part, sizeof part, "%s/%s", disk, parts[i]);
		if ((rc = file_rm_rf(AT_FDCWD, part)) < 0)
			first = rc;
	}
	if (!keep_log && (rc = file_rm_rf(AT_FDCWD, disk)) < 0)
		first = rc;
	if (first < 0)
		log_error("disk not removed sandbox=%s error=%s", s->info.id, strerror(-first));
	return first;
}

// The sandbox is claimed by the caller; *s becomes stopped in the table and in the database.
static int record_end(struct host *h, struct sandbox *s, const char *op_id, const char *cause,
	const char *detail, struct err *e)
{
	struct sandbox done = *s;
	sandbox_move(&done.info, SANDBOX_STOPPED, cause);
	done.info.stopped_ns = clock_realtime_ns();
	done.info.address[0] = done.info.backend[0] = done.info.snapshot[0] = '\0';
	done.has_slot = false;
	snprintf(done.info.cause, sizeof done.info.cause, "%s", cause);
	snprintf(done.info.detail, sizeof done.info.detail, "%s", detail ? detail : "");
	struct store_event ev = {.kind = "stopped", .cause = cause};
	int rc = store_commit(h, op_id, &done, &ev, e);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&h->lock);
	s->info = done.info;
	pthread_mutex_unlock(&h->lock);
	sandbox_drop_pauses(h, s->info.id);
	upkeep_wake(h); // layers that nobody needs now
	return 0;
}

// Of one that ended by itself only the console and the row are left. The caller has claimed it.
static int forget_ended(struct host *h, struct sandbox *s, struct err *e)
{
	int rc = sandbox_free_resources(h, s, false);
	if (rc < 0)
		err_errno(e, rc, "sandbox '%s'", s->info.id);
	else
		rc = store_forget(h, s->info.id, NULL, e);
	pthread_mutex_lock(&h->lock);
	host_release(h, s);
	if (rc == 0)
		host_remove(h, s);
	pthread_mutex_unlock(&h->lock);
	return rc;
}

int host_destroy(
	struct host *h, const char *op_id, const char *id, const char *cause, struct err *e)
{
	char op_state[8], op_sandbox[64];
	int rc = store_op_find(h, op_id, op_state, op_sandbox, NULL, e);
	if (rc < 0)
		return rc;
	if (str_eq(op_state, "done"))
		return str_eq(op_sandbox, id)
			       ? 0
			       : err_set(e, ERR_CONFLICT, "operation id was used for sandbox '%s'",
					 op_sandbox);
	pthread_mutex_lock(&h->lock);
	struct sandbox *s;
	// One that is being made or changed is waited for, then ended: the caller wants it gone.
	// A start that has not begun does not begin any more.
	while ((s = host_find(h, id)) && s->operation) {
		gate_cancel(&h->gate, &s->ticket);
		pthread_cond_wait(&h->changed, &h->lock);
	}
	char disk[512];
	if (!s || (s->info.state == SANDBOX_STOPPED && (host_disk_path(h, id, NULL, disk) < 0 ||
							       !file_exists(AT_FDCWD, disk)))) {
		pthread_mutex_unlock(&h->lock);
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	}
	s->operation = "destroy";
	if (s->info.state == SANDBOX_STOPPED) {
		pthread_mutex_unlock(&h->lock);
		return forget_ended(h, s, e);
	}
	struct host_sandbox before = s->info;
	sandbox_move(&s->info, SANDBOX_STOPPING, cause);
	monitor_unwatch(h, s);
	pthread_mutex_unlock(&h->lock);

	rc = store_op_begin(h, op_id, "destroy", s, NULL, e);
	if (rc < 0) { // nothing was touched yet
		pthread_mutex_lock(&h->lock);
		s->info = before;
		if (s->pidfd >= 0)
			monitor_watch(h, s);
		host_release(h, s);
		pthread_mutex_unlock(&h->lock);
		return rc;
	}
	rc = fault_hit("destroy.after_journal", e);
	int freed = sandbox_free_resources(h, s, false);
	if (rc == 0)
		rc = freed;
	if (freed == 0) {
		int r = fault_hit("destroy.before_commit", e);
		int committed = record_end(h, s, op_id, cause, NULL, e);
		rc = rc < 0 ? rc : r < 0 ? r : committed;
	} else {
		err_errno(e, freed, "sandbox '%s' could not be freed; see the server's log", id);
	}
	pthread_mutex_lock(&h->lock);
	if (s->info.state == SANDBOX_STOPPED)
		h->destroys++;
	else
		sandbox_move(&s->info, SANDBOX_ERROR, "destroy failed");
	host_release(h, s);
	pthread_mutex_unlock(&h->lock);
	return rc;
}

void sandbox_ended(struct host *h, struct sandbox *s)
{
	char dir[512], console[512];
	struct shim_exit x = {0};
	struct err e = {0};
	const char *cause = "vmm_crash";
	if (host_run_path(h, s->info.id, dir) < 0 ||
		host_disk_path(h, s->info.id, "console.log", console) < 0)
		return;
	int rc = shim_read_exit(dir, &x, &e);
	const char *judged = shim_judge_console(console);
	if (rc < 0)
		cause = "shim_lost"; // killed hard: its namespace, and the VMM with it, is gone
	else if (judged)
		cause = judged;
	else if (str_eq(x.cause, "vmm_exit"))
		cause = "guest_poweroff";
	else if (x.cause[0])
		cause = x.cause;
	log_info("sandbox ended sandbox=%s cause=%s detail=%s", s->info.id, cause, x.detail);
	// The console is kept for the hour in which the ended sandbox can still be asked about.
	rc = sandbox_free_resources(h, s, true);
	if (rc == 0)
		rc = record_end(h, s, NULL, cause, x.detail, &e);
	if (rc < 0)
		log_error("end not recorded sandbox=%s error=%s", s->info.id, err_text(&e, rc));
	pthread_mutex_lock(&h->lock);
	h->guest_ends++;
	if (s->info.state != SANDBOX_STOPPED)
		sandbox_move(&s->info, SANDBOX_ERROR, "end not recorded");
	host_release(h, s);
	pthread_mutex_unlock(&h->lock);
}
