// SPDX-License-Identifier: Apache-2.0
// Versions, and what a program that is named as Firecracker must be. Programs are this one itself,
// which answers in the way that its environment says.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/str.h"
#include "vmm/version.h"

#define ANSWER "VMM_TEST_ANSWER"

static void versions_are_compared_to_the_patch(void **state)
{
	static const struct {
		const char *text;
		bool is_version, diff_of_4g;
	} t[] = {
		{"1.14.1", true, false},
		{"1.14.2", true, true},
		{"1.14.2-dev", true, false},
		{"1.14.10", true, true},
		{"1.13.9", true, false},
		{"1.15.0", true, true},
		{"1.17.0-dev", true, true},
		{"2.0.0", true, true},
		{"0.99.99", true, false},
		{"1.14", false, false},
		{"", false, false},
		{"v1.14.2", false, false},
		{"1.14.1-fcqemu", true, true},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct vmm_version v = {0};
		assert_int_equal(vmm_version_parse(t[i].text, &v), t[i].is_version);
		if (!t[i].is_version)
			continue;
		assert_string_equal(v.text, t[i].text);
		assert_int_equal(vmm_diff_is_right(&v, 3073), t[i].diff_of_4g);
		assert_true(vmm_diff_is_right(&v, 3072));
	}
}

static void ask(const char *answer, const char *says)
{
	struct err e = {0};
	struct vmm_version v;
	setenv(ANSWER, answer, 1);
	int rc = vmm_program_version("/proc/self/exe", &v, &e);
	assert_int_equal(rc < 0, says != NULL);
	if (says)
		assert_non_null(strstr(e.text, says));
}

static void a_program_says_which_it_is(void **state)
{
	ask("Firecracker v1.16.1\n\nmore\n", NULL);
	ask("Firecracker v1.12.0", NULL);
	ask("Firecracker v1.17.0-dev\n", NULL);
	ask("Firecracker v1.12.0-dev\n", "1.12 or newer");
	ask("Firecracker v1.11.9\n", "1.12 or newer");
	ask("Firecracker v0.25.2\n", "1.12 or newer");
	ask("", "another program");
	ask("firecracker 1.16.1\n", "another program");
	ask("Firecracker v\n", "another program");
	ask("fail", "exit status 3");
}

static void what_cannot_run_in_a_jail_is_no_firecracker(void **state)
{
	char dir[] = "/tmp/vmm-version-XXXXXX", path[64];
	static const char script[] = "#!/bin/sh\necho Firecracker v1.16.1\n";
	struct err e = {0};
	struct vmm_version v;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/firecracker", dir);
	assert_int_equal(vmm_program_version(path, &v, &e), -ENOENT);
	assert_true(vmm_program_version(dir, &v, &e) < 0);
	assert_non_null(strstr(e.text, "not a file"));
	assert_int_equal(file_write_atomic(AT_FDCWD, path, "", 0, 0755), 0);
	assert_true(vmm_program_version(path, &v, &e) < 0);
	assert_non_null(strstr(e.text, "not an ELF program"));
	assert_int_equal(file_write_atomic(AT_FDCWD, path, script, sizeof script - 1, 0755), 0);
	assert_true(vmm_program_version(path, &v, &e) < 0);
	assert_non_null(strstr(e.text, "not an ELF program"));
	assert_int_equal(chmod(path, 0600), 0);
	assert_true(vmm_program_version(path, &v, &e) < 0);
	assert_non_null(strstr(e.text, "chmod +x"));
	unlink(path);
	rmdir(dir);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(versions_are_compared_to_the_patch),
		cmocka_unit_test(a_program_says_which_it_is),
		cmocka_unit_test(what_cannot_run_in_a_jail_is_no_firecracker),
	};
	if (argc == 2 && str_eq(argv[1], "--version")) {
		const char *answer = getenv(ANSWER);
		if (str_eq(answer, "fail"))
			return 3;
		fputs(answer ? answer : "", stdout);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
