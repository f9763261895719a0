// SPDX-License-Identifier: Apache-2.0
// Building, installing and reading images, with scripts that make small files in no time.
#include "fixture.h"
#include <signal.h>
#include <sys/wait.h>
#include "base/proc.h"
#include "disk/disk.h"
#include "disk/image_build.h"

#define COUNT "echo run >>\"${0%/*}/runs\"\n"

static const char kernel_script[] =
	"#!/bin/sh\nset -eu\n" COUNT "echo progress 50 halfway\nmkdir -p \"$1/modules\"\n"
	"mkdir -p \"$1/lib/modules\"\necho old >\"$1/lib/modules/loop.ko\"\n"
	"echo elf >\"$1/vmlinux\"\n"
	"sha=$(sha256sum <\"$1/vmlinux\" | cut -c 1-64)\n"
	"echo "
	"\"{\\\"release\\\":\\\"6.1-test\\\",\\\"boot_args\\\":\\\"quiet\\\",\\\"vmlinux_"
	"sha256\\\":"
	"\\\"$sha\\\"}\" >\"$1/config.json\"\n";
static const char initrd_script[] =
	"#!/bin/sh\nset -eu\n" COUNT "[ \"$2 $4 $6\" = '--modules --init --envd' ]\n"
	"cat \"$5\" \"$7\" >\"$1\"\n";
// Its content differs each time, as that of a real one does.
static const char rootfs_script[] =
	"#!/bin/sh\nset -eu\n" COUNT "echo progress 10 'first part'\n"
	"[ \"$2\" = --modules ] && [ -e \"$3/loop.ko\" ]\n"
	"cat /proc/sys/kernel/random/uuid >\"$TMPDIR/work\"\n"
	"cp \"$TMPDIR/work\" \"$1\"\ntruncate -s 4M \"$1\"\necho progress 100 done\n";

struct rig {
	struct fixture *f;
	char *data, *cache, *scripts, *init, *envd;
	struct image_build_config c;
	unsigned last_percent, calls;
	bool went_back;
	volatile sig_atomic_t cancel;
	const char *cancel_at; // text that makes the callback cancel
};

static void put(const struct rig *r, const char *name, const char *text, mode_t mode)
{
	assert_int_equal(file_write_atomic(r->f->fd, name, text, strlen(text), mode), 0);
}

static void on_progress(void *ctx, unsigned percent, const char *text)
{
	struct rig *r = ctx;
	r->went_back |= percent < r->last_percent || percent > 100;
	r->last_percent = percent;
	r->calls++;
	if (r->cancel_at && strstr(text, r->cancel_at))
		r->cancel = 1;
}

static int rig_setup(void **state)
{
	if (fixture_setup(state) < 0)
		return -1;
	struct rig *r = calloc(1, sizeof *r);
	struct err e = {0};
	r->f = *state;
	r->data = in_dir(r->f, "data");
	r->cache = in_dir(r->f, "cache");
	r->scripts = in_dir(r->f, "images");
	r->init = in_dir(r->f, "init");
	r->envd = in_dir(r->f, "envd");
	assert_return_code(mkdir(r->scripts, 0755), errno);
	put(r, "images/common.sh", "", 0644);
	put(r, "images/build-kernel", kernel_script, 0755);
	put(r, "images/build-initrd", initrd_script, 0755);
	put(r, "images/build-rootfs", rootfs_script, 0755);
	put(r, "init", "init 1", 0755);
	put(r, "envd", "envd 1", 0755);
	assert_int_equal(volume_init_dir(r->data, &e), 0);
	r->c = (struct image_build_config){.data_dir = r->data,
		.cache_dir = r->cache,
		.init_program = r->init,
		.envd_program = r->envd,
		.scripts_dir = r->scripts,
		.progress = on_progress,
		.progress_ctx = r,
		.cancel = &r->cancel};
	*state = r;
	return 0;
}

