// SPDX-License-Identifier: Apache-2.0
// What is done behind the users' backs, by one thread, one thing after the other:
//
//	snapshots that nothing needs any more are deleted (a resumed sandbox's, a lost checkpoint's)
//	layers that no header names are collected
//	chains of layers are merged: a template's into one, so that its sandboxes can map it and
//	share it; a sandbox's when it grows long
//	records of pagers are taken
//	base images are frozen
//
// Merging and collecting are done by this one thread, so a layer that is being merged needs no
// protection; layers of captures under way are named by their sandboxes.
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "disk/disk.h"
#include "disk/image.h"
#include "sandbox/capture/harvest.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/life/prewarm.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/table/store.h"
#include "sandbox/watch/upkeep.h"
#include "shim/shim.h"
#include "snapshot/collect.h"
#include "snapshot/layer.h"

#define CHAIN_MAX 8u // layers; above that it is merged
#define IDLE_NS (10 * NSEC_PER_SEC)
#define RECORD_NS NSEC_PER_SEC // after it was ready: what it did first is recorded by then
#define FREEZE_RETRY_NS (300 * NSEC_PER_SEC)

struct upkeep {
	struct host *h;
	uint64_t freeze_after_ns; // not before, after a failure
};

// --- snapshots that have had their time

// A pause's that its sandbox does not point to, a checkpoint without its fork. Those of operations
// under way have no row yet, or a claimed sandbox.
static bool is_spent(struct host *h, const struct host_snapshot *i)
{
	bool pause = str_eq(i->kind, "pause"), spent = false;
	if (!pause)
		return false;
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, i->sandbox);
	spent = !s || (!s->operation && !str_eq(s->info.snapshot, i->id));
	pthread_mutex_unlock(&h->lock);
	return spent;
}

