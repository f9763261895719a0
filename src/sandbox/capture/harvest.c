// SPDX-License-Identifier: Apache-2.0
// What a pager leaves in the sandbox's directory: the record of what a start touched, which becomes
// the working set of later ones, and its figures, which are summed up for /metrics. A pager writes
// both when it is poked: some time after the start (upkeep.c) and at a pause. It is killed together
// with the VMM, so what it counted after that is lost.
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/log.h"
#include "disk/disk.h"
#include "base/json.h"
#include "sandbox/capture/harvest.h"

#define SNAP_RECORD "snap/working_set"
#define SNAP_FIGURES "snap/pager.json"

static uint64_t number(const json_t *j)
{
	json_int_t n = json_integer_value(j);
	return n > 0 ? (uint64_t)n : 0;
}

// False where there are none, or what is there is not what a pager writes.
static bool read_figures(int dir, struct pager_figures *ret)
{
	_cleanup_close_ int fd =
		openat(dir, SNAP_FIGURES, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	char buf[8192];
	ssize_t n = fd < 0 ? -1 : file_read_full(fd, buf, sizeof buf);
	_cleanup_json_ json_t *j = n <= 0 ? NULL : json_loadb(buf, (size_t)n, 0, NULL);
	if (!json_is_object(j))
		return false;
	*ret = (struct pager_figures){
		.n = {[PAGER_FAULTS] = number(json_object_get(j, "faults")),
			[PAGER_BYTES] = number(json_object_get(j, "bytes")),
			[PAGER_AHEAD] = number(json_object_get(j, "prefetch_pages")),
			[PAGER_HITS] = number(json_object_get(j, "prefetch_hits")),
			[PAGER_BUSY_US] = number(json_object_get(j, "busy_us"))}};
	for (size_t i = 0; i < STATS_BUCKETS; i++)
		ret->n[PAGER_LATENCY + i] =
			number(json_array_get(json_object_get(j, "latency_us"), i));
	return true;
}

// They count from the pager's start: what is new since they were last read is added.
static void add_figures(struct host *h, struct sandbox *s, int dir)
{
	struct pager_figures now;
	if (!read_figures(dir, &now))
		return;
	pthread_mutex_lock(&h->lock);
	for (size_t i = 0; i < PAGER_FIGURES; i++)
		h->pager.n[i] += now.n[i] - MIN(now.n[i], s->pager_told.n[i]);
	s->pager_told = now;
	pthread_mutex_unlock(&h->lock);
}

void harvest_metrics(const struct pager_figures *f, struct strbuf *out)
{
	uint64_t below = 0;
	strbuf_addf(out,
		"# HELP stasis_pager_faults_total Page faults that pagers answered.\n"
		"# TYPE stasis_pager_faults_total counter\nstasis_pager_faults_total %" PRIu64 "\n"
		"# HELP stasis_pager_copied_bytes_total Memory that pagers loaded.\n"
		"# TYPE stasis_pager_copied_bytes_total counter\n"
		"stasis_pager_copied_bytes_total %" PRIu64 "\n"
		"# HELP stasis_pager_prefetched_pages_total Pages that were loaded ahead.\n"
		"# TYPE stasis_pager_prefetched_pages_total counter\n"
		"stasis_pager_prefetched_pages_total %" PRIu64 "\n"
		"# HELP stasis_pager_prefetch_hits_total Faults whose page was loaded ahead by "
		"then.\n"
		"# TYPE stasis_pager_prefetch_hits_total counter\n"
		"stasis_pager_prefetch_hits_total %" PRIu64 "\n"
		"# HELP stasis_pager_fault_seconds From the read of a fault to its answer.\n"
		"# TYPE stasis_pager_fault_seconds histogram\n",
		f->n[PAGER_FAULTS], f->n[PAGER_BYTES], f->n[PAGER_AHEAD], f->n[PAGER_HITS]);
	for (unsigned i = 0; i < STATS_BUCKETS; i++) {
		below += f->n[PAGER_LATENCY + i];
		if (i < STATS_BUCKETS - 1)
			strbuf_addf(out,
				"stasis_pager_fault_seconds_bucket{le=\"%.6f\"} %" PRIu64 "\n",
				(double)(1u << i) / 1e6, below);
	}
	strbuf_addf(out,
		"stasis_pager_fault_seconds_bucket{le=\"+Inf\"} %" PRIu64 "\n"
		"stasis_pager_fault_seconds_sum %.6f\nstasis_pager_fault_seconds_count %" PRIu64
		"\n",
		below, (double)f->n[PAGER_BUSY_US] / 1e6, below);
}

// A copy for the snapshot: each has a file of its own.
static int give_record(struct host *h, const struct sandbox *s, const char *to, struct err *e)
{
	char from[128];
	snprintf(from, sizeof from, "sandboxes/%.63s/" WORKING_SET ".new", s->info.id);
	int rc = disk_clone(h->data_fd, from, to, 0, NULL, e);
	if (rc == 0 && fchmodat(h->data_fd, to, 0444, 0) < 0)
		rc = err_errno(e, errno, "%s", to);
	return rc;
}

void harvest(struct host *h, struct sandbox *s)
{
	struct err e = {0};
	_cleanup_close_ int dir = host_open_disk(h, s->info.id, &e);
	if (dir < 0)
		return;
	add_figures(h, s, dir);
	if (file_there(dir, SNAP_RECORD) != 1 ||
		disk_take(dir, SNAP_RECORD, dir, WORKING_SET ".new", 0444, WORKING_SET_MAX, &e) < 0)
		return;
	unlinkat(dir, SNAP_RECORD, 0);
	// A template's next child will do what this one did.
	if (s->harvest[0]) {
		char own[sizeof "snapshots//working_set" + UUID_SIZE];
		snprintf(own, sizeof own, "snapshots/%s/working_set", s->harvest);
		if (!file_exists(h->data_fd, own) && give_record(h, s, own, &e) < 0)
			log_debug("working set not kept snapshot=%s error=%s", s->harvest, e.text);
		s->harvest[0] = '\0';
	}
	renameat(dir, WORKING_SET ".new", dir, WORKING_SET);
}