static int rig_teardown(void **state)
{
	struct rig *r = *state;
	void *f = r->f;
	free(r->data);
	free(r->cache);
	free(r->scripts);
	free(r->init);
	free(r->envd);
	free(r);
	return fixture_teardown(&f);
}

static struct image_info build_or_die(struct rig *r)
{
	struct image_info i = {0};
	struct err e = {0};
	r->last_percent = 0;
	if (image_build(&r->c, &i, &e) < 0)
		fail_msg("%s", e.text);
	return i;
}

static unsigned runs(const struct rig *r)
{
	_cleanup_free_ char *path = str_printf("%s/runs", r->scripts);
	return lines_with(path, "run");
}

static bool any_temporary(const char *path)
{
	_cleanup_closedir_ DIR *d = opendir(path);
	for (struct dirent *de; d && (de = readdir(d));)
		if (str_starts(de->d_name, ".tmp-"))
			return true;
	return false;
}

static void assert_no_garbage(const struct rig *r)
{
	_cleanup_free_ char *kernels = str_printf("%s/kernels", r->data);
	_cleanup_free_ char *base = str_printf("%s/templates/base", r->data);
	assert_false(any_temporary(r->cache));
	assert_false(any_temporary(kernels));
	assert_int_equal(count_entries(base), 2);
}

static ino_t inode(const struct rig *r, const char *path)
{
	struct stat st;
	_cleanup_free_ char *full = str_printf("%s/%s", r->data, path);
	assert_return_code(stat(full, &st), errno);
	return st.st_ino;
}

static void second_build_does_nothing(void **state)
{
	struct rig *r = *state;
	struct err e = {0};
	struct image_info loaded;
	struct image_info a = build_or_die(r);
	assert_int_equal(runs(r), 3);
	assert_false(r->went_back);
	assert_int_equal(r->last_percent, 100);
	assert_true(r->calls >= 6);
	assert_string_equal(a.name, "base");
	assert_string_equal(a.boot_args, "quiet");
	assert_string_equal(a.kernel_release, "6.1-test");
	assert_int_equal(a.rootfs_bytes, 4 << 20);
	assert_int_equal(a.disk_mb, 4);
	ino_t before = inode(r, a.rootfs);
	struct image_info b = build_or_die(r);
	assert_int_equal(runs(r), 3);
	assert_int_equal(inode(r, b.rootfs), before);
	assert_string_equal(a.created_at, b.created_at);
	assert_int_equal(image_load(r->data, "base", &loaded, &e), 0);
	assert_memory_equal(&loaded, &b, sizeof b);
	assert_no_garbage(r);
}

static bool used_is_ctx(void *ctx, const char *id)
{
	return str_eq(id, ctx);
}

static void a_new_agent_changes_the_kernel_only(void **state)
{
	struct rig *r = *state;
	struct err e = {0};
	struct image_info a = build_or_die(r);
	put(r, "envd", "envd 2", 0755);
	struct image_info b = build_or_die(r);
	assert_int_equal(runs(r), 4);
	assert_string_not_equal(a.kernel_id, b.kernel_id);
	assert_string_equal(a.rootfs, b.rootfs);
	_cleanup_free_ char *kernels = str_printf("%s/kernels", r->data);
	assert_int_equal(image_collect(r->data, used_is_ctx, a.kernel_id, &e), 0);
	assert_int_equal(count_entries(kernels), 2);
	assert_int_equal(image_collect(r->data, NULL, NULL, &e), 0);
	assert_int_equal(count_entries(kernels), 1);
	assert_int_equal(image_load(r->data, "base", &b, &e), 0);
}

// Its modules are in the root file system: those of another kernel would not load.
static void another_kernel_changes_the_root_file_system_too(void **state)
{
	struct rig *r = *state;
	struct image_info a = build_or_die(r);
	_cleanup_free_ char *other = strdup(kernel_script);
	assert_non_null(other);
	memcpy(strstr(other, "6.1-test"), "6.2-test", strlen("6.2-test"));
	put(r, "images/build-kernel", other, 0755);
	struct image_info b = build_or_die(r);
	assert_int_equal(runs(r), 6);
	assert_string_not_equal(a.rootfs, b.rootfs);
	assert_no_garbage(r);
}

