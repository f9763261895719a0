// SPDX-License-Identifier: Apache-2.0
// A freeing is a job of the pool, or begun by the job that wants it: free_step kills, waits a
// moment, and gives back slot and files. It is repeated with growing breaks until all is gone.
// While it goes on, sandbox.freeing is set and the sandbox stays in the table.
#include "sandbox/life/free.h"
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "net/sockets.h"
#include "sandbox/capture/harvest.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/machine/runtimes.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/statefile.h"
#include "sandbox/table/store.h"
#include "shim/shim.h"

#define TRY_MS 250	   // the first time
#define AGAIN_MAX_MS 5000u // between tries
// The try that is told, and each EVERY_TRY after it: 20 s after the kill, since the processes of a
// large guest end for seconds where processors are scarce.
#define TOLD_TRY 12
#define EVERY_TRY 16

struct freeing {
	struct host *h;
	struct sandbox *s; // stays in the table while s->freeing
	enum free_what what;
	unsigned tries;
};

static void give_slot(struct host *h, struct sandbox *s)
{
	struct err e = {0};
	if (!s->has_slot)
		return;
	// Requests under way would wait for a guest that is gone.
	if (s->slot.address[0] && sockets_abort(s->slot.address, NULL, &e) < 0)
		log_debug("connections not aborted error=%s", e.text);
	if (h->slots)
		slot_pool_give(h->slots, &s->slot);
	s->has_slot = false;
}

static int remove_files(struct host *h, struct sandbox *s, bool keep_console)
{
	static const char *const parts[] = {"rootfs.img", LINEAGE_FILE, "snap", "stage.mem",
		"stage.vmstate", "stage.disk", "working_set", "working_set.new"};
	char disk[512], part[sizeof disk + 32];
	int first = 0;
	if (host_disk_path(h, s->info.id, NULL, disk) < 0)
		return -ENAMETOOLONG;
	if (!keep_console)
		return file_rm_rf(AT_FDCWD, disk);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		snprintf(part, sizeof part, "%s/%s", disk, parts[i]);
		int rc = file_rm_rf(AT_FDCWD, part);
		if (rc < 0)
			first = rc;
	}
	return first;
}

static int free_step(struct freeing *f)
{
	struct host *h = f->h;
	struct sandbox *s = f->s;
	char dir[512];
	struct err e = {0};
	if (host_run_path(h, s->info.id, dir) < 0)
		return -ENAMETOOLONG;
	shim_kill(dir, s->pidfd);
	int rc = shim_wait_gone(dir, s->pidfd, f->tries ? 0 : TRY_MS, &e);
	if (rc < 0) {
		if (f->tries % EVERY_TRY == TOLD_TRY)
			log_warn("sandbox is not gone yet sandbox=%s error=%s", s->info.id,
				err_text(&e, rc));
		return rc;
	}
	pthread_mutex_lock(&h->lock);
	s->pidfd = safe_close(s->pidfd);
	pthread_mutex_unlock(&h->lock);
	s->ready_ns = 0;
	harvest(h, s);
	give_slot(h, s);
	lineage_forget(h, s); // before its file goes
	runtime_let_go(h, s);
	rc = remove_files(h, s, f->what == FREE_BUT_CONSOLE);
	pthread_mutex_lock(&h->lock);
	if (rc == 0 && f->what == FREE_ALL)
		s->has_files = false;
	bool over = s->info.state == SANDBOX_PAUSED || s->info.state == SANDBOX_STOPPED;
	pthread_mutex_unlock(&h->lock);
	if (over)
		statefile_remove(h, s->info.id);
	if (rc < 0 && f->tries % 16 == 1)
		log_error("files not removed sandbox=%s error=%s", s->info.id, strerror(-rc));
	return rc;
}

static void remove_row(struct host *h, struct sandbox *s)
{
	struct err e = {0};
	if (store_forget(h, s->info.id, NULL, &e) < 0)
		log_error("row not removed sandbox=%s error=%s", s->info.id, e.text);
	pthread_mutex_lock(&h->lock);
	bool taken = s->removed; // a destroy holds it, and frees it
	host_release(h, s);
	if (!taken)
		host_remove(h, s);
	pthread_mutex_unlock(&h->lock);
}

