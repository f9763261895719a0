// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "base/str.h"
#include "shim/spec.h"

static const char *const argv[] = {"/usr/bin/vmm", "--api-sock", "/run/api.sock", NULL};
static const char *const pager[] = {"/usr/bin/pager", NULL};
static const struct shim_bind binds[] = {
	{"/k/vmlinux", "/vmlinux", false}, {"/s/\xc3\xa9/rootfs.img", "/rootfs.img", true}};

static const struct shim_spec full = {
	.id = "i123",
	.dir = "/run/stasis/i123",
	.netns = "/run/netns/s1",
	.uid = 70000,
	.gid = UINT32_MAX - 1,
	.runtime_dir = "/c/runtime/abc",
	.own_dir = "/c/programs/def",
	.console_path = "/d/console.log",
	.console_max = 8192,
	.fsize_max = 1ull << 40,
	.kvm = true,
	.vmm_argv = argv,
	.binds = binds,
	.n_binds = 2,
	.pager_argv = pager,
	.snap_dir = "/d/sandboxes/i123/snap",
	.vmm_log_path = "/d/sandboxes/i123/vmm.log",
	.kmsg_from = 78,
};

static void spec_survives_its_text(void **state)
{
	struct err e = {0};
	_cleanup_free_ char *text = shim_spec_format(&full);
	assert_non_null(text);
	_cleanup_(spec_freep) struct spec *sp = NULL;
	if (spec_parse(text, strlen(text), &sp, &e) < 0)
		fail_msg("%s", e.text);
	const struct shim_spec *s = spec_get(sp);
	assert_string_equal(s->id, full.id);
	assert_string_equal(s->dir, full.dir);
	assert_string_equal(s->netns, full.netns);
	assert_string_equal(s->runtime_dir, full.runtime_dir);
	assert_string_equal(s->own_dir, full.own_dir);
	assert_string_equal(s->console_path, full.console_path);
	assert_string_equal(s->vmm_log_path, full.vmm_log_path);
	assert_int_equal(s->uid, full.uid);
	assert_int_equal(s->gid, full.gid);
	assert_int_equal(s->console_max, full.console_max);
	assert_int_equal(s->fsize_max, full.fsize_max);
	assert_int_equal(s->kmsg_from, full.kmsg_from);
	assert_true(s->kvm);
	assert_int_equal(s->n_binds, 2);
	assert_string_equal(s->binds[1].source, binds[1].source);
	assert_string_equal(s->binds[1].target, binds[1].target);
	assert_true(s->binds[1].writable);
	assert_false(s->binds[0].writable);
	for (size_t i = 0; i < ARRAY_SIZE(argv) - 1; i++)
		assert_string_equal(s->vmm_argv[i], argv[i]);
	assert_null(s->vmm_argv[ARRAY_SIZE(argv) - 1]);
	assert_string_equal(s->pager_argv[0], pager[0]);
	assert_null(s->pager_argv[1]);
	assert_string_equal(s->snap_dir, full.snap_dir);
}

static void expect_refused(const struct shim_spec *s, const char *field)
{
	struct err e = {0};
	assert_int_equal(shim_spec_check(s, &e), -EINVAL);
	if (!strstr(e.text, field))
		fail_msg("expected '%s', got: %s", field, e.text);
}

static void unsafe_values_are_refused_by_name(void **state)
{
	static const char *const bad_paths[] = {
		NULL, "", "x", "/", "/a//b", "/a/", "/a/../b", "/..", "/./a"};
	struct shim_spec s = full;
	assert_int_equal(shim_spec_check(&s, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad_paths); i++) {
		s = full;
		s.dir = bad_paths[i];
		expect_refused(&s, "dir:");
		s = full;
		s.netns = bad_paths[i];
		expect_refused(&s, "netns:");
		s = full;
		s.snap_dir = bad_paths[i];
		if (bad_paths[i])
			expect_refused(&s, "snap_dir:");
	}
	s = full;
	s.id = "../x";
	expect_refused(&s, "id:");
	s = full;
	s.uid = 0;
	expect_refused(&s, "uid");
	s = full;
	s.gid = UINT32_MAX;
	expect_refused(&s, "gid");
	s = full;
	s.console_max = 100;
	expect_refused(&s, "console_max");
	s = full;
	s.fsize_max = UINT64_MAX;
	expect_refused(&s, "fsize_max");
	static const char *const none[] = {NULL}, *const relative[] = {"vmm", NULL};
	s = full;
	s.vmm_argv = none;
	expect_refused(&s, "vmm_argv");
	s.vmm_argv = relative;
	expect_refused(&s, "vmm_argv");
	s = full;
	s.pager_argv = none;
	expect_refused(&s, "pager_argv");
}