static void drop_spent(struct host *h)
{
	_cleanup_free_ struct store_snapshot *list = NULL;
	size_t n = 0;
	struct err e = {0};
	int rc = store_list_snapshots(h, "pause", NULL, NULL, &list, &n, &e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		if (is_spent(h, &list[i].info))
			rc = snapshot_drop(h, NULL, list[i].info.id, NULL, &e);
	if (rc < 0)
		log_warn("spent snapshots are kept for now error=%s", e.text);
}

// --- collection

static int add_headers(void *ctx, char ***ret_paths, size_t *ret_n, struct err *e)
{
	struct host *h = ctx;
	size_t n = 0;
	pthread_mutex_lock(&h->lock);
	char **paths = calloc(h->n_sandboxes + 1u, sizeof *paths);
	bool failed = !paths;
	for (size_t b = 0; b < HOST_BUCKETS && !failed; b++)
		for (struct sandbox *s = h->buckets[b]; s && !failed; s = s->next) {
			char *p = str_printf("sandboxes/%s/base.hdr", s->info.id);
			if (p && !file_exists(h->data_fd, p))
				free(p);
			else if (p)
				paths[n++] = p;
			failed = !p;
		}
	pthread_mutex_unlock(&h->lock);
	*ret_paths = paths;
	*ret_n = n;
	return failed ? err_errno(e, ENOMEM, "headers") : 0;
}

static bool is_named(void *ctx, const char *id)
{
	struct host *h = ctx;
	bool named = false;
	pthread_mutex_lock(&h->lock);
	for (size_t b = 0; b < HOST_BUCKETS && !named; b++)
		for (struct sandbox *s = h->buckets[b]; s && !named; s = s->next)
			named = str_eq(s->layer, id);
	pthread_mutex_unlock(&h->lock);
	return named;
}

static void collect(struct host *h)
{
	struct collect_roots roots = {.headers = add_headers, .named = is_named, .ctx = h};
	struct collect_stats stats;
	struct err e = {0};
	pthread_rwlock_wrlock(&h->layers_lock);
	int rc = collect_layers(h->data_fd, &roots, &stats, &e);
	pthread_rwlock_unlock(&h->layers_lock);
	if (rc < 0)
		log_warn("collection failed error=%s", e.text);
	else if (stats.removed)
		log_info("layers collected removed=%lu bytes=%lu kept=%lu", stats.removed,
			stats.removed_bytes, stats.kept);
}

// --- merging

static int merge(struct host *h, const struct header *from, struct header **ret, struct err *e)
{
	char id[UUID_SIZE];
	_cleanup_close_ int layers =
		openat(h->data_fd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (layers < 0)
		return err_errno(e, errno, "layers");
	id_new_uuid(id);
	return layer_merge(from, layers, id, ret, e);
}

static void log_merge(
	const char *what, const char *id, const struct header *from, const struct header *to)
{
	log_info("layers merged %s=%s layers=%u layer=%s bytes=%lu", what, id, from->n_layers,
		to->n_layers ? to->layers[0] : "none", header_data_bytes(to));
}

// The header of a snapshot is replaced while nobody reads it; who read it before has its layers
// open or waits for the collection's lock.
static int merge_snapshot(struct host *h, const char *id, uint32_t max, struct err *e)
{
	_cleanup_(header_freep) struct header *from = NULL, *to = NULL;
	struct snapshot_info info;
	int rc = snapshot_read(h->data_fd, id, &info, &from, e);
	if (rc < 0 || from->n_layers <= max)
		return rc;
	rc = merge(h, from, &to, e);
	if (rc == 0)
		rc = fault_hit("upkeep.after_merge", e);
	if (rc == 0)
		rc = snapshot_replace_header(h->data_fd, id, to, e);
	if (rc == 0)
		log_merge("snapshot", id, from, to);
	return rc;
}

static void merge_snapshots(struct host *h)
{
	_cleanup_free_ struct store_snapshot *list = NULL;
	size_t n = 0;
	struct err e = {0};
	int rc = store_list_snapshots(h, NULL, NULL, NULL, &list, &n, &e);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct err why = {0};
		const char *kind = list[i].info.kind;
		uint32_t max = str_eq(kind, "pause")	    ? CHAIN_MAX
			       : str_eq(kind, "checkpoint") ? UINT32_MAX
							    : 1;
		if (max == UINT32_MAX || merge_snapshot(h, list[i].info.id, max, &why) >= 0)
			continue;
		// It may have been deleted since it was listed.
		if (why.errnum != ENOENT)
			log_warn("not merged snapshot=%s error=%s", list[i].info.id, why.text);
	}
	if (rc < 0)
		log_warn("snapshots not looked at error=%s", e.text);
}

// base.hdr of a running sandbox: replaced only while no operation has it and only if it is still
// what was merged.
static void merge_base(struct host *h, const char *id)
{
	_cleanup_(header_freep) struct header *from = NULL, *to = NULL, *now = NULL;
	char path[sizeof "sandboxes//base.hdr" + 64];
	struct err e = {0};
	snprintf(path, sizeof path, "sandboxes/%.63s/base.hdr", id);
	if (header_read(h->data_fd, path, &from, &e) < 0 || from->n_layers <= CHAIN_MAX)
		return;
	int rc = merge(h, from, &to, &e);
	if (rc < 0) {
		log_warn("not merged sandbox=%s error=%s", id, e.text);
		return;
	}
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	bool ours = s && !s->operation && s->info.state == SANDBOX_RUNNING;
	if (ours)
		s->operation = "merge";
	pthread_mutex_unlock(&h->lock);
	if (!ours)
		return;
	if (header_read(h->data_fd, path, &now, &e) == 0 && str_eq(now->image, from->image))
		rc = lineage_write(h, s, to, &e);
	if (rc == 0)
		log_merge("sandbox", id, from, to);
	if (rc < 0)
		log_warn("not merged sandbox=%s error=%s", id, e.text);
	pthread_mutex_lock(&h->lock);
	host_release(h, s);
	pthread_mutex_unlock(&h->lock);
}

// --- running sandboxes: records of pagers, long chains

static size_t list_running(struct host *h, char (**ret)[64])
{
	size_t n = 0;
	pthread_mutex_lock(&h->lock);
	*ret = calloc(h->n_sandboxes + 1u, sizeof **ret);
	for (size_t b = 0; b < HOST_BUCKETS && *ret; b++)
		for (struct sandbox *s = h->buckets[b]; s; s = s->next)
			if (s->info.state == SANDBOX_RUNNING && !s->operation && !s->hidden)
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

static void freeze_images(struct upkeep *u)
{
	_cleanup_free_ struct image_info *images = NULL;
	size_t n = 0, damaged = 0;
	struct err e = {0};
	if (clock_monotonic_ns() < u->freeze_after_ns)
		return;
	int rc = image_list(u->h->data_dir, &images, &n, &damaged, &e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = prewarm_image(u->h, &images[i], &e);
	if (rc < 0) {
		log_warn("base image not frozen, its sandboxes boot error=%s", e.text);
		u->freeze_after_ns = clock_monotonic_ns() + FREEZE_RETRY_NS;
	}
}

static uint64_t pass(struct upkeep *u)
{
	struct host *h = u->h;
	struct volume_info volume;
	uint64_t next = clock_monotonic_ns() + IDLE_NS;
	if (volume_open(h->data_dir, &volume, NULL) < 0)
		return next; // nothing is judged without it
	freeze_images(u);
	drop_spent(h); // before any of them is merged
	merge_snapshots(h);
	_cleanup_free_ char(*ids)[64] = NULL;
	size_t n = list_running(h, &ids);
	for (size_t i = 0; i < n; i++) {
		uint64_t again = take_record(h, ids[i]);
		next = MIN(next, again);
		merge_base(h, ids[i]);
	}
	collect(h);
	return next;
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
		struct timespec until = {
			(time_t)(next / NSEC_PER_SEC), (long)(next % NSEC_PER_SEC)};
		while (!h->upkeep_stop && !h->upkeep_due)
			if (pthread_cond_timedwait(&h->upkeep_wake, &h->upkeep_lock, &until) ==
				ETIMEDOUT)
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
}
