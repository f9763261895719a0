// SPDX-License-Identifier: Apache-2.0
// The contract served directly: each function of the host behind the struct that control calls. A
// host that drains is the same host, but for what would start something on it.
#include "hostagent/hostagent.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "sandbox/host.h"

#define FREEZE_DIR "stasis-freeze."

struct local {
	struct host *host;
	char *drain_path; // exists while it drains
	atomic_bool draining;
};

#define HOST(p) (((struct local *)(p))->host)

static int check_open(void *h, struct err *e)
{
	if (!((struct local *)h)->draining)
		return 0;
	return err_set(e, ERR_UNAVAILABLE, "this host is being drained: it takes no new sandboxes");
}

static int create(void *h, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	int rc = check_open(h, e);
	return rc < 0 ? rc : host_create(HOST(h), req, ret, e);
}
static int destroy(void *h, const char *op_id, const char *id, const char *cause, struct err *e)
{
	return host_destroy(HOST(h), op_id, id, cause, e);
}
static int expire(void *h, const char *op_id, const char *id, uint64_t generation,
	const char *cause, struct err *e)
{
	return host_expire(HOST(h), op_id, id, generation, cause, e);
}
static int pause_(
	void *h, const char *op_id, const char *id, struct host_sandbox *ret, struct err *e)
{
	return host_pause(HOST(h), op_id, id, ret, e);
}
static int resume(void *h, const struct host_resume *req, struct host_sandbox *ret, struct err *e)
{
	int rc = check_open(h, e);
	return rc < 0 ? rc : host_resume(HOST(h), req, ret, e);
}
static int fork_(void *h, struct host_fork *req, struct err *e)
{
	int rc = check_open(h, e);
	return rc < 0 ? rc : host_fork(HOST(h), req, e);
}
static int snapshot_create(
	void *h, const struct host_snapshot_create *req, struct host_snapshot *ret, struct err *e)
{
	return host_snapshot_create(HOST(h), req, ret, e);
}
static int snapshot_delete(void *h, const char *op_id, const char *snapshot, struct err *e)
{
	return host_snapshot_delete(HOST(h), op_id, snapshot, e);
}
static int snapshots(void *h, struct host_snapshot **ret, size_t *ret_n, struct err *e)
{
	return host_snapshots(HOST(h), ret, ret_n, e);
}
static int snapshot_check(
	void *h, const char *snapshot, struct host_snapshot_check *ret, struct err *e)
{
	return host_snapshot_check(HOST(h), snapshot, ret, e);
}
static int get(void *h, const char *id, struct host_sandbox *ret, struct err *e)
{
	return host_get(HOST(h), id, ret, e);
}
static int list(void *h, struct host_sandbox **ret, size_t *ret_n, struct err *e)
{
	return host_list(HOST(h), ret, ret_n, e);
}
static int set_timeout(void *h, const char *op_id, const char *id, uint64_t at, struct err *e)
{
	return host_set_timeout(HOST(h), op_id, id, at, e);
}

static int set_on_timeout(
	void *h, const char *op_id, const char *id, enum on_timeout on_timeout, struct err *e)
{
	return host_set_on_timeout(HOST(h), op_id, id, on_timeout, e);
}
static int set_token(void *h, const char *op_id, const char *id, const char *token, struct err *e)
{
	return host_set_token(HOST(h), op_id, id, token, e);
}
static int address(void *h, const char *id, struct host_place *ret, struct err *e)
{
	return host_address(HOST(h), id, ret, e);
}
static int open_log(void *h, const char *id, int *ret_fd, struct err *e)
{
	return host_open_log(HOST(h), id, ret_fd, e);
}
static int events(void *h, uint64_t after, size_t max, int wait_ms, struct host_event **ret,
	size_t *ret_n, struct err *e)
{
	return host_events(HOST(h), after, max, wait_ms, ret, ret_n, e);
}
static int ack_events(void *h, uint64_t upto, struct err *e)
{
	return host_ack_events(HOST(h), upto, e);
}
static int templates(void *h, struct host_template **ret, size_t *ret_n, struct err *e)
{
	return host_templates(HOST(h), ret, ret_n, e);
}
static int info(void *h, struct host_info *ret, struct err *e)
{
	int rc = host_info(HOST(h), ret, e);
	if (rc == 0)
		ret->draining = ((struct local *)h)->draining;
	return rc;
}
static int drain(void *h, const char *op_id, bool on, struct err *e)
{
	struct local *l = h;
	int rc = on ? file_write_atomic(AT_FDCWD, l->drain_path, op_id, strlen(op_id), 0600)
		    : file_rm_rf(AT_FDCWD, l->drain_path);
	if (rc < 0)
		return err_errno(e, rc, "%s", l->drain_path);
	if (l->draining != on)
		log_info("draining %s operation=%s", on ? "begins" : "ends", op_id);
	l->draining = on;
	return 0;
}
static int metrics(void *h, struct strbuf *out, struct err *e)
{
	return host_metrics(HOST(h), out, e);
}
static int usage(
	void *h, const struct host_usage_ask *ask, struct host_usage_report *ret, struct err *e)
{
	return host_usage(HOST(h), ask, ret, e);
}
static int figures(void *h, const char *id, struct host_figures *ret, struct err *e)
{
	return host_figures(HOST(h), id, ret, e);
}

