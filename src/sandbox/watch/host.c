// SPDX-License-Identifier: Apache-2.0
// Start, stop, the table of sandboxes, and the questions that need no machine.
#include "sandbox/host.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/paths.h"
#include "disk/disk.h"
#include "disk/image.h"
#include "sandbox/internal.h"

#define DEFAULT_RANGE "10.213.0.0/16"
#define DEFAULT_MAX 200u
#define DEFAULT_WARM 4u
// So many starts at once for each processor: one waits for a disk or a process while the other is
// at work. Measured, CPU of a resume with 24 at once: 0.31 s with 1, 0.27 to 0.38 with 2, 0.34 to
// 0.37 with 3, 0.56 without a limit; of a create 0.27 to 0.35, and 0.40 without.
#define STARTS_PER_CPU 2u

static struct sandbox **bucket(struct host *h, const char *id)
{
	uint32_t x = 2166136261u; // FNV-1a
	for (; *id; id++)
		x = (x ^ (unsigned char)*id) * 16777619u;
	return &h->buckets[x % HOST_BUCKETS];
}

struct sandbox *host_find(struct host *h, const char *id)
{
	struct sandbox *s = *bucket(h, id);
	while (s && strcmp(s->info.id, id) != 0)
		s = s->next;
	return s;
}

int host_insert(struct host *h, struct sandbox *s)
{
	if (host_find(h, s->info.id))
		return -EEXIST;
	struct sandbox **b = bucket(h, s->info.id);
	s->next = *b;
	*b = s;
	h->n_sandboxes++;
	return 0;
}

void host_remove(struct host *h, struct sandbox *s)
{
	struct sandbox **p = bucket(h, s->info.id);
	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	h->n_sandboxes--;
	safe_close(s->pidfd);
	free(s);
}

void host_release(struct host *h, struct sandbox *s)
{
	s->operation = NULL;
	pthread_cond_broadcast(&h->changed);
}

int host_run_path(const struct host *h, const char *id, char out[512])
{
	return str_format(out, 512, "%s/%s", h->run_dir, id);
}

int host_disk_path(const struct host *h, const char *id, const char *file, char out[512])
{
	return str_format(out, 512, "%s/sandboxes/%s%s%s", h->data_dir, id, file ? "/" : "",
		file ? file : "");
}

unsigned host_live(const struct host *h)
{
	unsigned n = 0;
	for (size_t b = 0; b < HOST_BUCKETS; b++)
		for (const struct sandbox *s = h->buckets[b]; s; s = s->next)
			n += s->starts ||
			     (s->info.state != SANDBOX_STOPPED && s->info.state != SANDBOX_PAUSED);
	return n;
}

static int make_dirs(struct host *h, struct err *e)
{
	static const char *const below[] = {
		"sandboxes", "layers", "snapshots", "kernels", "templates"};
	// Nobody else has business in them: what a jail needs is bound into it by root. A group may
	// pass through the run directory, to a socket that is the group's. Servers of before made
	// them all 0711.
	int rc = file_private_dir(AT_FDCWD, h->run_dir, 0710);
	if (rc == 0)
		rc = file_private_children(AT_FDCWD, h->run_dir);
	if (rc < 0)
		return err_errno(e, rc, "%s", h->run_dir);
	if ((rc = file_private_dir(h->data_fd, ".", 0700)) < 0)
		return err_errno(e, rc, "%s", h->data_dir);
	for (size_t i = 0; i < ARRAY_SIZE(below); i++) {
		rc = file_private_dir(h->data_fd, below[i], 0700);
		if (rc == 0)
			rc = file_private_children(h->data_fd, below[i]);
		if (rc < 0)
			return err_errno(e, rc, "%s/%s", h->data_dir, below[i]);
	}
	return 0;
}

// That this process may use.
static unsigned processors(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : get_nprocs();
	return (unsigned)MAX(n, 1);
}

