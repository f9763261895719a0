// SPDX-License-Identifier: Apache-2.0
// bench-dirty FCQEMU_VM_PROCESS RAMHOOK DIR: scan and diff of another process's memory. 1 GiB, all
// of it present; dirty parts of 16 and 64 MiB in one run, in single pages, and all. The diff goes
// to a new file in DIR (page cache; fsync is told apart). Beside each: the same bytes written to
// the same places of a new file by a loop of pwrite in this process, and memcpy of them between
// touched memory. "memory" is the speed at which all of the guest's memory is gone through, dirty
// or not.
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include "../tests/unit/fcqemu/vm_process.h"
#include "base/clock.h"
#include "base/proc.h"
#include "base/str.h"
#include "fcqemu/dirty.h"
#include "fcqemu/hook.h"

#define SIZE (1ull << 30)
#define ROUNDS 7

#define PIECE (1ull << 20)

static int commands, control, report;
static double memcpy_gbs; // 1 GiB between touched memory
static uint64_t hook_id;
static struct dirty_source source;
static pid_t child;

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static double median_ms(uint64_t *v)
{
	qsort(v, ROUNDS, sizeof *v, compare);
	return (double)v[ROUNDS / 2] / 1e6;
}

static int write_pages(uint32_t page, uint32_t count)
{
	struct vm_command c = {.op = 'w', .value = 7, .page = page, .count = count};
	int ok = 0;
	return write(commands, &c, sizeof c) == sizeof c &&
			       read(commands, &ok, sizeof ok) == sizeof ok && ok
		       ? 0
		       : -EIO;
}

static int spawn(const char *program, const char *ramhook, int *ret_pidfd, struct err *e)
{
	int c[2], k[2], r[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, c) < 0 ||
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, k) < 0 ||
		pipe2(r, O_CLOEXEC) < 0)
		return err_errno(e, errno, "socketpair");
	_cleanup_free_ char *preload = str_printf("LD_PRELOAD=%s", ramhook);
	_cleanup_free_ char *size = str_printf("%llu", SIZE);
	_cleanup_free_ char *hook = str_printf("STASIS_RAMHOOK=boot:%llu:4:-1:-1:7", SIZE);
	const char *const argv[] = {program, size, NULL}, *const env[] = {preload, hook, NULL};
	const struct proc_fd_map fds[] = {{r[1], 4}, {k[1], 7}};
	struct proc_spawn s = {.argv = argv,
		.env = env,
		.stdin_fd = c[1],
		.stdout_fd = -1,
		.stderr_fd = -1,
		.fds = fds,
		.n_fds = 2,
		.death_signal = SIGKILL};
	commands = c[0];
	control = k[0];
	report = r[0];
	return proc_spawn(&s, &child, ret_pidfd, e);
}

// Nanoseconds; 0: errno tells.
static uint64_t plain_write(const char *path, const char *memory, const struct dirty_list *l)
{
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)SIZE) < 0)
		return 0;
	uint64_t begin = clock_monotonic_ns();
	for (size_t i = 0; i < l->n; i++)
		for (uint64_t at = l->v[i].offset, end = at + l->v[i].length; at < end;) {
			ssize_t n = pwrite(fd, memory + at, MIN(end - at, PIECE), (off_t)at);
			if (n <= 0)
				return 0;
			at += (uint64_t)n;
		}
	return clock_monotonic_ns() - begin;
}

static uint64_t plain_copy(char *to, const char *memory, const struct dirty_list *l)
{
	uint64_t begin = clock_monotonic_ns();
	for (size_t i = 0; i < l->n; i++)
		memcpy(to + l->v[i].offset, memory + l->v[i].offset, l->v[i].length);
	__asm__ volatile("" : : "r"(to) : "memory");
	return clock_monotonic_ns() - begin;
}