static int runtimes(void *h, struct host_runtime **ret, size_t *ret_n, struct err *e)
{
	return host_runtimes(HOST(h), ret, ret_n, e);
}
// Done again it changes nothing.
static int runtime_deny(void *h, const char *op_id, const char *id, bool on, struct err *e)
{
	return host_runtime_deny(HOST(h), id, on, e);
}
// Done again it finds nothing.
static int remove_unknown(void *h, const char *op_id, size_t *ret_n, struct err *e)
{
	log_info("what is unknown is removed operation=%s", op_id);
	return host_remove_unknown(HOST(h), ret_n, e);
}

static const struct hostagent_ops local = {
	.create = create,
	.destroy = destroy,
	.expire = expire,
	.pause = pause_,
	.resume = resume,
	.fork = fork_,
	.snapshot_create = snapshot_create,
	.snapshot_delete = snapshot_delete,
	.snapshots = snapshots,
	.snapshot_check = snapshot_check,
	.get = get,
	.list = list,
	.set_timeout = set_timeout,
	.set_on_timeout = set_on_timeout,
	.set_token = set_token,
	.address = address,
	.open_log = open_log,
	.events = events,
	.ack_events = ack_events,
	.templates = templates,
	.drain = drain,
	.info = info,
	.metrics = metrics,
	.usage = usage,
	.runtimes = runtimes,
	.figures = figures,
	.runtime_deny = runtime_deny,
	.remove_unknown = remove_unknown,
};

static struct local *local_free(struct local *l)
{
	if (l)
		free(l->drain_path);
	free(l);
	return NULL;
}
DEFINE_CLEANUP(struct local *, local_free)

// Freezes that were killed leave a guest running, which no row leads to. A live one holds the lock
// of its directory, which has its name only when it is locked.
static void clear_dead_freezes(void)
{
	_cleanup_closedir_ DIR *d = opendir("/run");
	for (struct dirent *de; d && (de = readdir(d));) {
		char path[sizeof "/run/" + sizeof de->d_name];
		struct err e = {0};
		if (!str_starts(de->d_name, FREEZE_DIR))
			continue;
		snprintf(path, sizeof path, "/run/%s", de->d_name);
		_cleanup_close_ int fd =
			open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
			continue;
		if (host_clear_run_dir(path, &e) < 0)
			log_warn("what a killed freeze left stays path=%s error=%s", path, e.text);
		else
			log_info("what a killed freeze left is gone path=%s", path);
	}
}

int hostagent_start_local(const struct host_config *cfg, struct hostagent *ret, struct err *e)
{
	_cleanup_(local_freep) struct local *l = calloc(1, sizeof *l);
	if (!l || !(l->drain_path = str_printf("%s/draining", cfg->data_dir)))
		return err_errno(e, ENOMEM, "host");
	clear_dead_freezes();
	int rc = host_open(cfg, &l->host, e);
	if (rc < 0)
		return rc;
	l->draining = file_exists(AT_FDCWD, l->drain_path);
	if (l->draining)
		log_warn("this host is being drained: it takes no new sandboxes");
	*ret = (struct hostagent){&local, TAKE_PTR(l)};
	return 0;
}

void hostagent_stop_starts_local(struct hostagent *h)
{
	host_stop_starts(HOST(h->host));
}

void hostagent_stop_local(struct hostagent *h, bool kill_all)
{
	struct local *l = h->host;
	host_close(l->host, kill_all);
	h->host = local_free(l);
}

// The run directory of a freeze and, held open, its lock; -errno.
static int make_freeze_dir(char path[64], struct err *e)
{
	char begun[] = "/run/.stasis-freeze.XXXXXX";
	if (!mkdtemp(begun))
		return err_errno(e, errno, "%s", begun);
	snprintf(path, 64, "/run/" FREEZE_DIR "%s", strrchr(begun, '.') + 1);
	_cleanup_close_ int fd = open(begun, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && rename(begun, path) == 0)
		return TAKE_FD(fd);
	int errnum = errno;
	rmdir(begun);
	return err_errno(e, errnum, "%s", path);
}

// One slot is needed, in any range that this machine does not use.
int hostagent_freeze_local(const char *data_dir, const char *template, struct err *e)
{
	static const char *const ranges[] = {"10.213.255.224/27", "10.223.255.224/27",
		"172.28.255.224/27", "192.168.239.224/27", "10.91.255.224/27"};
	char run_dir[64];
	clear_dead_freezes();
	_cleanup_close_ int lock = make_freeze_dir(run_dir, e);
	if (lock < 0)
		return lock;
	int rc = -EINVAL;
	for (size_t i = 0; rc < 0 && i < ARRAY_SIZE(ranges); i++) {
		struct host *h = NULL;
		struct err why = {0};
		struct host_config cfg = {.data_dir = data_dir,
			.run_dir = run_dir,
			.slot_range = ranges[i],
			.max_sandboxes = 1,
			.warm_slots = 1,
			.alone = true};
		rc = host_open(&cfg, &h, &why);
		if (rc == 0)
			rc = host_freeze(h, template, &why);
		bool opened = h != NULL;
		host_close(h, false);
		if (rc < 0 && e)
			*e = why;
		// Another range, unless it is the data directory that is in use.
		if (opened || why.code != ERR_CONFLICT || !strstr(why.text, ranges[i]))
			break;
	}
	file_rm_rf(AT_FDCWD, run_dir);
	return rc;
}
