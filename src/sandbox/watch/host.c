// SPDX-License-Identifier: Apache-2.0
// The host is opened and closed. The order of host_open: locks, then the database, which must be
// the volume's (epoch.h), then the VMM, and last what an earlier server left (recover.h).
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
#include "net/resolvers.h"
#include "sandbox/machine/agent_program.h"
#include "sandbox/machine/runtimes.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/statefile.h"
#include "sandbox/table/store.h"
#include "sandbox/watch/epoch.h"
#include "sandbox/watch/listen.h"
#include "sandbox/watch/monitor.h"
#include "sandbox/watch/recover.h"
#include "sandbox/watch/unknown.h"
#include "sandbox/watch/upkeep.h"

#define DEFAULT_RANGE "10.213.0.0/16"
#define DEFAULT_MAX 200u
#define DEFAULT_WARM 4u
// So many starts at once for each processor: one waits for a disk or a process while the other is
// at work. Measured, CPU of a resume with 24 at once: 0.31 s with 1, 0.27 to 0.38 with 2, 0.34 to
// 0.37 with 3, 0.56 without a limit; of a create 0.27 to 0.35, and 0.40 without.
#define STARTS_PER_CPU 2u

// They wait for processes, disks and guests more than they work. With so many, twenty sandboxes
// that do not answer after a restart keep nobody else waiting.
#define WORKERS 32u
#define WORKERS_URGENT 8u // for ends and the freeing alone

