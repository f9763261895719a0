// SPDX-License-Identifier: Apache-2.0
// Functions of base that the linker sends here (--wrap): the programs of ours that would be asked
// who they are, the clock, and the fault points.
#include <fcntl.h>
#include <fnmatch.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/proc.h"
#include "base/str.h"
#include "disk/space.h"
#include "played/played.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

uint64_t __real_clock_monotonic_ns(void);
int __real_proc_run(const char *const *argv, const void *input, size_t input_len, int timeout_ms,
	struct strbuf *ret_out, struct err *e);
int __real_hash_sha256_file_hex(int dirfd, const char *path, char out[SHA256_HEX_SIZE]);
int __real_fchown(int fd, uid_t uid, gid_t gid);

// Room enough, whatever the machine has, until a test says otherwise.
int __wrap_disk_space(int fd, struct disk_space *ret)
{
	*ret = (struct disk_space){.total = VOLUME_SIZE,
		.free = VOLUME_SIZE - (world.stage ? world.stage->disk_used : 0),
		.inodes = VOLUME_INODES,
		.free_inodes = VOLUME_INODES - (world.stage ? world.stage->inodes_used : 0)};
	return 0;
}

uint64_t __wrap_clock_monotonic_ns(void)
{
	return __real_clock_monotonic_ns() +
	       (world.stage ? atomic_load(&world.stage->skipped_ns) : 0);
}

// Moved on as well: what was put off by some seconds is due.
uint64_t __real_clock_realtime_ns(void);
uint64_t __wrap_clock_realtime_ns(void)
{
	return __real_clock_realtime_ns() +
	       (world.stage ? atomic_load(&world.stage->skipped_ns) : 0);
}

// By the clock above: who waits for a time is woken when it is skipped over.
int __real_pthread_cond_timedwait(
	pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until);
int __real_pthread_cond_clockwait(
	pthread_cond_t *c, pthread_mutex_t *m, clockid_t clock, const struct timespec *until);
int __wrap_pthread_cond_timedwait(
	pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until)
{
	uint64_t end = (uint64_t)until->tv_sec * NSEC_PER_SEC + (uint64_t)until->tv_nsec;
	for (;;) {
		uint64_t now = __wrap_clock_monotonic_ns();
		if (now >= end)
			return ETIMEDOUT;
		uint64_t at = __real_clock_monotonic_ns() + MIN(end - now, 5 * NSEC_PER_MSEC);
		struct timespec t = {(time_t)(at / NSEC_PER_SEC), (long)(at % NSEC_PER_SEC)};
		int rc = __real_pthread_cond_timedwait(c, m, &t);
		if (rc != ETIMEDOUT)
			return rc;
	}
}

int __wrap_pthread_cond_clockwait(
	pthread_cond_t *c, pthread_mutex_t *m, clockid_t clock, const struct timespec *until)
{
	uint64_t end = (uint64_t)until->tv_sec * NSEC_PER_SEC + (uint64_t)until->tv_nsec;
	for (;;) {
		uint64_t now = __wrap_clock_monotonic_ns();
		if (now >= end)
			return ETIMEDOUT;
		uint64_t at = __real_clock_monotonic_ns() + MIN(end - now, 5 * NSEC_PER_MSEC);
		struct timespec t = {(time_t)(at / NSEC_PER_SEC), (long)(at % NSEC_PER_SEC)};
		int rc = __real_pthread_cond_clockwait(c, m, clock, &t);
		if (rc != ETIMEDOUT)
			return rc;
	}
}

// In the clock's own file, so the linker leaves them to the real one.
uint64_t __wrap_deadline_in_ms(int64_t ms)
{
	return ms < 0 ? TIME_NEVER : __wrap_clock_monotonic_ns() + (uint64_t)ms * NSEC_PER_MSEC;
}

bool __wrap_deadline_over(uint64_t deadline_ns)
{
	return deadline_ns != TIME_NEVER && __wrap_clock_monotonic_ns() >= deadline_ns;
}

// Who polls looks again soon, for the clock may be moved on meanwhile.
int __wrap_deadline_left_ms(uint64_t deadline_ns)
{
	return deadline_ns == TIME_NEVER ? -1 : __wrap_deadline_over(deadline_ns) ? 0 : 5;
}

char *__wrap_paths_find(const char *name)
{
	return str_printf("/played/%s", name);
}

