// SPDX-License-Identifier: Apache-2.0
// The judgement on accelerators, with a shell script in QEMU's place: $3 $4 is "-accel NAME", and
// descriptor 4 takes the bytes that tell the pace.
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/file.h"
#include "../check.h"
#include "fcqemu/probe.h"

#define RIGHT "exit 85\n"

static char dir[] = "/tmp/test-probe.XXXXXX", program[64];

static int setup(void **state)
{
	assert_non_null(mkdtemp(dir));
	snprintf(program, sizeof program, "%s/qemu", dir);
	return 0;
}

static int teardown(void **state)
{
	return file_rm_rf(AT_FDCWD, dir);
}

static void play(const char *script)
{
	char text[512];
	snprintf(text, sizeof text, "#!/bin/sh\n%s", script);
	assert_int_equal(file_write_atomic(AT_FDCWD, program, text, strlen(text), 0755), 0);
}

static void test_a_guest_that_is_quick_enough(void **state)
{
	uint64_t ns = 0;
	bool judged;
	struct err e = {0};
	play("printf 0123456789 >&4\n" RIGHT);
	assert_int_equal(probe_accel(program, "kvm", 0, &ns, &judged, &e), 0);
	play("for i in 1 2 3 4 5 6; do printf . >&4; sleep 0.01; done\n" RIGHT);
	assert_int_equal(probe_accel(program, "kvm", 60 * NSEC_PER_SEC, &ns, &judged, &e), 0);
	assert_true(ns > NSEC_PER_MSEC);
}

// Given up long before its end. The limit is one that no pause between two reads is below, however
// late this process is woken.
static void test_a_guest_that_is_interpreted(void **state)
{
	uint64_t ns = 0;
	bool judged;
	struct err e = {0};
	play("while :; do printf . >&4; sleep 0.05; done\n");
	assert_true(probe_accel(program, "kvm", 1, &ns, &judged, &e) < 0);
	assert_true(judged);
	assert_non_null(strstr(e.text, "slower"));
	assert_int_equal(ns, 0);
}

static void test_a_guest_that_does_not_run(void **state)
{
	uint64_t ns = 0;
	bool judged;
	struct err e = {0};
	play("echo first >&2; echo 'no such machine' >&2; exit 1\n");
	assert_true(probe_accel(program, "kvm", 0, &ns, &judged, &e) < 0);
	assert_non_null(strstr(e.text, "no such machine"));
	// The right status without any work.
	e = (struct err){0};
	play(RIGHT);
	assert_true(probe_accel(program, "kvm", 0, &ns, &judged, &e) < 0);
	assert_int_not_equal(e.code, ERR_TIMEOUT);
}

// What a guest did is an answer; what kept it from running is none, and nobody remembers it.
static void test_what_is_an_answer(void **state)
{
	static const struct {
		const char *plays;
		bool judged;
	} cases[] = {
		{"printf . >&4; exit 0\n", true},  // it was reset
		{"printf . >&4; exit 83\n", true}, // it computed something else
		{"kill -9 $$\n", false},
		{"echo 'failed to initialize kvm: Cannot allocate memory' >&2; exit 1\n", false},
		{"echo 'ioctl(KVM_CREATE_VM) failed: 16 Device or resource busy' >&2; exit 1\n",
			false},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t ns;
		bool judged = !cases[i].judged;
		struct err e = {0};
		play(cases[i].plays);
		assert_true(probe_accel(program, "kvm", 0, &ns, &judged, &e) < 0);
		assert_int_equal(judged, cases[i].judged);
	}
}

// KVM is held against emulation: the same program is quick with the one and slow with the other.
static void test_kvm_against_emulation(void **state)
{
	struct err e = {0};
	bool certain;
	if (access("/dev/kvm", R_OK | W_OK) < 0)
		skip();
	play("[ $4 = tcg ] && printf 0123456789 >&4 && " RIGHT
	     "while :; do printf . >&4; sleep 0.5; done\n");
	assert_true(probe_kvm(program, &certain, &e) < 0);
	play("printf 0123456789 >&4\n" RIGHT);
	if (strstr(e.text, "slower")) // else the node is no KVM
		assert_int_equal(probe_kvm(program, &certain, &e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_guest_that_is_quick_enough),
		cmocka_unit_test(test_a_guest_that_is_interpreted),
		cmocka_unit_test(test_a_guest_that_does_not_run),
		cmocka_unit_test(test_what_is_an_answer),
		cmocka_unit_test(test_kvm_against_emulation),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
