// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include "../check.h"
#include "base/clock.h"
#include "base/fault.h"

static void without_a_setting_nothing_happens(void **state)
{
	assert_int_equal(fault_setup(NULL, NULL), 0);
	assert_int_equal(fault_hit("a.b", NULL), 0);
	assert_int_equal(fault_setup("", NULL), 0);
	assert_int_equal(fault_hit("a.b", NULL), 0);
}

static void fail_fails_at_its_point_only(void **state)
{
	struct err e = {0};
	assert_int_equal(fault_setup("a.b:fail", NULL), 0);
	assert_int_equal(fault_hit("a.c", &e), 0);
	assert_int_equal(fault_hit("a.b", &e), -EIO);
	assert_non_null(strstr(e.text, "a.b"));
	assert_int_equal(fault_hit("a.b", &e), -EIO);
}

static void the_nth_time(void **state)
{
	assert_int_equal(fault_setup("x.y:sleep=1,a.b:fail@2", NULL), 0);
	assert_int_equal(fault_hit("a.b", NULL), 0);
	assert_int_equal(fault_hit("a.b", NULL), -EIO);
	assert_int_equal(fault_hit("a.b", NULL), 0);
	uint64_t t = clock_monotonic_ns();
	assert_int_equal(fault_hit("x.y", NULL), 0);
	assert_true(clock_monotonic_ns() - t >= NSEC_PER_MSEC);
}

static void kill_kills(void **state)
{
	pid_t pid = fork();
	if (pid == 0) {
		fault_setup("a.b:kill", NULL);
		fault_hit("a.b", NULL);
		_exit(0);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void bad_settings_are_named(void **state)
{
	static const char *const bad[] = {
		"a.b", "a.b:explode", ":fail", "a.b:sleep=", "a.b:fail@x", "a.b:sleep=99999999999"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err e = {0};
		assert_true(fault_setup(bad[i], &e) < 0);
		assert_int_equal(e.code, ERR_INVALID);
		assert_non_null(strstr(e.text, "STASIS_FAULT"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_setting_nothing_happens),
		cmocka_unit_test(fail_fails_at_its_point_only),
		cmocka_unit_test(the_nth_time),
		cmocka_unit_test(kill_kills),
		cmocka_unit_test(bad_settings_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