int __wrap_proc_run(const char *const *argv, const void *input, size_t input_len, int timeout_ms,
	struct strbuf *ret_out, struct err *e)
{
	unsigned upgrades = atomic_load(&world.stage->vmm_upgrades);
	bool emulated = atomic_load(&world.stage->emulated);
	if (str_eq(argv[1], "--probe"))
		strbuf_addf(ret_out,
			"{\"certain\":%s,\"accel\":\"%s\",\"qemu_version\":\"7.2.%u\","
			"\"tsc_khz\":0,\"kvm_reason\":\"%s\"}",
			emulated ? "false" : "true", emulated ? "tcg" : "kvm", 22 + upgrades,
			emulated ? "played" : "");
	else if (str_eq(argv[1], "--version"))
		strbuf_addf(ret_out, "Firecracker v1.14.%u", 2 + upgrades);
	else if (str_eq(argv[1], "--snapshot-version"))
		strbuf_addf(ret_out, "played-%u", 1 + upgrades);
	else if (str_eq(argv[1], "--describe-snapshot"))
		strbuf_adds(ret_out, "{\"tsc_khz\":0}");
	else if (str_ends(argv[0], "/dpkg-query"))
		return err_set(e, ERR_INTERNAL, "played: no packages here");
	else
		return __real_proc_run(argv, input, input_len, timeout_ms, ret_out, e);
	return 0;
}

// The VMM's program need not be there, and is large where it is.
int __wrap_hash_sha256_file_hex(int dirfd, const char *path, char out[SHA256_HEX_SIZE])
{
	if (!strstr(path, "qemu") && !str_eq(path, "/bin/true"))
		return __real_hash_sha256_file_hex(dirfd, path, out);
	memset(out, 'a', SHA256_HEX_SIZE - 1);
	out[SHA256_HEX_SIZE - 1] = '\0';
	return 0;
}

// The tests run as any user: what is given to root stays with him.
int __wrap_fchown(int fd, uid_t uid, gid_t gid)
{
	return geteuid() == 0 ? __real_fchown(fd, uid, gid) : 0;
}

static void hold(int (*tick)(void *), void *ctx)
{
	struct stage *s = world.stage;
	atomic_fetch_add(&s->holding, 1);
	while (!atomic_load(&s->let_go) && !(tick && tick(ctx)))
		clock_sleep_ns(NSEC_PER_MSEC / 4);
	atomic_fetch_sub(&s->holding, 1);
}

int __wrap_fault_hit(const char *name, struct err *e)
{
	struct stage *s = world.stage;
	unsigned n = atomic_fetch_add(&s->n_hits, 1);
	if (n < STAGE_HITS)
		snprintf(s->hits[n], sizeof s->hits[n], "%s", name);
	int way = atomic_load(&s->way);
	if (way == FAULT_NONE || (strcmp(name, s->point) != 0 && strcmp(s->point, "*") != 0))
		return 0;
	if (atomic_load(&s->spare_commits) && str_ends(name, ".before_commit"))
		return 0;
	atomic_fetch_add(&s->reached, 1);
	if (way != FAULT_FAIL_ALWAYS && atomic_fetch_sub(&s->count, 1) != 1)
		return 0;
	switch ((enum fault_way)way) {
	case FAULT_FAIL:
	case FAULT_FAIL_ALWAYS:
		return err_errno(e, EIO, "injected fault at %s", name);
	case FAULT_KILL:
		kill(getpid(), SIGKILL);
		_exit(137);
	case FAULT_HOLD:
		hold(NULL, NULL);
		return 0;
	case FAULT_NONE:
		break;
	}
	return 0;
}

// ---- trouble of players

#define LATE_MS 50000

int trouble_wait(int timeout_ms, int (*tick)(void *), void *ctx, const char *what, struct err *e)
{
	for (int at = 0; at < timeout_ms; at += 100) {
		if (tick && tick(ctx))
			return err_errno(e, ECANCELED, "%s", what);
		stage_skip_ms(100);
	}
	return err_set(e, ERR_TIMEOUT, "%s: no answer within %d ms", what, timeout_ms);
}

int trouble_meet(const char *call, const char *id, int timeout_ms, int (*tick)(void *), void *ctx,
	bool *ret_lost, struct err *e)
{
	struct stage *s = world.stage;
	unsigned n = atomic_fetch_add(&s->n_calls, 1);
	if (n < STAGE_HITS)
		snprintf(s->calls[n], sizeof s->calls[n], "%s", call);
	int t = atomic_load(&s->trouble);
	if (t == TROUBLE_NONE || fnmatch(s->call, call, FNM_EXTMATCH) != 0 ||
		(s->of[0] && fnmatch(s->of, id, FNM_EXTMATCH) != 0))
		return 0;
	atomic_store(&s->reached, 1);
	if (atomic_load(&s->once) && !atomic_compare_exchange_strong(&s->trouble, &t, 0))
		return 0;
	switch ((enum trouble)t) {
	case TROUBLE_FAILS:
		return err_set(e, ERR_INTERNAL, "%s: played failure", call);
	case TROUBLE_SILENT:
		return trouble_wait(timeout_ms, tick, ctx, call, e);
	case TROUBLE_LATE: {
		int rc = trouble_wait(MIN(timeout_ms, LATE_MS), tick, ctx, call, e);
		return rc < 0 && timeout_ms > LATE_MS && !(tick && tick(ctx)) ? 0 : rc;
	}
	case TROUBLE_LOST:
		*ret_lost = true;
		return 0;
	case TROUBLE_HOLDS:
		hold(tick, ctx);
		return 0;
	case TROUBLE_NONE:
		break;
	}
	return 0;
}
