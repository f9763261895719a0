// SPDX-License-Identifier: Apache-2.0
// Which program is taken for Firecracker. It is this one itself, under other names: asked for its
// version it answers what its environment says. No QEMU, fcqemu or KVM is needed for any of it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"
#include "base/str.h"
#include "sandbox/host.h"
#include "sandbox/machine/machine.h"
#include "sandbox/machine/vmm_choice.h"

#define ANSWER "FIRECRACKER_TEST_ANSWER"

static char dir[] = "/tmp/firecracker-test-XXXXXX";

static char *in_dir(const char *name)
{
	return str_printf("%s/%s", dir, name);
}

// says NULL: it is taken. Where KVM does not work, that is all that is missing then.
static void choose(const char *vmm, const char *program, const char *says)
{
	struct err e = {0};
	struct vmm_choice c = {0};
	const struct host_config cfg = {.vmm = vmm, .firecracker_path = program, .run_dir = dir};
	int rc = vmm_choose(&cfg, &c, &e);
	if (says) {
		assert_true(rc < 0);
		if (!strstr(e.text, says))
			fail_msg("'%s' does not say '%s'", e.text, says);
	} else if (rc < 0) {
		assert_non_null(strstr(e.text, "/dev/kvm: "));
	} else {
		assert_true(c.firecracker && c.kvm && c.tsc_khz == 0);
		assert_string_equal(c.version, "Firecracker v1.16.1");
	}
}

static void any_file_name_is_good(void **state)
{
	static const char *const names[] = {
		"firecracker", "firecracker-v1.16.1-x86_64", "fire=cracker", "fc 1"};
	setenv(ANSWER, "Firecracker v1.16.1\n", 1);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = in_dir(names[i]);
		assert_int_equal(symlink("/proc/self/exe", path), 0);
		choose("firecracker", path, NULL);
	}
	setenv("PATH", dir, 1);
	choose("firecracker", NULL, NULL);
	choose("firecracker", "firecracker", NULL); // a name is looked for in PATH
	choose("firecracker", "fc 1", NULL);
	choose("firecracker", "fc 2", "no firecracker program at 'fc 2'");
}

static void what_is_named_must_be_one(void **state)
{
	static const char script[] = "#!/bin/sh\necho Firecracker v1.16.1\n";
	_cleanup_free_ char *path = in_dir("script"), *none = in_dir("none");
	assert_int_equal(file_write_atomic(AT_FDCWD, path, script, sizeof script - 1, 0755), 0);
	choose("firecracker", none, "no firecracker program at '/");
	choose("auto", none, "no firecracker program at '/");
	choose("firecracker", path, "not an ELF program");
	choose("auto", path, "not an ELF program");
	choose("firecracker", dir, "not a file");
	choose("qemu", NULL, "is not auto, firecracker or fcqemu");
	setenv(ANSWER, "Firecracker v1.11.0\n", 1);
	choose("firecracker", "/proc/self/exe", "1.12 or newer");
	setenv(ANSWER, "GNU coreutils 9.1\n", 1);
	choose("auto", "/proc/self/exe", "another program");
}

static void a_size_that_it_damages_is_refused(void **state)
{
	struct vmm_choice c = {.firecracker = true, .firecracker_version = {1, 14, 1}};
	const struct host h = {.vmm = &c};
	struct host_sandbox i = {.vcpus = 1, .memory_mb = 3073};
	struct err e = {0};
	assert_true(machine_check_size(&h, &i, &e) < 0); // too small a host says so first
	assert_true(strstr(e.text, "install a newer one") || strstr(e.text, "this host has"));
	i.memory_mb = 512;
	assert_int_equal(machine_check_size(&h, &i, &e), 0);
	i.memory_mb = 3073;
	c.firecracker_version.patch = 2;
	e = (struct err){0};
	assert_true(machine_check_size(&h, &i, &e) == 0 || strstr(e.text, "this host has"));
}

static void its_log_is_apart_from_the_console(void **state)
{
	struct vmm_choice c = {.firecracker = true, .kvm = true};
	const struct host h = {.vmm = &c};
	const char *argv[VMM_ARGV_MAX];
	vmm_argv(&h, &c, argv);
	assert_string_equal(argv[0], "/usr/bin/firecracker");
	size_t i = 0;
	while (argv[i] && !str_eq(argv[i], "--log-path"))
		i++;
	assert_non_null(argv[i]);
	assert_string_equal(argv[i + 1], "/run/vmm.log");
}

static int setup(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	return file_rm_rf(AT_FDCWD, dir);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_file_name_is_good),
		cmocka_unit_test(what_is_named_must_be_one),
		cmocka_unit_test(a_size_that_it_damages_is_refused),
		cmocka_unit_test(its_log_is_apart_from_the_console),
	};
	if (argc == 2 && str_eq(argv[1], "--version")) {
		const char *answer = getenv(ANSWER);
		fputs(answer ? answer : "", stdout);
		return 0;
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
