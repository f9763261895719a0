// SPDX-License-Identifier: Apache-2.0
// vmm_floor, the list of what is denied, and runtime.json.
#include "../check.h"
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "sandbox/machine/runtime_file.h"
#include "sandbox/machine/runtime_rules.h"

#define A "0123456789abcdef0123456789abcdef"
#define B "fedcba9876543210fedcba9876543210"

static char dir[] = "/tmp/test-runtime-rules.XXXXXX";
static int data_fd;

static struct vmm_choice vmm(bool firecracker, const char *version)
{
	struct vmm_choice v = {.firecracker = firecracker, .runtime = A};
	snprintf(v.upstream, sizeof v.upstream, "%s", version);
	return v;
}

static bool allows(const char *floor, bool firecracker, const char *version)
{
	struct runtime_rules r = {0};
	char why[RUNTIME_WHY_SIZE] = "";
	struct err e = {0};
	const struct vmm_choice v = vmm(firecracker, version);
	if (runtime_rules_open(&r, data_fd, floor, &e) < 0)
		fail_msg("%s: %s", floor, e.text);
	bool is = runtime_is_allowed(&r, &v, why);
	assert_int_equal(is, !why[0]);
	assert_true(is || strstr(why, "vmm_floor"));
	runtime_rules_done(&r);
	return is;
}

static void test_floor(void **state)
{
	assert_true(allows(NULL, false, "5.0.0"));
	assert_true(allows("", false, "5.0.0"));
	assert_true(allows("qemu 7.2.9", false, "7.2.9"));
	assert_true(allows("qemu 7.2.9", false, "7.2.10"));
	assert_true(allows("qemu 7.2.9", false, "10.0.2"));
	assert_false(allows("qemu 7.2.9", false, "7.2.8"));
	assert_false(allows("qemu 10.0.0", false, "7.2.22"));
	assert_true(allows("qemu 10.0.0", true, "1.14.2")); // says nothing of the other
	assert_false(allows(" firecracker 1.14.2 , qemu 7.2.9", true, "1.14.1"));
	assert_true(allows("firecracker 1.14.2,qemu 7.2.9,", true, "1.17.0-dev"));
	assert_false(allows("qemu 7.2.9", false, "")); // not known
}

static void test_floors_that_are_none(void **state)
{
	static const char *const wrong[] = {"qemu", "7.2.9", "qemu seven", "qemu 7.2.9 10",
		"qemu 7.2.9, qemu 10.0.0", "cloud-hypervisor 1.0.0", "qemu=7.2.9", "qemu -1.0.0"};
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct runtime_rules r = {0};
		struct err e = {0};
		if (runtime_rules_open(&r, data_fd, wrong[i], &e) == 0)
			fail_msg("'%s' is taken", wrong[i]);
		assert_int_equal(e.code, ERR_INVALID);
		assert_non_null(strstr(e.text, "vmm_floor"));
		runtime_rules_done(&r);
	}
}

static void test_denied(void **state)
{
	struct runtime_rules r = {0}, again = {0};
	const struct vmm_choice v = vmm(false, "7.2.22");
	char why[RUNTIME_WHY_SIZE] = "";
	struct err e = {0};
	assert_int_equal(runtime_rules_open(&r, data_fd, NULL, &e), 0);
	assert_int_equal(runtime_deny(&r, data_fd, "0123", true, &e), -EINVAL);
	assert_int_equal(runtime_deny(&r, data_fd, A "0", true, &e), -EINVAL);
	assert_int_equal(
		runtime_deny(&r, data_fd, "../../../../../../../../etc/pass", true, &e), -EINVAL);
	assert_int_equal(runtime_deny(&r, data_fd, A, true, &e), 0);
	assert_int_equal(runtime_deny(&r, data_fd, B, true, &e), 0);
	assert_false(runtime_is_allowed(&r, &v, why));
	assert_non_null(strstr(why, A));
	assert_int_equal(runtime_rules_open(&again, data_fd, NULL, &e), 0); // a restart
	assert_true(runtime_is_denied(&again, A) && runtime_is_denied(&again, B));
	assert_int_equal(runtime_deny(&again, data_fd, A, false, &e), 0);
	assert_int_equal(runtime_deny(&again, data_fd, A, false, &e), 0);
	assert_true(runtime_is_allowed(&again, &v, why));
	assert_true(runtime_is_denied(&again, B));
	// The volume is gone: nothing changes in memory either.
	assert_true(runtime_deny(&again, -1, B, false, &e) < 0);
	assert_true(runtime_is_denied(&again, B));
	assert_true(runtime_deny(&again, -1, A, true, &e) < 0);
	assert_false(runtime_is_denied(&again, A));
	runtime_rules_done(&r);
	runtime_rules_done(&again);
	assert_int_equal(file_write_atomic(data_fd, "runtime.denied", "oops\n", 5, 0600), 0);
	struct runtime_rules bad = {0};
	assert_true(runtime_rules_open(&bad, data_fd, NULL, &e) < 0); // not taken for an empty one
	runtime_rules_done(&bad);
	unlinkat(data_fd, "runtime.denied", 0);
}

static void test_runtime_json(void **state)
{
	struct runtime r = {.vmm = vmm(false, "7.2.22"), .first_ns = 5, .last_ns = 7}, got = {0};
	struct err e = {0};
	snprintf(r.package, sizeof r.package, "qemu-system-x86 1:7.2+dfsg-7");
	snprintf(r.vmm.state, sizeof r.vmm.state, "fcqemu-1/qemu-7.2.22");
	snprintf(r.vmm.sha256, sizeof r.vmm.sha256, "abc");
	_cleanup_free_ char *text = runtime_format(&r);
	assert_int_equal(runtime_parse(text, strlen(text), &got, &e), 0);
	assert_string_equal(got.vmm.name, "fcqemu");
	assert_string_equal(got.vmm.upstream, "7.2.22");
	assert_string_equal(got.vmm.state, r.vmm.state);
	assert_string_equal(got.package, r.package);
	assert_true(got.first_ns == 5 && got.last_ns == 7 && !got.unnamed);
	static const char *const wrong[] = {"", "{}", "[]", "{\"format\":2}",
		"{\"format\":1,\"program\":\"qemu\"}",
		"{\"format\":1,\"program\":\"bochs\",\"version\":\"1.0.0\",\"state_format\":"
		"\"x\",\"sha256\":\"\",\"first_use_ns\":1,\"last_use_ns\":1}",
		"{\"format\":1,\"program\":\"qemu\",\"version\":\"x\",\"state_format\":\"x\","
		"\"sha256\":\"\",\"first_use_ns\":1,\"last_use_ns\":1}"};
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		if (runtime_parse(wrong[i], strlen(wrong[i]), &got, &e) == 0)
			fail_msg("'%s' is taken", wrong[i]);
	assert_string_equal(got.vmm.upstream, "7.2.22");
	// A newer server's is not taken for a damaged one, which is made anew.
	assert_true(runtime_parse("{\"format\":1}", 12, &got, &e) < 0 && e.code == ERR_INVALID);
	assert_true(
		runtime_parse("{\"format\":2}", 12, &got, &e) < 0 && e.code == ERR_UNIMPLEMENTED);
}

static int setup(void **state)
{
	data_fd = mkdtemp(dir) ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	return data_fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	close(data_fd);
	return file_rm_rf(AT_FDCWD, dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_floor),
		cmocka_unit_test(test_floors_that_are_none),
		cmocka_unit_test(test_denied),
		cmocka_unit_test(test_runtime_json),
	};
	return cmocka_run_group_tests_name("sandbox: runtime rules", tests, setup, teardown);
}
