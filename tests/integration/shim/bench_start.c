// SPDX-License-Identifier: Apache-2.0
// What the shim and the jail cost: from the start to the API socket accepting, against the same
// program started bare in the same run; and what stays in memory.
//	bench-shim-start [ROUNDS [BINDS]]	(STASIS_SHIM and STASIS_DUMMY_VMM as for the tests)
#include "world.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/proc.h"
#include "base/str.h"

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static void show(const char *what, uint64_t *ns, size_t n)
{
	qsort(ns, n, sizeof *ns, by_value);
	printf("%-34s p50 %6.2f ms  p90 %6.2f ms\n", what, (double)ns[n / 2] / 1e6,
		(double)ns[n * 9 / 10] / 1e6);
}

// Until its first output, which the dummy makes just before it opens its socket.
static uint64_t start_bare(const struct world *w)
{
	int p[2];
	char c;
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	_cleanup_close_ int rd = p[0], wr = p[1], pidfd = -1;
	const char *argv[] = {w->dummy, "--no-socket", NULL};
	struct proc_spawn s = {.argv = argv, .stdin_fd = -1, .stdout_fd = wr, .stderr_fd = -1};
	uint64_t t0 = clock_monotonic_ns();
	assert_int_equal(proc_spawn(&s, NULL, &pidfd, NULL), 0);
	assert_int_equal(read(rd, &c, 1), 1);
	uint64_t t = clock_monotonic_ns() - t0;
	proc_kill(pidfd, SIGKILL);
	proc_wait(pidfd, -1, NULL);
	return t;
}

static void show_memory(const struct box *b)
{
	char path[64];
	_cleanup_strbuf_ struct strbuf text = {0};
	snprintf(path, sizeof path, "/proc/%d/smaps_rollup", b->state.pid);
	assert_int_equal(file_read(AT_FDCWD, path, 65536, &text), 0);
	static const char *const names[] = {"Rss:", "Pss:", "Private_Dirty:"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *p = strstr(text.data, names[i]);
		printf("%s %ld KiB  ", names[i], p ? strtol(p + strlen(names[i]), NULL, 10) : -1);
	}
	printf("of one running shim\n");
}

int main(int argc, char **argv)
{
	static const char *const vmm[] = {JAIL_BIN "/dummy-vmm", NULL};
	uint64_t rounds = 100, binds = 2, bare[1000], start[1000], stop[1000];
	struct world w;
	struct shim_bind many[256];
	char targets[256][32];
	if (argc > 1 && (str_to_u64(argv[1], 1000, &rounds) < 0 || rounds == 0))
		return 2;
	if (argc > 2 && (str_to_u64(argv[2], ARRAY_SIZE(many), &binds) < 0 || binds < 2))
		return 2;
	if (world_init(&w, getenv("STASIS_SHIM"), getenv("STASIS_DUMMY_VMM")) < 0)
		return 1;
	for (size_t i = 0; i < rounds; i++) {
		struct box b;
		struct err e = {0};
		bare[i] = start_bare(&w);
		box_init(&b, &w, vmm);
		memcpy(many, b.binds, sizeof b.binds);
		for (size_t j = 2; j < binds; j++) { // as the layers of an image
			snprintf(targets[j], sizeof targets[j], JAIL_LAYERS "/%zu", j);
			many[j] = (struct shim_bind){w.kernel, targets[j], false};
		}
		b.spec.binds = many;
		b.spec.n_binds = binds;
		uint64_t t0 = clock_monotonic_ns();
		if (box_start(&b, &w, 10000, &e) < 0) {
			fprintf(stderr, "start: %s\n", e.text);
			return 1;
		}
		uint64_t t1 = clock_monotonic_ns();
		if (i == 0)
			show_memory(&b);
		clock_sleep_ns(50 * NSEC_PER_MSEC); // past what the shim does after its start
		uint64_t t2 = clock_monotonic_ns();
		assert_int_equal(shim_stop(b.dir, b.pidfd, &e), 0);
		start[i] = t1 - t0;
		stop[i] = clock_monotonic_ns() - t2;
		box_done(&b);
	}
	show("program started bare", bare, rounds);
	show("shim and jail, socket accepts", start, rounds);
	show("stop, directory removed", stop, rounds);
	return world_done(&w);
}