static int make_dirs(struct host *h, struct err *e)
{
	static const char *const below[] = {
		"sandboxes", "layers", "snapshots", "kernels", "templates"};
	// Nobody else has business in them: what a jail needs is bound into it by root. A group may
	// pass through the run directory, to a socket that is the group's.
	int rc = file_private_dir(AT_FDCWD, h->run_dir, 0710);
	if (rc == 0)
		rc = file_private_children(AT_FDCWD, h->run_dir);
	if (rc < 0)
		return err_errno(e, rc, "%s", h->run_dir);
	if ((rc = statefile_make_dir(h)) < 0)
		return err_errno(e, rc, "%s/" STATEFILE_DIR, h->run_dir);
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
	h->kmsg_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	pthread_mutex_init(&h->lock, NULL);
	pthread_mutex_init(&h->event_lock, NULL);
	pthread_mutex_init(&h->upkeep_lock, NULL);
	pthread_mutex_init(&h->usage_lock, NULL);
	pthread_mutex_init(&h->space_lock, NULL);
	gate_init(&h->gate, STARTS_PER_CPU * processors());
	pthread_cond_init(&h->changed, NULL);
	pthread_cond_init(&h->event_added, NULL);
	pthread_cond_init(&h->upkeep_wake, NULL);
	h->reserve_bytes = cfg->reserve_bytes;
	h->reserve_percent = cfg->reserve_percent;
	h->pause_room = cfg->pause_room;
	h->metrics_sandboxes = cfg->metrics_sandboxes;
	const struct host_overcommit usual = HOST_OVERCOMMIT_DEFAULT;
	const struct host_overcommit *over = cfg->overcommit ? cfg->overcommit : &usual;
	h->overcommit_disk = over->disk;
	h->overcommit_memory = over->memory;
	h->overcommit_vcpus = over->vcpus;
	h->agent_wait_ms = cfg->agent_wait_ms;
	h->max_sandboxes = cfg->max_sandboxes ? cfg->max_sandboxes : DEFAULT_MAX;
	h->data_dir = strdup(cfg->data_dir);
	h->run_dir = strdup(cfg->run_dir);
	h->vmm = calloc(1, sizeof *h->vmm);
	h->refs = refs_new();
	h->shim_program = paths_find("stasis-shim");
	agent_program_open(&h->agent_program);

	struct host_config full = *cfg;
	int rc = -ENOMEM;
	full.slot_range = cfg->slot_range ? cfg->slot_range : DEFAULT_RANGE;
	full.warm_slots = cfg->warm_slots ? cfg->warm_slots : DEFAULT_WARM;
	if (!h->data_dir || !h->run_dir || !h->vmm || !h->refs ||
		workers_new(WORKERS, WORKERS_URGENT, &h->workers) < 0) {
		err_errno(e, ENOMEM, "host");
		goto fail;
	}
	if (cfg->dns && cfg->dns[0]) {
		struct resolvers r;
		if ((rc = resolvers_parse(cfg->dns, &r, e)) < 0)
			goto fail;
		resolvers_format(&r, h->dns);
	}
	if (!h->shim_program) {
		rc = err_set(e, ERR_INTERNAL, "stasis-shim not found: run make, or make install");
		goto fail;
	}
	// Without the marker nothing may be created, deleted or judged: the disk may just not be
	// mounted.
	if ((rc = volume_open(h->data_dir, &h->volume, e)) < 0)
		goto fail;
	h->data_fd = open(h->data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (h->data_fd < 0) {
		rc = err_errno(e, errno, "%s", h->data_dir);
		goto fail;
	}
	if ((rc = lock_dir(h->data_fd, "lock", "data", h->data_dir, &h->lock_fd, e)) < 0)
		goto fail;
	if ((rc = make_dirs(h, e)) < 0 || (rc = lock_run_dir(h, e)) < 0 ||
		(rc = epoch_check_there(h, e)) < 0 || (rc = store_open(h, e)) < 0 ||
		(rc = epoch_check(h, e)) < 0 || (rc = vmm_choose(cfg, h->vmm, e)) < 0 ||
		(rc = vmm_identify(h, e)) < 0 || (rc = runtimes_open(h, cfg->vmm_floor, e)) < 0 ||
		(rc = monitor_start(h, e)) < 0)
		goto fail;
	epoch_raise(h);
	if ((rc = host_recover(h, &full, e)) < 0 || (!cfg->alone && (rc = upkeep_start(h, e)) < 0))
		goto fail;
	if (!cfg->alone)
		listen_start(h);
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

// What is paused has nothing that runs, and is not to be lost.
static void end_all(struct host *h)
{
	struct host_sandbox *list = NULL;
	size_t n = 0;
	struct err e = {0};
	if (host_list(h, &list, &n, &e) < 0)
		return;
	for (size_t i = 0; i < n; i++) {
		char op[UUID_SIZE];
		id_new_uuid(op);
		if (list[i].state != SANDBOX_PAUSED &&
			host_destroy(h, op, list[i].id, end_cause_name(END_SERVER_STOPPED), &e) < 0)
			log_warn("not ended sandbox=%s error=%s", list[i].id, e.text);
	}
	free(list);
}

// Operations under way end by themselves; nobody starts new ones now. What a job had, or was left
// to one, is the next start's.
static void empty_table(struct host *h)
{
	struct sandbox *s = NULL;
	pthread_mutex_lock(&h->lock);
	while ((s = host_next(h, s)))
		if (s->unsettled || s->forget || str_eq(s->operation, "end") ||
			str_eq(s->operation, "purge"))
			s->operation = NULL;
	while (host_next(h, NULL)) {
		while ((s = host_next(h, s)) && s->operation)
			;
		if (s)
			host_remove(h, s);
		else
			pthread_cond_wait(&h->changed, &h->lock);
		s = NULL;
	}
	pthread_mutex_unlock(&h->lock);
}

static void free_host(struct host *h)
{
	safe_close(h->run_lock_fd);
	safe_close(h->kmsg_fd);
	safe_close(h->lock_fd);
	safe_close(h->data_fd);
	free(h->own_dir);
	free(h->vmm);
	free(h->shim_program);
	agent_program_free(h->agent_program);
	free(h->data_dir);
	free(h->run_dir);
	pthread_cond_destroy(&h->changed);
	pthread_cond_destroy(&h->event_added);
	pthread_cond_destroy(&h->upkeep_wake);
	pthread_mutex_destroy(&h->upkeep_lock);
	pthread_mutex_destroy(&h->usage_lock);
	pthread_mutex_destroy(&h->space_lock);
	gate_done(&h->gate);
	pthread_mutex_destroy(&h->lock);
	pthread_mutex_destroy(&h->event_lock);
	free(h);
}

struct host *host_close(struct host *h, bool kill_all)
{
	char id[UUID_SIZE];
	if (!h)
		return NULL;
	host_stop_starts(h);
	upkeep_stop(h);
	if (kill_all)
		end_all(h);
	pthread_mutex_lock(&h->event_lock);
	h->closing = true;
	pthread_cond_broadcast(&h->event_added);
	pthread_mutex_unlock(&h->event_lock);
	monitor_stop(h);
	workers_stop(h->workers, free);
	empty_table(h);
	while (upkeep_take(h, id))
		;
	workers_free(h->workers);
	epoch_raise(h); // a copy that was made while it ran is behind from here on
	unknown_free(h);
	runtimes_close(h);
	slot_pool_free(h->slots);
	refs_free(h->refs);
	db_close(h->db);
	free_host(h);
	return NULL;
}
