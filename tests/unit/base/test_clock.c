// SPDX-License-Identifier: Apache-2.0
#include <string.h>
#include "../check.h"
#include "base/clock.h"

static void times_come_back(void **state)
{
	static const uint64_t times[] = {0, 1, 951782400, 1709164800, 1764000000, 4102444800};
	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		uint64_t t = times[i] * NSEC_PER_SEC + 123 * NSEC_PER_MSEC, back = 0;
		char text[32];
		clock_format_rfc3339(t, text);
		assert_int_equal(clock_parse_rfc3339(text, &back), 0);
		assert_true(back == t);
	}
}

static void known_times(void **state)
{
	char text[32];
	clock_format_rfc3339(1709164800ull * NSEC_PER_SEC, text);
	assert_string_equal(text, "2024-02-29T00:00:00.000Z");
}

static void offsets_and_fractions(void **state)
{
	uint64_t a, b;
	assert_int_equal(clock_parse_rfc3339("2024-02-29T02:30:00+02:30", &a), 0);
	assert_int_equal(clock_parse_rfc3339("2024-02-29T00:00:00Z", &b), 0);
	assert_true(a == b);
	assert_int_equal(clock_parse_rfc3339("2024-02-29T00:00:00.5Z", &a), 0);
	assert_true(a == b + NSEC_PER_SEC / 2);
	assert_int_equal(clock_parse_rfc3339("2024-02-29T00:00:00.123456789Z", &a), 0);
	assert_true(a == b + 123456789);
}

static void what_is_no_time(void **state)
{
	static const char *const bad[] = {"2555-01-01T00:00:00Z", "2026-02-30T00:00:00Z",
		" 2026-01-01T00:00:00Z", "226-01-01T00:00:00Z", "", "now", "2024-02-29",
		"2024-02-29T00:00:00", "2024-02-29T00:00:00.Z", "2024-02-29T00:00:00Zx",
		"2024-13-01T00:00:00Z", "2024-02-29T00:00:00+2:00", "2024-02-29T00:00:00+25:00",
		"1960-01-01T00:00:00Z"};
	uint64_t t;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(clock_parse_rfc3339(bad[i], &t), -EINVAL);
}

static void time_goes_on(void **state)
{
	uint64_t a = clock_monotonic_ns();
	clock_sleep_ns(5 * NSEC_PER_MSEC);
	assert_true(clock_monotonic_ns() - a >= 5 * NSEC_PER_MSEC);
	assert_true(clock_realtime_ns() > 1700000000ull * NSEC_PER_SEC);
}

static void boot_id_is_stable(void **state)
{
	char a[37], b[37];
	clock_boot_id(a);
	clock_boot_id(b);
	assert_int_equal(strlen(a), 36);
	assert_string_equal(a, b);
}

static void deadlines(void **state)
{
	assert_true(deadline_in_ms(-1) == TIME_NEVER);
	assert_true(deadline_in_ms(INT64_MAX) == TIME_NEVER);
	assert_int_equal(deadline_left_ms(TIME_NEVER), -1);
	assert_false(deadline_over(TIME_NEVER));
	assert_true(deadline_over(deadline_in_ms(0)));
	assert_int_equal(deadline_left_ms(deadline_in_ms(0)), 0);
	assert_int_equal(deadline_left_ms(0), 0);
	uint64_t hour = deadline_in_ms(3600 * 1000);
	assert_false(deadline_over(hour));
	assert_in_range(deadline_left_ms(hour), 1, 3600 * 1000);
	// More than poll can be told.
	assert_int_equal(deadline_left_ms(TIME_NEVER - 1), INT32_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(deadlines),
		cmocka_unit_test(times_come_back),
		cmocka_unit_test(known_times),
		cmocka_unit_test(offsets_and_fractions),
		cmocka_unit_test(what_is_no_time),
		cmocka_unit_test(time_goes_on),
		cmocka_unit_test(boot_id_is_stable),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
