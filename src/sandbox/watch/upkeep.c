// SPDX-License-Identifier: Apache-2.0
// What is done behind the users' backs, by one thread, one thing after the other:
//
//	files of snapshots, layers and VMMs that nobody needs any more are removed
//	chains of layers are merged (merge.h)
//	records of pagers are taken
//	base images are prewarmed
//	the volume's marker follows the epoch of host.db
//	it is told when the volume becomes low, and when it no longer is
//
// A pass costs what has changed since the one before: all of it is known from memory (refs.h, notes
// of new snapshots), and where nothing has changed no file is opened.
#include "sandbox/watch/upkeep.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/json.h"
#include "base/log.h"
#include "disk/disk.h"
#include "disk/image.h"
#include "sandbox/capture/harvest.h"
#include "sandbox/life/prewarm.h"
#include "sandbox/machine/runtimes.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/space.h"
#include "sandbox/table/store.h"
#include "sandbox/watch/epoch.h"
#include "sandbox/watch/merge.h"
#include "shim/shim.h"
#include "snapshot/layer.h"
#include "snapshot/store.h"

#define IDLE_NS (10 * NSEC_PER_SEC)
#define RECORD_NS NSEC_PER_SEC // after it was ready: what it did first is recorded by then
#define RETRY_NS (300 * NSEC_PER_SEC)
#define MARKER_NS NSEC_PER_SEC // between writes of the volume's marker
#define STUCK_MAX 16u	       // that cannot be removed, in one pass
#define GONE_MAX 64u	       // layers forgotten in one transaction

struct upkeep {
	struct host *h;
	uint64_t images_seen;	  // what image_stamp was when all of them had their machine
	uint64_t freeze_after_ns; // not before, after a failure
	uint64_t marker_after_ns; // the marker is not written before
	enum space_level told;	  // in the last event
};

// --- what nobody needs

static void remove_snapshots(struct host *h)
{
	char id[UUID_SIZE], stuck[STUCK_MAX][UUID_SIZE];
	size_t n = 0;
	// One that cannot be removed keeps no other.
	while (n < STUCK_MAX && refs_next_snapshot(h->refs, id)) {
		struct err e = {0};
		int rc = snapshot_delete(h->data_fd, id, &e);
		if (rc == 0)
			rc = store_snapshot_gone(h, id, &e);
		if (rc == 0) {
			refs_snapshot_gone(h->refs, id);
			continue;
		}
		log_warn("spent snapshot is kept for now snapshot=%s error=%s", id,
			err_text(&e, rc));
		memcpy(stuck[n++], id, UUID_SIZE);
	}
	while (n)
		refs_snapshot_stays(h->refs, stuck[--n]);
}

static int remove_layer(int layers, const char *id)
{
	struct err e = {0};
	int rc = fault_hit("collect.before_remove", &e);
	if (rc == 0 && (rc = layer_remove(layers, id)) < 0)
		err_errno(&e, rc, "layers/%s", id);
	if (rc < 0)
		log_warn("layer stays for now layer=%s error=%s", id, err_text(&e, rc));
	return rc;
}

static void forget_layers(struct host *h, const char (*ids)[UUID_SIZE], size_t n)
{
	struct err e = {0};
	if (n && store_layers_gone(h, ids, n, &e) < 0) // the next start finds that they are gone
		log_warn("layers are not forgotten error=%s", e.text);
}

