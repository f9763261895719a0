// SPDX-License-Identifier: Apache-2.0
#include "../check.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_sweep_counts_as_one_does_by_hand),
		cmocka_unit_test(nothing_is_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
