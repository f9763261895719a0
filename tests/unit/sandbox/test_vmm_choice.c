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
static bool has_device;
static unsigned probes;

int __wrap_proc_run(const char *const *argv, const void *input, size_t input_len, int timeout_ms,
	struct strbuf *ret_out, struct err *e);
int __wrap_proc_run(const char *const *argv, const void *input, size_t input_len, int timeout_ms,
	struct strbuf *ret_out, struct err *e)
{
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
	if (!str_eq(path, "/dev/kvm"))
		return __real_access(path, mode);
	errno = ENOENT;
	return has_device ? 0 : -1;
}

static void install(const char *text)
{
	_cleanup_free_ char *path = __wrap_paths_find("fcqemu");
	assert_int_equal(file_write_atomic(AT_FDCWD, path, text, strlen(text), 0755), 0);
}

static int setup(void **state)
{
	char path[sizeof dir + 16];
	snprintf(path, sizeof path, "%s/probe.json", dir);
	unlink(path);
	install("first");
	has_device = true;
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
	install("an upgrade");
	assert_true(choose(YES));
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
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