static void remove_layers(struct host *h)
{
	char gone[GONE_MAX][UUID_SIZE], stuck[STUCK_MAX][UUID_SIZE], id[UUID_SIZE];
	size_t n = 0, n_stuck = 0, removed = 0;
	_cleanup_close_ int layers = -1;
	if (h->damaged)
		return; // which layers are needed is not known
	while (n_stuck < STUCK_MAX && refs_next_layer(h->refs, id)) {
		if (layers < 0)
			layers = openat(h->data_fd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (remove_layer(layers, id) < 0) {
			memcpy(stuck[n_stuck++], id, UUID_SIZE);
			continue;
		}
		removed++;
		memcpy(gone[n++], id, UUID_SIZE);
		if (n == GONE_MAX) {
			forget_layers(h, gone, n);
			n = 0;
		}
	}
	forget_layers(h, gone, n);
	while (n_stuck--) { // on the list again
		refs_hold_layer(h->refs, stuck[n_stuck]);
		refs_release_layer(h->refs, stuck[n_stuck]);
	}
	if (removed)
		log_info("layers removed n=%zu", removed);
}

// --- chains

static void merge_noted(struct host *h)
{
	char id[UUID_SIZE];
	while (upkeep_take(h, id)) {
		struct err e = {0};
		int rc = merge_snapshot(h, id, &e);
		if (rc < 0 && e.errnum != ENOENT) // it is looked at again when it changes
			log_warn("not merged snapshot=%s error=%s", id, err_text(&e, rc));
	}
}

// --- running sandboxes: records of pagers, long chains

static size_t list_running(struct host *h, char (**ret)[64])
{
	size_t n = 0;
	pthread_mutex_lock(&h->lock);
	*ret = calloc(h->n_sandboxes + 1u, sizeof **ret);
	for (size_t b = 0; b < HOST_BUCKETS && *ret; b++)
		for (struct sandbox *s = h->buckets[b]; s; s = s->next)
			if (s->info.state == SANDBOX_RUNNING && !s->operation && !s->hidden &&
				(s->ready_ns || s->base.n > 1))
				memcpy((*ret)[n++], s->info.id, 64);
	pthread_mutex_unlock(&h->lock);
	return n;
}

// The pager writes when it is poked; what it wrote is taken the next time round. Returns when to
// look again, UINT64_MAX: no need.
static uint64_t take_record(struct host *h, const char *id)
{
	uint64_t now = clock_monotonic_ns(), again = UINT64_MAX;
	bool poke = false, take = false;
	int pidfd = -1;
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	if (s && !s->operation && s->info.state == SANDBOX_RUNNING && s->ready_ns) {
		if (s->ready_ns == 1) {
			take = true;
			s->ready_ns = 0;
			s->operation = "upkeep";
		} else if (now >= s->ready_ns + RECORD_NS) {
			poke = true;
			s->ready_ns = 1;
			pidfd = dup(s->pidfd);
			again = now + RECORD_NS;
		} else {
			again = s->ready_ns + RECORD_NS;
		}
	}
	pthread_mutex_unlock(&h->lock);
	if (poke && pidfd >= 0)
		shim_poke_pager(pidfd);
	safe_close(pidfd);
	if (take) {
		harvest(h, s);
		pthread_mutex_lock(&h->lock);
		host_release(h, s);
		pthread_mutex_unlock(&h->lock);
	}
	return again;
}

// --- base images

// Changes with each image that is built: from directories alone, no file is opened.
static uint64_t image_stamp(const struct host *h)
{
	struct stat st;
	uint64_t sum = 0;
	static const char *const dirs[] = {"templates", "templates/base"};
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		if (fstatat(h->data_fd, dirs[i], &st, 0) == 0)
			sum = sum * 31 + (uint64_t)st.st_mtim.tv_sec * NSEC_PER_SEC +
			      (uint64_t)st.st_mtim.tv_nsec;
	return sum;
}

static void prewarm_images(struct upkeep *u)
{
	_cleanup_free_ struct image_info *images = NULL;
	size_t n = 0, damaged = 0;
	struct err e = {0};
	uint64_t stamp = image_stamp(u->h);
	if (atomic_exchange(&u->h->freeze_due, false))
		u->images_seen = 0;
	if (stamp == u->images_seen || !deadline_over(u->freeze_after_ns))
		return;
	int rc = image_list(u->h->data_dir, &images, &n, &damaged, &e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = prewarm_image(u->h, &images[i], &e);
	if (rc == 0) {
		u->images_seen = stamp;
	} else {
		log_warn("base image not frozen, its sandboxes boot error=%s", e.text);
		u->freeze_after_ns = clock_monotonic_ns() + RETRY_NS;
	}
}

// ---

static void watch_space(struct upkeep *u)
{
	struct space s;
	struct err e = {0};
	space_read(u->h, &s);
	if (s.level == u->told || !s.now.total)
		return;
	_cleanup_json_ json_t *data = json_pack("{s:I, s:I, s:I, s:I, s:I}", "free_bytes",
		(json_int_t)s.now.free, "total_bytes", (json_int_t)s.now.total, "reserve_bytes",
		(json_int_t)s.reserve, "pause_bytes", (json_int_t)s.pause_bytes, "free_inodes",
		(json_int_t)s.now.free_inodes);
	const struct store_event ev = {.kind = s.level == SPACE_OK ? "volume_ok" : "volume_low",
		.cause = space_level_name(s.level),
		.data = data};
	int rc = store_apply(u->h, &(struct store_change){.event = &ev}, &e);
	if (rc < 0)
		log_warn("not told how full the volume is error=%s", err_text(&e, rc));
	else
		u->told = s.level;
	if (s.level == SPACE_OK)
		log_info("volume has room again free_mib=%lu", s.now.free >> 20);
	else
		log_warn("volume is %s free_mib=%lu reserve_mib=%lu pause_mib=%lu",
			s.level == SPACE_LOW ? "low: nothing new starts" : "filling up",
			s.now.free >> 20, s.reserve >> 20, s.pause_bytes >> 20);
}

static uint64_t pass(struct upkeep *u)
{
	struct host *h = u->h;
	uint64_t next = clock_monotonic_ns() + IDLE_NS;
	watch_space(u);
	prewarm_images(u);
	remove_snapshots(h);
	merge_noted(h);
	_cleanup_free_ char(*ids)[64] = NULL;
	size_t n = list_running(h, &ids);
	for (size_t i = 0; i < n; i++) {
		uint64_t again = take_record(h, ids[i]);
		next = MIN(next, again);
		merge_base(h, ids[i]);
	}
	remove_layers(h);
	runtimes_collect(h);
	if (h->epoch != h->volume.epoch && deadline_over(u->marker_after_ns)) {
		uint64_t wait = epoch_follow(h) ? MARKER_NS : RETRY_NS;
		u->marker_after_ns = clock_monotonic_ns() + wait;
	}
	return h->epoch != h->volume.epoch ? MIN(next, u->marker_after_ns) : next;
}

static void *loop(void *arg)
{
	struct upkeep u = {.h = arg};
	struct host *h = u.h;
	pthread_mutex_lock(&h->upkeep_lock);
	while (!h->upkeep_stop) {
		h->upkeep_due = false;
		pthread_mutex_unlock(&h->upkeep_lock);
		uint64_t next = pass(&u);
		pthread_mutex_lock(&h->upkeep_lock);
		while (!h->upkeep_stop && !h->upkeep_due)
			if (cond_wait_until(&h->upkeep_wake, &h->upkeep_lock, next) < 0)
				break;
	}
	pthread_mutex_unlock(&h->upkeep_lock);
	return NULL;
}

int upkeep_start(struct host *h, struct err *e)
{
	int rc = pthread_create(&h->upkeep, NULL, loop, h);
	if (rc)
		return err_errno(e, rc, "upkeep thread");
	h->upkeep_started = true;
	return 0;
}

void upkeep_stop(struct host *h)
{
	if (!h->upkeep_started)
		return;
	pthread_mutex_lock(&h->upkeep_lock);
	h->upkeep_stop = true;
	pthread_cond_signal(&h->upkeep_wake);
	pthread_mutex_unlock(&h->upkeep_lock);
	pthread_join(h->upkeep, NULL);
	h->upkeep_started = false;
	// What was dropped does not outlive an orderly stop: without its row it would look needed.
	remove_snapshots(h);
	remove_layers(h);
	runtimes_collect(h);
}