static void forced_build_replaces_the_template(void **state)
{
	struct rig *r = *state;
	struct image_info a = build_or_die(r);
	r->c.force = true;
	struct image_info b = build_or_die(r);
	assert_int_equal(runs(r), 5); // the initramfs depends on what the kernel's config says
	assert_string_not_equal(a.rootfs_sha256, b.rootfs_sha256);
	assert_no_garbage(r);
}

static void cache_keeps_few_pieces(void **state)
{
	struct rig *r = *state;
	for (int i = 0; i < 6; i++) {
		_cleanup_free_ char *text = str_printf("envd %d", i);
		put(r, "envd", text, 0755);
		build_or_die(r);
	}
	// kernel, rootfs, three initrds, lock
	assert_int_equal(count_entries(r->cache), 6);
}

static void failing_script_tells_why(void **state)
{
	struct rig *r = *state;
	struct err e = {0};
	struct image_info i;
	put(r, "images/build-rootfs",
		"#!/bin/sh\necho progress 3 x\necho some output\necho mirror is down >&2\nexit 1\n",
		0755);
	assert_true(image_build(&r->c, &i, &e) < 0);
	assert_non_null(strstr(e.text, "mirror is down"));
	assert_null(strstr(e.text, "progress"));
	assert_false(any_temporary(r->cache));
	assert_int_equal(image_load(r->data, "base", &i, &e), -ENOENT);
	put(r, "images/build-rootfs", "#!/bin/sh\nkill -9 $$\n", 0755);
	assert_true(image_build(&r->c, &i, &e) < 0);
	assert_non_null(strstr(e.text, "signal: "));
}

static void cancel_ends_the_script_and_its_children(void **state)
{
	struct rig *r = *state;
	struct err e = {0};
	struct image_info i;
	_cleanup_free_ char *pid_path = str_printf("%s/pid", r->scripts);
	_cleanup_free_ char *pid_text = NULL;
	put(r, "images/build-rootfs",
		"#!/bin/sh\nsleep 1000 &\necho $! >\"${0%/*}/pid\"\necho progress 5 "
		"waiting\nwait\n",
		0755);
	r->cancel_at = "waiting";
	assert_int_equal(image_build(&r->c, &i, &e), -ECANCELED);
	assert_int_equal(e.code, ERR_CANCELED);
	assert_false(any_temporary(r->cache));
	uint64_t pid;
	assert_int_equal(file_read_line(AT_FDCWD, pid_path, &pid_text), 0);
	assert_int_equal(str_to_u64(pid_text, INT32_MAX, &pid), 0);
	// It got the signal; its new parent may take a moment to reap it.
	int pidfd = proc_pidfd_open((pid_t)pid);
	if (pidfd >= 0) {
		assert_int_not_equal(proc_wait(pidfd, 5000, NULL), -ETIMEDOUT);
		close(pidfd);
	}
}

