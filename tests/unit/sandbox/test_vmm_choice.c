// SPDX-License-Identifier: Apache-2.0
// How long an answer about KVM is believed. The answers are played; so is the device.
#include "../check.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/file.h"
#include "base/proc.h"
#include "sandbox/machine/vmm_choice.h"

#define YES "{\"certain\":true,\"accel\":\"kvm\",\"qemu_version\":\"7.2.22\",\"tsc_khz\":1}"
#define NO                                                                                         \
	"{\"certain\":true,\"accel\":\"tcg\",\"kvm_reason\":\"interpreted\","                      \
	"\"qemu_version\":\"7.2.22\",\"tsc_khz\":1}"
#define UNKNOWN                                                                                    \
	"{\"certain\":false,\"accel\":\"tcg\",\"kvm_reason\":\"did not finish\","                  \
	"\"qemu_version\":\"7.2.22\",\"tsc_khz\":1}"

static char dir[] = "/tmp/test-vmm-choice.XXXXXX";
static const char *says; // what --probe answers
static bool has_device, has_qemu;
static unsigned probes;

int __wrap_proc_run(const char *const *argv, const void *input, size_t input_len, int timeout_ms,
	struct strbuf *ret_out, struct err *e);
int __wrap_proc_run(const char *const *argv, const void *input, size_t input_len, int timeout_ms,
	struct strbuf *ret_out, struct err *e)
{
	if (str_eq(argv[1], "--version")) {
		strbuf_adds(ret_out, "Firecracker v1.16.1\n");
		return 0;
	}
	assert_string_equal(argv[1], "--probe");
	probes++;
	strbuf_adds(ret_out, says);
	return 0;
}

char *__wrap_paths_find(const char *name);
char *__wrap_paths_find(const char *name)
{
	return str_printf("%s/%s", dir, name);
}

int __real_access(const char *path, int mode);
int __wrap_access(const char *path, int mode);
int __wrap_access(const char *path, int mode)
{
	bool is_qemu = str_eq(path, "/usr/bin/qemu-system-x86_64");
	if (!is_qemu && !str_eq(path, "/dev/kvm"))
		return __real_access(path, mode);
	errno = ENOENT;
	return (is_qemu ? has_qemu : has_device) ? 0 : -1;
}

static void install(const char *name, const char *text)
{
	_cleanup_free_ char *path = __wrap_paths_find(name);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, text, strlen(text), 0755), 0);
}

static int setup(void **state)
{
	char path[sizeof dir + 16];
	snprintf(path, sizeof path, "%s/probe.json", dir);
	unlink(path);
	install("fcqemu", "first");
	install("firecracker", "\177ELF");
	has_device = has_qemu = true;
	probes = 0;
	return 0;
}

// Whether KVM is used, by what is kept or by this answer.
static bool choose(const char *answer)
{
	struct host_config cfg = {.run_dir = dir, .vmm = "fcqemu"};
	struct vmm_choice c;
	says = answer;
	assert_int_equal(vmm_choose(&cfg, &c, NULL), 0);
	return c.kvm;
}

static void test_answers_are_kept(void **state)
{
	assert_true(choose(YES));
	assert_true(choose(NO));
	assert_int_equal(probes, 1);
}

static void test_a_refusal_is_kept(void **state)
{
	assert_false(choose(NO));
	assert_false(choose(YES));
	assert_int_equal(probes, 1);
}

static void test_what_is_not_known_is_asked_again(void **state)
{
	assert_false(choose(UNKNOWN));
	assert_false(choose(UNKNOWN));
	assert_true(choose(YES));
	assert_int_equal(probes, 3);
}

static void test_without_the_device_nothing_is_believed(void **state)
{
	assert_true(choose(YES));
	has_device = false;
	assert_false(choose(UNKNOWN));
	has_device = true;
	assert_true(choose(NO)); // what was kept is right again
}

static void test_other_programs_are_asked_anew(void **state)
{
	assert_false(choose(NO));
	install("fcqemu", "an upgrade");
	assert_true(choose(YES));
}

// Of Firecracker alone; false: refused, and why.
static bool choose_firecracker(const char *answer, struct err *e)
{
	_cleanup_free_ char *program = __wrap_paths_find("firecracker");
	struct host_config cfg = {
		.run_dir = dir, .vmm = "firecracker", .firecracker_path = program};
	struct vmm_choice c = {0};
	says = answer;
	int rc = vmm_choose(&cfg, &c, e);
	assert_true(rc < 0 || (c.firecracker && c.kvm));
	return rc == 0;
}

// A KVM that opens, and interprets guests, runs none of Firecracker's either.
static void test_firecracker_is_refused_where_kvm_runs_no_guest(void **state)
{
	struct err e = {0};
	assert_false(choose_firecracker(NO, &e));
	assert_int_equal(e.code, ERR_UNAVAILABLE);
	assert_non_null(strstr(e.text, "(interpreted): use --vmm auto"));
	assert_int_equal(probes, 1);
	assert_false(choose_firecracker(YES, &e)); // what was kept
	assert_int_equal(probes, 1);
}

static void test_firecracker_is_taken_where_kvm_ran_a_guest(void **state)
{
	assert_true(choose_firecracker(YES, NULL));
	assert_int_equal(probes, 1);
}

// Then the device alone is asked, whatever this machine's is.
static void test_firecracker_needs_no_qemu(void **state)
{
	has_qemu = false;
	choose_firecracker(NO, NULL);
	assert_int_equal(probes, 0);
}

static int make_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	return file_rm_rf(AT_FDCWD, dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_answers_are_kept, setup),
		cmocka_unit_test_setup(test_a_refusal_is_kept, setup),
		cmocka_unit_test_setup(test_what_is_not_known_is_asked_again, setup),
		cmocka_unit_test_setup(test_without_the_device_nothing_is_believed, setup),
		cmocka_unit_test_setup(test_other_programs_are_asked_anew, setup),
		cmocka_unit_test_setup(test_firecracker_is_refused_where_kvm_runs_no_guest, setup),
		cmocka_unit_test_setup(test_firecracker_is_taken_where_kvm_ran_a_guest, setup),
		cmocka_unit_test_setup(test_firecracker_needs_no_qemu, setup),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
