// SPDX-License-Identifier: Apache-2.0
// Network slots: making one from nothing, taking one from the pool, giving it back.
//
//	bench-slot [takes]
//
// Needs root. Uses 10.213.0.0/16, or the range in SLOT_RANGE. Floor of the making: one "nft -v",
// as every new slot runs nft once. The two clock readings are part of each figure.
#include <fcntl.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/proc.h"
#include "base/str.h"
#include "net/slot.h"

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static void report(const char *what, uint64_t *ns, size_t n)
{
	qsort(ns, n, sizeof *ns, compare);
	printf("%-28s p50 %9.4f ms   p99 %9.4f ms   n %zu\n", what, (double)ns[n / 2] / 1e6,
		(double)ns[n * 99 / 100] / 1e6, n);
}

#define ROUND 8

int main(int argc, char **argv)
{
	uint64_t takes = 64, make[20], nft[20];
	char run_dir[] = "/tmp/stasis-bench-slot.XXXXXX";
	struct err e = {0};
	if (argc > 1 && (str_to_u64(argv[1], 100000, &takes) < 0 || takes < ROUND)) {
		fprintf(stderr, "usage: %s [takes]\n", argv[0]);
		return 2;
	}
	takes -= takes % ROUND;
	_cleanup_free_ uint64_t *take = calloc(takes, sizeof *take);
	_cleanup_free_ uint64_t *give = calloc(takes, sizeof *give);
	if (!take || !give || !mkdtemp(run_dir))
		return 1;
	const char *range = getenv("SLOT_RANGE");
	struct slot_pool_config cfg = {.run_dir = run_dir,
		.range = range ? range : "10.213.0.0/16",
		.warm = ROUND,
		.max = 4 * ROUND,
		.uid_base = 200000};
	const char *const nft_version[] = {"nft", "-v", NULL};
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(make); i++) {
		uint64_t begin = clock_monotonic_ns();
		rc = proc_run(nft_version, NULL, 0, 10000, NULL, &e);
		nft[i] = clock_monotonic_ns() - begin;
		if (rc == 0)
			rc = slot_probe(&cfg, &make[i], &e);
	}
	struct slot_pool *p = NULL;
	if (rc == 0)
		rc = slot_pool_new(&cfg, NULL, 0, &p, &e);
	for (size_t i = 0; rc == 0 && i < takes; i += ROUND) {
		struct slot s[ROUND];
		// Only takes from a filled pool are measured.
		for (unsigned ready = 0, taken; ready < ROUND; clock_sleep_ns(NSEC_PER_MSEC))
			slot_pool_stats(p, &ready, &taken);
		for (size_t k = 0; rc == 0 && k < ROUND; k++) {
			uint64_t begin = clock_monotonic_ns();
			rc = slot_pool_take(p, &s[k], &e);
			take[i + k] = clock_monotonic_ns() - begin;
		}
		for (size_t k = 0; rc == 0 && k < ROUND; k++) {
			uint64_t begin = clock_monotonic_ns();
			slot_pool_give(p, &s[k]);
			give[i + k] = clock_monotonic_ns() - begin;
		}
	}
	slot_pool_free(p);
	if (rc == 0)
		rc = slot_cleanup_all(run_dir, &e);
	file_rm_rf(AT_FDCWD, run_dir);
	if (rc < 0) {
		fprintf(stderr, "%s\n", err_text(&e, rc));
		return 1;
	}
	report("floor: run \"nft -v\"", nft, ARRAY_SIZE(nft));
	report("make a slot", make, ARRAY_SIZE(make));
	report("take from the pool", take, takes);
	report("give back (returns at once)", give, takes);
	return 0;
}