void sandbox_forget(struct host *h, struct sandbox *s)
{
	pthread_mutex_lock(&h->lock);
	bool later = s->freeing;
	s->forget = later; // it stays claimed
	pthread_mutex_unlock(&h->lock);
	if (!later)
		remove_row(h, s);
}

static void work(void *ctx);

static void finish(struct freeing *f)
{
	struct host *h = f->h;
	struct sandbox *s = f->s;
	pthread_mutex_lock(&h->lock);
	bool more = s->free_all && f->what != FREE_ALL;
	s->freeing = more;
	bool forget = s->forget && !more;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
	if (more) {
		f->what = FREE_ALL;
		work(f);
		return;
	}
	if (forget)
		remove_row(h, s);
	upkeep_wake(h); // layers that nobody needs now
	free(f);
}

static void work(void *ctx)
{
	struct freeing *f = ctx;
	if (free_step(f) == 0) {
		finish(f);
		return;
	}
	uint64_t ms = MIN(20u << MIN(f->tries, 16u), AGAIN_MAX_MS);
	f->tries++;
	// A host that is closed leaves it to the next start.
	if (workers_add(f->h->workers, true, deadline_in_ms((int64_t)ms), work, f) < 0)
		free(f);
}

int sandbox_wait_free(struct host *h, struct sandbox *s, uint64_t deadline_ns)
{
	int rc = 0;
	while (s->freeing && rc == 0)
		rc = cond_wait_until(&h->changed, &h->lock, deadline_ns);
	return s->freeing ? -ETIMEDOUT : 0;
}

// Waits for one under way. 0: none is.
static int join(struct host *h, struct sandbox *s, enum free_what what, int wait_ms)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	s->free_all |= what == FREE_ALL;
	int rc = sandbox_wait_free(h, s, deadline_in_ms(wait_ms));
	if (rc == 0) {
		s->freeing = true;
		s->free_all = false;
	}
	return rc;
}

int sandbox_free(struct host *h, struct sandbox *s, enum free_what what, int wait_ms)
{
	struct freeing *f = malloc(sizeof *f);
	char dir[512];
	if (!f)
		return -ENOMEM;
	*f = (struct freeing){h, s, what, 0};
	// At once, whatever the pool is at.
	if (host_run_path(h, s->info.id, dir) == 0)
		shim_kill(dir, s->pidfd);
	bool here = wait_ms > 0 && workers_is_job(h->workers);
	if (join(h, s, what, wait_ms) < 0 ||
		(!here && workers_add(h->workers, true, 0, work, f) < 0)) {
		free(f);
		return -EINPROGRESS;
	}
	if (here) { // what it does not get done now is a job's, which is not waited for
		work(f);
		wait_ms = 0;
	}
	pthread_mutex_lock(&h->lock);
	int rc = sandbox_wait_free(h, s, deadline_in_ms(wait_ms));
	pthread_mutex_unlock(&h->lock);
	return rc < 0 ? -EINPROGRESS : 0;
}

struct later {
	struct host *h;
	char id[64];
	int64_t again_ms;
};

static void free_later(void *ctx)
{
	struct later *l = ctx;
	struct host *h = l->h;
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, l->id);
	bool busy = s && s->operation;
	if (s && !busy)
		s->operation = "free";
	pthread_mutex_unlock(&h->lock);
	if (busy) {
		char dir[512];
		// What has it may have started processes since it was killed.
		if (host_run_path(h, l->id, dir) == 0)
			shim_kill(dir, -1);
		l->again_ms = MIN(l->again_ms * 2, 1000);
		if (workers_add(h->workers, true, deadline_in_ms(l->again_ms), free_later, l) < 0)
			free(l);
		return;
	}
	free(l);
	if (!s)
		return;
	sandbox_free(h, s, FREE_ALL, 0);
	pthread_mutex_lock(&h->lock);
	host_release(h, s);
	pthread_mutex_unlock(&h->lock);
}

void sandbox_free_later(struct host *h, const struct sandbox *s)
{
	struct later *l = malloc(sizeof *l);
	if (!l)
		return; // the next start does it
	*l = (struct later){.h = h, .again_ms = 10};
	memcpy(l->id, s->info.id, sizeof l->id);
	if (workers_add(h->workers, true, deadline_in_ms(l->again_ms), free_later, l) < 0)
		free(l);
}
