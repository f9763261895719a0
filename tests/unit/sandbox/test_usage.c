// SPDX-License-Identifier: Apache-2.0
#include "../check.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "sandbox/table/space.h"
#include "sandbox/watch/usage_sweep.h"

#define OWNERS 7u
#define SPACE 200u
#define EXTENTS 40u

// Byte by byte: who has it.
static void by_hand(const struct usage_edge *e, size_t n, size_t target, struct usage_owner *ret,
	uint64_t *ret_once)
{
	*ret_once = 0;
	for (uint64_t at = 0; at < SPACE; at++) {
		bool has[OWNERS] = {0};
		unsigned users = 0, last = 0;
		for (size_t i = 0; i + 1 < n; i += 2)
			if (e[i].where <= at && at < e[i + 1].where)
				has[e[i].owner] = true;
		for (unsigned o = 0; o < OWNERS; o++)
			if (has[o]) {
				users++;
				last = o;
				ret[o].bytes++;
				ret[o].common += target < OWNERS && has[target];
			}
		*ret_once += users > 0;
		if (users == 1)
			ret[last].unique++;
	}
}

// Extents of one owner may overlap (a merged layer and its source), and lie in any order.
static void the_sweep_counts_as_one_does_by_hand(void **state)
{
	unsigned seed = 1;
	for (unsigned round = 0; round < 2000; round++) {
		struct usage_edge e[2 * EXTENTS];
		struct usage_owner is[OWNERS] = {0}, want[OWNERS] = {0};
		size_t n = (size_t)(rand_r(&seed) % (int)EXTENTS) * 2;
		size_t target = (size_t)(rand_r(&seed) % (int)(OWNERS + 1));
		for (size_t i = 0; i < n; i += 2) {
			uint64_t a = (uint64_t)(rand_r(&seed) % (int)SPACE);
			uint64_t b = a + (uint64_t)(rand_r(&seed) % 40);
			uint32_t owner = (uint32_t)(rand_r(&seed) % (int)OWNERS);
			b = b > SPACE ? SPACE : b;
			e[i] = (struct usage_edge){a, owner, 1};
			e[i + 1] = (struct usage_edge){b, owner, -1};
		}
		uint64_t want_once, sum = 0;
		by_hand(e, n, target, want, &want_once);
		assert_int_equal(usage_sweep(e, n, is, OWNERS, target), want_once);
		for (unsigned o = 0; o < OWNERS; o++) {
			assert_int_equal(is[o].bytes, want[o].bytes);
			assert_int_equal(is[o].unique, want[o].unique);
			assert_int_equal(is[o].common, want[o].common);
			sum += is[o].unique;
		}
		assert_true(sum <= want_once);
	}
}

static void nothing_is_nothing(void **state)
{
	struct usage_owner o[1] = {0};
	assert_int_equal(usage_sweep(NULL, 0, o, 1, 1), 0);
}

#define GIB (1ull << 30)

static void a_level_is_left_later_than_it_was_entered(void **state)
{
	static const struct {
		uint64_t free, pauses, inodes; // GiB, GiB, of 100,000
		enum space_level want;
	} steps[] = {
		{50, 10, 5000, SPACE_OK},
		{20, 10, 5000, SPACE_OK},
		{19, 10, 5000, SPACE_WARNING}, // below twice the reserve
		{21, 10, 5000, SPACE_WARNING},
		{25, 10, 5000, SPACE_OK},
		{25, 26, 5000, SPACE_WARNING}, // not all could be paused
		{30, 26, 5000, SPACE_WARNING},
		{33, 26, 5000, SPACE_OK},
		{9, 0, 5000, SPACE_LOW}, // at once, whatever it was
		{10, 0, 5000, SPACE_LOW},
		{12, 0, 5000, SPACE_LOW},
		{13, 0, 5000, SPACE_WARNING},
		{9, 0, 5000, SPACE_LOW},
		{50, 0, 5000, SPACE_OK},
		{50, 0, 1999, SPACE_WARNING},
		{50, 0, 999, SPACE_LOW},
		{50, 0, 1100, SPACE_LOW},
		{50, 0, 1300, SPACE_WARNING},
		{50, 0, 2500, SPACE_OK},
	};
	enum space_level level = SPACE_OK;
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
		const struct space s = {
			.now = {100 * GIB, steps[i].free * GIB, 100000, steps[i].inodes},
			.reserve = 10 * GIB,
			.pause_bytes = steps[i].pauses * GIB};
		level = space_judge(level, &s);
		if (level != steps[i].want)
			fail_msg("step %zu: %s", i, space_level_name(level));
	}
	// A file system without a number of inodes (Btrfs) does not run out of them.
	const struct space s = {.now = {100 * GIB, 90 * GIB, 0, 0}, .reserve = GIB};
	assert_int_equal(space_judge(SPACE_OK, &s), SPACE_OK);
}

static void the_reserve_fits_the_volume(void **state)
{
	static const struct {
		uint64_t total, bytes;
		unsigned percent;
		uint64_t want;
	} cases[] = {
		{GIB, 0, 0, GIB / 4},
		{8 * GIB, 0, 0, GIB / 2},
		{100 * GIB, 0, 0, 5 * GIB},
		{1000 * GIB, 0, 0, 16 * GIB},
		{1000 * GIB, 3 * GIB, 0, 3 * GIB},
		{1000 * GIB, 0, 10, 100 * GIB},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		const struct disk_space s = {.total = cases[i].total};
		uint64_t is = disk_reserve(&s, cases[i].bytes, cases[i].percent);
		assert_in_range(is, cases[i].want - 4096, cases[i].want + 4096);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_sweep_counts_as_one_does_by_hand),
		cmocka_unit_test(nothing_is_nothing),
		cmocka_unit_test(a_level_is_left_later_than_it_was_entered),
		cmocka_unit_test(the_reserve_fits_the_volume),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
