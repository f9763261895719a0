// SPDX-License-Identifier: Apache-2.0
// What a starting server does with what an earlier one left, in this order:
//  1. every row is loaded; running ones whose shim is alive (boot id, pid, start time agree) are
//  kept;
//  2. the slot pool starts and removes all slots but theirs;
//  3. open creates are undone, open destroys finished, ended sandboxes get their cause from
//  exit.json;
//  4. directories that no row claims are removed.
// Each step can be cut by another kill and done again.
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/proc.h"
#include "sandbox/internal.h"
#include "shim/shim.h"

static int load_row(struct host *h, struct sandbox *s, const char *open_op, const char *op_id)
{
	char dir[512];
	struct shim_state st;
	struct err e = {0};
	s->operation = "recover";
	snprintf(s->op_id, sizeof s->op_id, "%s", op_id);
	if (s->info.state != SANDBOX_STOPPED && host_run_path(h, s->info.id, dir) == 0 &&
		shim_adopt(dir, &st, &s->pidfd, &e) < 0)
		s->pidfd = -1;
	if (str_eq(open_op, "create"))
		s->info.state = SANDBOX_PENDING;
	else if (str_eq(open_op, "destroy"))
		s->info.state = SANDBOX_STOPPING;
	if (host_insert(h, s) < 0)
		free(s); // two open operations on one sandbox: the first row stands
	return 0;
}

static int start_slots(struct host *h, const struct host_config *cfg, struct err *e)
{
	_cleanup_free_ unsigned *keep = calloc(h->n_sandboxes + 1u, sizeof *keep);
	size_t n = 0;
	if (!keep)
		return err_errno(e, ENOMEM, "slots");
	for (size_t b = 0; b < HOST_BUCKETS; b++)
		for (struct sandbox *s = h->buckets[b]; s; s = s->next)
			if (s->info.state == SANDBOX_RUNNING && s->pidfd >= 0 && s->has_slot)
				keep[n++] = s->slot.index;
	struct slot_pool_config sc = {.run_dir = h->run_dir,
		.range = cfg->slot_range,
		.warm = cfg->warm_slots,
		.max = h->max_sandboxes + cfg->warm_slots,
		.uid_base = HOST_UID_BASE,
		.allow = cfg->allow};
	return slot_pool_new(&sc, keep, n, &h->slots, e);
}

static int settle(struct host *h, struct sandbox *s, struct err *e)
{
	int rc;
	switch (s->info.state) {
	case SANDBOX_STOPPED:
		return 0;
	case SANDBOX_RUNNING:
		if (s->pidfd >= 0) {
			unsigned index = s->slot.index;
			rc = slot_pool_adopt(h->slots, index, &s->slot, e);
			if (rc == 0) {
				snprintf(s->info.address, sizeof s->info.address, "%s",
					s->slot.address);
				log_info("adopted sandbox=%s", s->info.id);
				monitor_watch(h, s);
				return 0;
			}
			log_warn("not adopted sandbox=%s error=%s", s->info.id, e->text);
		}
		s->has_slot = false; // not kept: the pool removed it
		sandbox_ended(h, s);
		return 0;
	case SANDBOX_PENDING: {
		struct store_event ev = {.kind = "create_failed", .cause = "server_lost"};
		s->has_slot = false;
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
		return store_commit(h, s->op_id[0] ? s->op_id : NULL, s, &ev, e);
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
		int rc = run ? shim_stop(full, pidfd, 0, &why) : file_rm_rf(AT_FDCWD, full);
		if (rc < 0)
			log_warn("could not remove path=%s error=%s", full, err_text(&why, rc));
	}
	return 0;
}

int host_recover(struct host *h, const struct host_config *cfg, struct err *e)
{
	char disks[512];
	int rc = store_load(h, load_row, e);
	if (rc < 0 || (rc = start_slots(h, cfg, e)) < 0)
		return rc;
	for (size_t b = 0; b < HOST_BUCKETS; b++)
		for (struct sandbox *s = h->buckets[b], *next; s; s = next) {
			next = s->next;
			struct err why = {0};
			rc = settle(h, s, &why);
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
	monitor_wake(h);
	return 0;
}