static int lock_dir(
	int dirfd, const char *path, const char *what, const char *dir, int *ret_fd, struct err *e)
{
	pid_t holder = 0;
	int rc = file_lock(dirfd, path, ret_fd, &holder);
	if (rc == -EBUSY)
		return err_set(e, ERR_CONFLICT,
			"another server (pid %d) has the %s directory %s: stop that one or choose "
			"another --%s-dir",
			(int)holder, what, dir, what);
	return rc < 0 ? err_errno(e, rc, "%s", path) : 0;
}

// What runs under a run directory is ended when no row knows it: the sandboxes of a server with
// another data directory must not be there.
static int lock_run_dir(struct host *h, struct err *e)
{
	char path[512];
	if (str_format(path, sizeof path, "%s/host.lock", h->run_dir) < 0)
		return err_set(e, ERR_INTERNAL, "run directory path too long");
	return lock_dir(AT_FDCWD, path, "run", h->run_dir, &h->run_lock_fd, e);
}

int host_open(const struct host_config *cfg, struct host **ret, struct err *e)
{
	struct host *h = calloc(1, sizeof *h);
	if (!h)
		return err_errno(e, ENOMEM, "host");
	h->data_fd = h->lock_fd = h->run_lock_fd = h->epoll_fd = h->wake_fd = -1;
	pthread_mutex_init(&h->lock, NULL);
	pthread_mutex_init(&h->event_lock, NULL);
	pthread_mutex_init(&h->upkeep_lock, NULL);
	pthread_rwlock_init(&h->layers_lock, NULL);
	gate_init(&h->gate, STARTS_PER_CPU * processors());
	pthread_condattr_t mono;
	pthread_condattr_init(&mono);
	pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
	pthread_cond_init(&h->changed, &mono);
	pthread_cond_init(&h->event_added, &mono);
	pthread_cond_init(&h->upkeep_wake, &mono);
	pthread_condattr_destroy(&mono);
	h->max_sandboxes = cfg->max_sandboxes ? cfg->max_sandboxes : DEFAULT_MAX;
	h->data_dir = strdup(cfg->data_dir);
	h->run_dir = strdup(cfg->run_dir);
	h->shim_program = paths_find("stasis-shim");

	struct host_config full = *cfg;
	struct volume_info volume;
	int rc = -ENOMEM;
	full.slot_range = cfg->slot_range ? cfg->slot_range : DEFAULT_RANGE;
	full.warm_slots = cfg->warm_slots ? cfg->warm_slots : DEFAULT_WARM;
	if (!h->data_dir || !h->run_dir) {
		err_errno(e, ENOMEM, "host");
		goto fail;
	}
	if (!h->shim_program) {
		rc = err_set(e, ERR_INTERNAL, "stasis-shim not found: run make, or make install");
		goto fail;
	}
	// Without the marker nothing may be created, deleted or judged: the disk may just not be
	// mounted.
	if ((rc = volume_open(h->data_dir, &volume, e)) < 0)
		goto fail;
	h->data_fd = open(h->data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (h->data_fd < 0) {
		rc = err_errno(e, errno, "%s", h->data_dir);
		goto fail;
	}
	if ((rc = lock_dir(h->data_fd, "lock", "data", h->data_dir, &h->lock_fd, e)) < 0)
		goto fail;
	if ((rc = make_dirs(h, e)) < 0 || (rc = lock_run_dir(h, e)) < 0 ||
		(rc = store_open(h, e)) < 0 || (rc = vmm_choose(cfg, &h->vmm, e)) < 0 ||
		(rc = vmm_runtime_build(h, e)) < 0 || (rc = vmm_identify(h, e)) < 0 ||
		(rc = monitor_start(h, e)) < 0 || (rc = host_recover(h, &full, e)) < 0 ||
		(!cfg->alone && (rc = upkeep_start(h, e)) < 0))
		goto fail;
	*ret = h;
	return 0;
fail:
	host_close(h, false);
	return rc;
}

void host_stop_starts(struct host *h)
{
	gate_close(&h->gate);
}

struct host *host_close(struct host *h, bool kill_all)
{
	if (!h)
		return NULL;
	host_stop_starts(h);
	upkeep_stop(h);
	if (kill_all) {
		struct host_sandbox *list = NULL;
		size_t n = 0;
		struct err e = {0};
		if (host_list(h, &list, &n, &e) == 0)
			for (size_t i = 0; i < n; i++) {
				char op[UUID_SIZE];
				if (list[i].state == SANDBOX_PAUSED)
					continue; // nothing of it runs, and it is not to be lost
				id_new_uuid(op);
				if (host_destroy(h, op, list[i].id, "server_stopped", &e) < 0)
					log_warn("not ended sandbox=%s error=%s", list[i].id,
						e.text);
			}
		free(list);
	}
	pthread_mutex_lock(&h->event_lock);
	h->closing = true;
	pthread_cond_broadcast(&h->event_added);
	pthread_mutex_unlock(&h->event_lock);
	monitor_stop(h);
	host_recover_abandon(h);
	// Creates and destroys under way end by themselves; nobody starts new ones now.
	pthread_mutex_lock(&h->lock);
	while (h->workers)
		pthread_cond_wait(&h->changed, &h->lock);
	for (size_t i = 0; i < HOST_BUCKETS; i++) {
		while (h->buckets[i]) {
			struct sandbox *s = h->buckets[i];
			while (s && s->operation)
				s = s->next;
			if (s)
				host_remove(h, s);
			else
				pthread_cond_wait(&h->changed, &h->lock);
		}
	}
	pthread_mutex_unlock(&h->lock);
	slot_pool_free(h->slots);
	db_close(h->db);
	safe_close(h->run_lock_fd);
	safe_close(h->lock_fd);
	safe_close(h->data_fd);
	free(h->runtime_dir);
	free(h->shim_program);
	free(h->data_dir);
	free(h->run_dir);
	pthread_cond_destroy(&h->changed);
	pthread_cond_destroy(&h->event_added);
	pthread_cond_destroy(&h->upkeep_wake);
	pthread_mutex_destroy(&h->upkeep_lock);
	pthread_rwlock_destroy(&h->layers_lock);
	gate_done(&h->gate);
	pthread_mutex_destroy(&h->lock);
	pthread_mutex_destroy(&h->event_lock);
	free(h);
	return NULL;
}

static void fill_disk_usage(const struct host *h, struct host_sandbox *s)
{
	char path[128];
	int rc = s->state == SANDBOX_PAUSED
			 ? str_format(path, sizeof path, "snapshots/%s/disk.img", s->snapshot)
			 : str_format(path, sizeof path, "sandboxes/%s/rootfs.img", s->id);
	if (s->state == SANDBOX_STOPPED || rc < 0 ||
		disk_usage(h->data_fd, path, &s->disk_bytes) < 0)
		s->disk_bytes = 0;
}

int host_get(struct host *h, const char *id, struct host_sandbox *ret, struct err *e)
{
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	if (s && s->hidden)
		s = NULL;
	if (s)
		*ret = s->info;
	pthread_mutex_unlock(&h->lock);
	if (!s)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	fill_disk_usage(h, ret);
	return 0;
}

int host_address(struct host *h, const char *id, char out[48], struct err *e)
{
	int rc = 0;
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	if (!s)
		rc = err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	else if (s->info.state != SANDBOX_RUNNING)
		rc = err_set(e, ERR_CONFLICT, "sandbox '%s' is %s", id,
			sandbox_state_name(s->info.state));
	else
		snprintf(out, 48, "%s", s->info.address);
	pthread_mutex_unlock(&h->lock);
	return rc;
}

int host_list(struct host *h, struct host_sandbox **ret, size_t *ret_n, struct err *e)
{
	pthread_mutex_lock(&h->lock);
	size_t n = 0;
	struct host_sandbox *list = calloc(h->n_sandboxes + 1u, sizeof *list);
	for (size_t i = 0; list && i < HOST_BUCKETS; i++)
		for (struct sandbox *s = h->buckets[i]; s; s = s->next)
			if (s->info.state != SANDBOX_STOPPED && !s->hidden)
				list[n++] = s->info;
	pthread_mutex_unlock(&h->lock);
	if (!list)
		return err_errno(e, ENOMEM, "list of sandboxes");
	for (size_t i = 0; i < n; i++)
		fill_disk_usage(h, &list[i]);
	*ret = list;
	*ret_n = n;
	return 0;
}

// One of the two settings of a time-out that the monitor goes by: ends_at_ns or on_timeout,
// whichever is given. They are in the row before they count.
static int set_timeout(struct host *h, const char *op_id, const char *id,
	const uint64_t *ends_at_ns, const enum on_timeout *on_timeout, struct err *e)
{
	struct sandbox copy;
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	int rc = 0;
	bool fits = s && (s->info.state == SANDBOX_RUNNING ||
				 (on_timeout && s->info.state == SANDBOX_PAUSED));
	if (!s || (on_timeout && s->hidden))
		rc = err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	else if (!fits || s->operation)
		rc = err_set(e, ERR_CONFLICT, "sandbox '%s' is %s", id,
			s->operation ? s->operation : sandbox_state_name(s->info.state));
	if (rc == 0) {
		s->operation = on_timeout ? "set_on_timeout" : "set_timeout";
		copy = *s;
	}
	pthread_mutex_unlock(&h->lock);
	if (rc < 0)
		return rc;
	if (ends_at_ns)
		copy.info.ends_at_ns = *ends_at_ns;
	if (on_timeout)
		copy.info.on_timeout = *on_timeout;
	struct store_event ev = {.kind = on_timeout ? "on_timeout_set" : "timeout_set"};
	rc = store_commit(h, op_id, &copy, &ev, e);
	pthread_mutex_lock(&h->lock);
	if (rc == 0) {
		s->info.ends_at_ns = copy.info.ends_at_ns;
		s->info.on_timeout = copy.info.on_timeout;
	}
	host_release(h, s);
	pthread_mutex_unlock(&h->lock);
	monitor_wake(h);
	return rc;
}

int host_set_timeout(
	struct host *h, const char *op_id, const char *id, uint64_t ends_at_ns, struct err *e)
{
	return set_timeout(h, op_id, id, &ends_at_ns, NULL, e);
}

int host_set_on_timeout(struct host *h, const char *op_id, const char *id,
	enum on_timeout on_timeout, struct err *e)
{
	int told = operation_told(h, op_id, id, e);
	if (told != 0)
		return MIN(told, 0);
	return set_timeout(h, op_id, id, NULL, &on_timeout, e);
}

int host_open_log(struct host *h, const char *id, int *ret_fd, struct err *e)
{
	char path[512];
	if (!id_is_sandbox(id) || host_disk_path(h, id, "console.log", path) < 0)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%s'", id);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return err_set(e, ERR_NOT_FOUND, "no console log of sandbox '%s'", id);
	*ret_fd = fd;
	return 0;
}

int host_events(struct host *h, uint64_t after, size_t max, int wait_ms, struct host_event **ret,
	size_t *ret_n, struct err *e)
{
	uint64_t end = clock_monotonic_ns() + (uint64_t)MAX(wait_ms, 0) * NSEC_PER_MSEC;
	struct timespec until = {(time_t)(end / NSEC_PER_SEC), (long)(end % NSEC_PER_SEC)};
	pthread_mutex_lock(&h->event_lock);
	while (wait_ms > 0 && h->last_event <= after && !h->closing)
		if (pthread_cond_timedwait(&h->event_added, &h->event_lock, &until) == ETIMEDOUT)
			break;
	bool closing = h->closing;
	pthread_mutex_unlock(&h->event_lock);
	if (closing)
		return err_set(e, ERR_UNAVAILABLE, "the server is stopping");
	return store_events(h, MIN(after, (uint64_t)INT64_MAX), max, ret, ret_n, e);
}

int host_ack_events(struct host *h, uint64_t upto, struct err *e)
{
	pthread_mutex_lock(&h->event_lock);
	uint64_t last = h->last_event;
	pthread_mutex_unlock(&h->event_lock);
	if (upto > last)
		return err_set(e, ERR_INVALID,
			"event %" PRIu64 " is yet to come: the last is %" PRIu64, upto, last);
	return store_ack(h, upto, e);
}

static bool volume_ok(struct host *h, char *reason, size_t size)
{
	struct volume_info v;
	struct err e = {0};
	if (volume_open(h->data_dir, &v, &e) == 0)
		return true;
	snprintf(reason, size, "%s", e.text);
	return false;
}

int host_info(struct host *h, struct host_info *ret, struct err *e)
{
	struct host_info i = {0};
	struct statvfs fs;
	struct sysinfo si;
	snprintf(i.version, sizeof i.version, "%s", STASIS_VERSION);
	snprintf(i.vmm, sizeof i.vmm, "%s", h->vmm.version);
	snprintf(i.isolation, sizeof i.isolation, "%s", h->vmm.kvm ? "kvm" : "emulated");
	snprintf(i.journal_id, sizeof i.journal_id, "%s", h->journal_id);
	pthread_mutex_lock(&h->event_lock);
	i.last_event = h->last_event;
	pthread_mutex_unlock(&h->event_lock);
	i.cpus = (unsigned)get_nprocs();
	i.max_sandboxes = h->max_sandboxes;
	i.volume_ok = volume_ok(h, i.volume_reason, sizeof i.volume_reason);
	if (sysinfo(&si) == 0)
		i.memory_mb = (uint64_t)si.totalram * si.mem_unit >> 20;
	if (fstatvfs(h->data_fd, &fs) == 0) {
		i.disk_total = (uint64_t)fs.f_blocks * fs.f_frsize;
		i.disk_free = (uint64_t)fs.f_bavail * fs.f_frsize;
	}
	slot_pool_stats(h->slots, &i.slots_ready, &i.slots_taken);
	pthread_mutex_lock(&h->lock);
	for (size_t b = 0; b < HOST_BUCKETS; b++)
		for (struct sandbox *s = h->buckets[b]; s; s = s->next)
			i.running += s->info.state == SANDBOX_RUNNING;
	pthread_mutex_unlock(&h->lock);
	*ret = i;
	return 0;
}

int host_metrics(struct host *h, struct strbuf *out, struct err *e)
{
	struct host_info i;
	int rc = host_info(h, &i, e);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&h->lock);
	uint64_t creates = h->creates, failures = h->create_failures, destroys = h->destroys,
		 ends = h->guest_ends, pauses = h->pauses, resumes = h->resumes, forks = h->forks;
	const struct pager_figures pager = h->pager;
	pthread_mutex_unlock(&h->lock);
	strbuf_addf(out,
		"# TYPE stasis_host_creates_total counter\nstasis_host_creates_total %lu\n"
		"# TYPE stasis_host_create_failures_total counter\n"
		"stasis_host_create_failures_total %lu\n"
		"# TYPE stasis_host_destroys_total counter\nstasis_host_destroys_total %lu\n"
		"# TYPE stasis_host_guest_ends_total counter\nstasis_host_guest_ends_total %lu\n"
		"# TYPE stasis_host_slots_ready gauge\nstasis_host_slots_ready %u\n"
		"# TYPE stasis_host_slots_taken gauge\nstasis_host_slots_taken %u\n"
		"# TYPE stasis_host_disk_free_bytes gauge\nstasis_host_disk_free_bytes %lu\n",
		creates, failures, destroys, ends, i.slots_ready, i.slots_taken, i.disk_free);
	unsigned inside;
	size_t in_line;
	gate_count(&h->gate, &inside, &in_line);
	strbuf_addf(out,
		"# TYPE stasis_host_starts gauge\n"
		"stasis_host_starts{state=\"under_way\"} %u\n"
		"stasis_host_starts{state=\"waiting\"} %zu\n",
		inside, in_line);
	strbuf_addf(out,
		"# TYPE stasis_host_pauses_total counter\nstasis_host_pauses_total %lu\n"
		"# TYPE stasis_host_resumes_total counter\nstasis_host_resumes_total %lu\n"
		"# TYPE stasis_host_forks_total counter\nstasis_host_forks_total %lu\n",
		pauses, resumes, forks);
	// Pagers tell their figures a while after the start of their sandbox and at its pause.
	harvest_metrics(&pager, out);
	return strbuf_check(out);
}