static int measure(
	const char *name, const char *path, char *memory[2], uint32_t pages, uint32_t stride)
{
	uint64_t scan[ROUNDS], copy[ROUNDS], sync[ROUNDS], plain[ROUNDS], cpy[ROUNDS], bytes = 0;
	struct err e = {0};
	for (int i = 0; i < ROUNDS; i++) {
		struct dirty_list l = {0};
		if (dirty_reset(&source, &e) < 0)
			goto failed;
		for (uint32_t p = 0; stride > 1 && p < pages; p++)
			if (write_pages(p * stride, 1) < 0)
				goto failed;
		if (stride == 1 && write_pages(0, pages) < 0)
			goto failed;
		_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0 || ftruncate(fd, (off_t)SIZE) < 0)
			goto failed;
		uint64_t t0 = clock_monotonic_ns();
		if (dirty_scan(&source, &l, &e) < 0)
			goto failed;
		uint64_t t1 = clock_monotonic_ns();
		int rc = hook_write(control, &hook_id, fd, l.v, l.n, false, 60000, &e);
		uint64_t t2 = clock_monotonic_ns();
		bytes = l.bytes;
		if (rc == 0 && fsync(fd) < 0)
			rc = -errno;
		uint64_t t3 = clock_monotonic_ns();
		scan[i] = t1 - t0;
		copy[i] = t2 - t1;
		sync[i] = t3 - t2;
		cpy[i] = plain_copy(memory[1], memory[0], &l);
		plain[i] = rc < 0 || ftruncate(fd, 0) < 0 ? 0 : plain_write(path, memory[0], &l);
		bool nothing = !l.n;
		dirty_list_done(&l);
		if (!plain[i] && !nothing)
			goto failed;
	}
	double s = median_ms(scan), c = median_ms(copy), f = median_ms(sync), w = median_ms(plain),
	       m = median_ms(cpy);
	printf("%-22s %7.1f MiB  scan %6.2f ms  copy %8.2f  fsync %8.2f  plain write %8.2f  "
	       "memcpy %7.2f",
		name, (double)bytes / (1 << 20), s, c, f, w, m);
	printf("  memory %7.1f GB/s", (double)SIZE / ((s + c) * 1e6));
	if (bytes)
		printf(", %.0f %% of memcpy's speed; diff %.0f %% of the plain write's, %.0f %% of "
		       "memcpy's",
			(double)SIZE / ((s + c) * 1e4) / memcpy_gbs, 100 * w / (s + c),
			100 * m / (s + c));
	putchar('\n');
	return 0;
failed:
	fprintf(stderr, "bench-dirty: %s\n", e.text[0] ? e.text : strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	struct err e = {0};
	_cleanup_close_ int pidfd = -1;
	char line[256] = "";
	unsigned long long base, size;
	int tracking;
	if (argc != 4)
		return 2;
	if (spawn(argv[1], argv[2], &pidfd, &e) < 0 || read(report, line, sizeof line - 1) <= 0 ||
		sscanf(line, "ok %llu %llu %d", &base, &size, &tracking) != 3 || !tracking) {
		fprintf(stderr, "bench-dirty: %s %s\n", e.text, line);
		return 1;
	}
	source = (struct dirty_source){child, base, size, true, false, NULL};
	_cleanup_free_ char *path = str_printf("%s/bench-dirty.diff", argv[3]);
	char *memory[2] = {malloc(SIZE), malloc(SIZE)};
	if (!path || !memory[0] || !memory[1])
		return 1;
	memset(memory[0], 1, SIZE);
	memset(memory[1], 2, SIZE);
	struct dirty_range range = {0, SIZE, false};
	const struct dirty_list all = {.v = &range, .n = 1};
	uint64_t whole[ROUNDS];
	for (int i = 0; i < ROUNDS; i++)
		whole[i] = plain_copy(memory[1], memory[0], &all);
	memcpy_gbs = (double)SIZE / (median_ms(whole) * 1e6);
	printf("memcpy of 1 GiB between touched memory: %.2f GB/s\n", memcpy_gbs);
	int rc = write_pages(0, SIZE / DIRTY_PAGE) < 0;
	rc |= measure("nothing of 1 GiB", path, memory, 0, 1);
	rc |= measure("16 MiB, one run", path, memory, 4096, 1);
	rc |= measure("64 MiB, one run", path, memory, 16384, 1);
	rc |= measure("64 MiB, single pages", path, memory, 16384, 16);
	rc |= measure("all of 1 GiB", path, memory, SIZE / DIRTY_PAGE, 1);
	free(memory[0]);
	free(memory[1]);
	unlink(path);
	proc_kill(pidfd, SIGKILL);
	proc_wait(pidfd, -1, NULL);
	return rc;
}