static int build_in_child(struct rig *r, const char *fault)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		struct image_info i;
		fault_setup(fault, NULL);
		_exit(image_build(&r->c, &i, NULL) < 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void killed_build_leaves_the_old_or_the_new(void **state)
{
	struct rig *r = *state;
	struct err e = {0};
	const char *const points[] = {"image.before_publish:kill@1", "image.before_publish:kill@2",
		"image.before_publish:kill@3", "image.after_kernel:kill",
		"image.after_rootfs:kill"};
	struct image_info old = build_or_die(r), i;
	for (size_t n = 0; n < ARRAY_SIZE(points); n++) {
		_cleanup_free_ char *text = str_printf("envd for %zu", n);
		put(r, "envd", text, 0755);
		r->c.force = true;
		assert_true(WIFSIGNALED(build_in_child(r, points[n])));
		assert_int_equal(image_load(r->data, "base", &i, &e), 0);
		assert_memory_equal(&i, &old, sizeof i);
		r->c.force = false;
		old = build_or_die(r);
		assert_no_garbage(r);
	}
	_cleanup_free_ char *kernels = str_printf("%s/kernels", r->data);
	assert_int_equal(image_collect(r->data, NULL, NULL, &e), 0);
	assert_int_equal(count_entries(kernels), 1);
}

static void failed_install_can_be_repeated(void **state)
{
	struct rig *r = *state;
	struct err e = {0};
	struct image_info i;
	const char *const points[] = {
		"image.before_publish:fail", "image.after_kernel:fail", "image.after_rootfs:fail"};
	for (size_t n = 0; n < ARRAY_SIZE(points); n++) {
		assert_int_equal(build_in_child(r, points[n]), W_EXITCODE(1, 0));
		assert_int_equal(image_load(r->data, "base", &i, &e), -ENOENT);
		assert_false(any_temporary(r->cache));
	}
	build_or_die(r);
	assert_no_garbage(r);
}

static void builds_at_once_wait_for_each_other(void **state)
{
	struct rig *r = *state;
	pid_t pids[3];
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		pids[i] = fork();
		struct image_info info;
		if (pids[i] == 0)
			_exit(image_build(&r->c, &info, NULL) < 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		int status;
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	assert_int_equal(runs(r), 3);
	assert_no_garbage(r);
}

static void build_says_what_is_missing(void **state)
{
	struct rig *r = *state;
	struct err e = {0};
	struct image_info i;
	_cleanup_free_ char *plain = in_dir(r->f, "plain");
	assert_return_code(mkdir(plain, 0755), errno);
	r->c.data_dir = plain;
	assert_true(image_build(&r->c, &i, &e) < 0);
	assert_int_equal(e.code, ERR_UNAVAILABLE);
	assert_int_equal(count_entries(plain), 0);
	r->c.data_dir = r->data;
	r->c.init_program = "/nonexistent/init";
	assert_true(image_build(&r->c, &i, &e) < 0);
	assert_int_equal(e.code, ERR_NOT_FOUND);
	r->c.init_program = r->init;
	r->c.name = "../escape";
	assert_true(image_build(&r->c, &i, &e) < 0);
	assert_int_equal(e.code, ERR_INVALID);
}

static void templates_are_listed_and_damage_is_noticed(void **state)
{
	struct rig *r = *state;
	struct err e = {0};
	struct image_info *list = NULL, i;
	size_t n = 9, damaged = 9;
	assert_int_equal(image_list(r->data, &list, &n, &damaged, &e), 0);
	assert_int_equal(n, 0);
	free(list);
	r->c.name = "second";
	build_or_die(r);
	r->c.name = "base";
	struct image_info base = build_or_die(r);
	assert_int_equal(image_list(r->data, &list, &n, &damaged, &e), 0);
	assert_int_equal(n, 2);
	assert_int_equal(damaged, 0);
	assert_string_equal(list[0].name, "base");
	assert_string_equal(list[1].name, "second");
	free(list);
	assert_int_equal(image_load(r->data, "third", &i, &e), -ENOENT);
	assert_int_equal(e.code, ERR_NOT_FOUND);
	assert_int_equal(image_load(r->data, "../base", &i, &e), -EINVAL);

	_cleanup_free_ char *rootfs = str_printf("%s/%s", r->data, base.rootfs);
	assert_return_code(truncate(rootfs, 4096), errno);
	assert_true(image_load(r->data, "base", &i, &e) < 0);
	assert_int_equal(e.code, ERR_INTERNAL);
	assert_non_null(strstr(e.text, "stasis image build"));
	assert_int_equal(image_list(r->data, &list, &n, &damaged, &e), 0);
	assert_int_equal(n, 1);
	assert_int_equal(damaged, 1);
	free(list);
	assert_true(image_collect(r->data, NULL, NULL, &e) < 0);
	build_or_die(r); // mends it
	assert_int_equal(image_load(r->data, "base", &i, &e), 0);
	_cleanup_free_ char *vmlinux = str_printf("%s/%s", r->data, base.vmlinux);
	assert_return_code(unlink(vmlinux), errno);
	assert_true(image_load(r->data, "base", &i, &e) < 0);
	assert_int_equal(e.code, ERR_INTERNAL);
	build_or_die(r); // and that
	assert_int_equal(image_load(r->data, "base", &i, &e), 0);
}

#define SHA "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define FIELDS(rest)                                                                               \
	"{\"name\":\"base\",\"kind\":\"base\",\"rootfs_sha256\":\"" SHA "\","                      \
	"\"created_at\":\"2026-11-24T03:00:00Z\"," rest "}"
#define GOOD                                                                                       \
	"\"format\":1,\"kernel\":\"" SHA "\",\"vcpus\":1,\"memory_mb\":512,"                       \
	"\"min_memory_mb\":128,\"disk_mb\":2048,\"rootfs\":\"rootfs.img\",\"rootfs_bytes\":"

static void template_text_is_checked(void **state)
{
	struct image_info i;
	struct err e = {0};
	const char good[] = FIELDS(GOOD "4096");
	const char *const bad[] = {
		"",
		"[]",
		"{}",
		"{",
		FIELDS(GOOD "4096,\"extra\":1"),
		FIELDS(GOOD "\"4096\""),
		FIELDS(GOOD "-1"),
		FIELDS(GOOD "99999999999999"),
		FIELDS("\"format\":2,\"kernel\":\"" SHA "\""),
		FIELDS("\"format\":1,\"kernel\":\"" SHA "\",\"vcpus\":0,\"memory_mb\":512,"
		       "\"min_memory_mb\":128,\"disk_mb\":1,\"rootfs\":\"r\",\"rootfs_bytes\":"
		       "4096"),
		FIELDS("\"format\":1,\"kernel\":\"" SHA "\",\"vcpus\":1,\"memory_mb\":100,"
		       "\"min_memory_mb\":128,\"disk_mb\":1,\"rootfs\":\"r\",\"rootfs_bytes\":"
		       "4096"),
		FIELDS("\"format\":1,\"kernel\":\"../../x\",\"vcpus\":1,\"memory_mb\":512,"
		       "\"min_memory_mb\":128,\"disk_mb\":1,\"rootfs\":\"r\",\"rootfs_bytes\":"
		       "4096"),
		FIELDS("\"format\":1,\"kernel\":\"" SHA "\",\"vcpus\":1,\"memory_mb\":512,"
		       "\"min_memory_mb\":128,\"disk_mb\":1,\"rootfs\":\"../"
		       "r\",\"rootfs_bytes\":4096"),
	};
	assert_int_equal(image_parse_template(good, strlen(good), &i, &e), 0);
	assert_string_equal(i.rootfs, "templates/base/rootfs.img");
	assert_int_equal(i.min_memory_mb, 128);
	for (size_t n = 0; n < ARRAY_SIZE(bad); n++)
		if (image_parse_template(bad[n], strlen(bad[n]), &i, &e) != -EINVAL)
			fail_msg("accepted: %s", bad[n]);
}

#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(second_build_does_nothing),
		T(a_new_agent_changes_the_kernel_only),
		T(another_kernel_changes_the_root_file_system_too),
		T(forced_build_replaces_the_template),
		T(cache_keeps_few_pieces),
		T(failing_script_tells_why),
		T(cancel_ends_the_script_and_its_children),
		T(killed_build_leaves_the_old_or_the_new),
		T(failed_install_can_be_repeated),
		T(builds_at_once_wait_for_each_other),
		T(build_says_what_is_missing),
		T(templates_are_listed_and_damage_is_noticed),
		cmocka_unit_test(template_text_is_checked),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