static void binds_cannot_cover_the_jail_itself(void **state)
{
	static const char *const targets[] = {"/", "/proc", "/proc/x", "/dev/kvm", "/usr/bin/vmm",
		"/run/api.sock", "/tmp/x", "/snap", "/snap/x", "/lib", "/lib64/x", "/../x", "x"};
	for (size_t i = 0; i < ARRAY_SIZE(targets); i++) {
		struct shim_bind b = {"/host/file", targets[i], false};
		struct shim_spec s = full;
		s.binds = &b;
		s.n_binds = 1;
		expect_refused(&s, "binds[0].target");
	}
	struct shim_bind b = {"/host/file", "/process/mem", false}; // only whole components count
	struct shim_spec s = full;
	s.binds = &b;
	s.n_binds = 1;
	assert_int_equal(shim_spec_check(&s, NULL), 0);
	b = (struct shim_bind){"relative", "/mem", false};
	expect_refused(&s, "binds[0].source");
	// As many as the longest image needs: two for each of its layers.
	enum { MANY = 2 * 4096 };
	struct shim_bind *many = calloc(MANY, sizeof *many);
	for (size_t i = 0; i < MANY; i++)
		many[i] = (struct shim_bind){
			"/var/lib/stasis/layers/11111111-1111-4111-8111-111111111111.sum",
			"/layers/11111111-1111-4111-8111-111111111111.sum", false};
	s.binds = many;
	s.n_binds = MANY;
	assert_int_equal(shim_spec_check(&s, NULL), 0);
	_cleanup_free_ char *text = shim_spec_format(&s);
	assert_in_range(strlen(text), 1, SHIM_FILE_MAX);
	free(many);
}

static void bad_texts_are_refused_by_name(void **state)
{
	static const struct {
		const char *find, *replace, *error;
	} cases[] = {
		{"\"id\": \"i123\"", "\"id\": 7", "id: must be a text"},
		{"\"id\": \"i123\"", "\"id\": \"i\\u0000\"", "bad JSON"},
		{"\"id\": \"i123\",", "", "id: missing"},
		{"\"uid\": 70000", "\"uid\": -1", "uid: must be a number"},
		{"\"uid\": 70000", "\"uid\": 4294967296", "uid: must be a number"},
		{"\"uid\": 70000", "\"uid\": 1.5", "uid: must be a number"},
		{"\"uid\": 70000", "\"uid\": 1, \"uid\": 2", "bad JSON"},
		{"\"kvm\": true", "\"kvm\": 1", "kvm: must be true or false"},
		{"\"kvm\": true", "\"kvm\": true, \"more\": 1", "unknown field 'more'"},
		{"\"writable\": false", "\"writable\": null", "binds[0]: writable: must be"},
		{"\"snap_dir\": \"/d/", "\"snap_dir\": [], \"x\": \"", "snap_dir: must be a text"},
		{"\"/run/api.sock\"", "3", "vmm_argv: must be an array of texts"},
	};
	_cleanup_free_ char *good = shim_spec_format(&full);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err e = {0};
		struct spec *sp = NULL;
		char *at = strstr(good, cases[i].find);
		assert_non_null(at);
		_cleanup_free_ char *bad = str_printf("%.*s%s%s", (int)(at - good), good,
			cases[i].replace, at + strlen(cases[i].find));
		assert_int_equal(spec_parse(bad, strlen(bad), &sp, &e), -EINVAL);
		if (!strstr(e.text, cases[i].error))
			fail_msg("expected '%s', got: %s", cases[i].error, e.text);
		assert_null(sp);
	}
}

static void state_and_exit_survive_their_texts(void **state)
{
	const struct shim_state st = {"i1", 4242, UINT64_MAX >> 1,
		"2f0c8e0e-0000-4000-8000-000000000000", 70000, 4243, 77};
	const struct shim_exit x = {
		"vmm", 256, "vmm_crash", "exit status 1: say \"no\" \\", 1795492120086576000ull};
	struct shim_state st2;
	struct shim_exit x2;
	_cleanup_free_ char *a = shim_state_format(&st), *b = shim_exit_format(&x);
	assert_int_equal(shim_state_parse(a, strlen(a), &st2, NULL), 0);
	assert_int_equal(st2.pid, st.pid);
	assert_int_equal(st2.vmm_pid, st.vmm_pid);
	assert_int_equal(st2.start_time, st.start_time);
	assert_int_equal(st2.uid, st.uid);
	assert_int_equal(st2.kmsg_from, st.kmsg_from);
	assert_string_equal(st2.id, st.id);
	assert_string_equal(st2.boot_id, st.boot_id);
	assert_int_equal(shim_exit_parse(b, strlen(b), &x2, NULL), 0);
	assert_int_equal(x2.status, x.status);
	assert_int_equal(x2.at_ns, x.at_ns);
	assert_string_equal(x2.first, x.first);
	assert_string_equal(x2.cause, x.cause);
	assert_string_equal(x2.detail, x.detail);
	// Another file's fields, a number of a process that cannot be, a cut text.
	assert_int_equal(shim_state_parse(b, strlen(b), &st2, NULL), -EINVAL);
	assert_int_equal(shim_exit_parse(a, strlen(a), &x2, NULL), -EINVAL);
	assert_int_equal(shim_exit_parse(b, strlen(b) - 1, &x2, NULL), -EINVAL);
	char *p = strstr(a, "\"pid\":4242");
	memcpy(p, "\"pid\":0000", 10);
	p[6] = '-';
	assert_int_equal(shim_state_parse(a, strlen(a), &st2, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(spec_survives_its_text),
		cmocka_unit_test(unsafe_values_are_refused_by_name),
		cmocka_unit_test(binds_cannot_cover_the_jail_itself),
		cmocka_unit_test(bad_texts_are_refused_by_name),
		cmocka_unit_test(state_and_exit_survive_their_texts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
