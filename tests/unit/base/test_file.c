// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "../check.h"
#include "base/file.h"

static int setup(void **state)
{
	char path[] = "/tmp/stasis-file.XXXXXX";
	if (!mkdtemp(path))
		return -1;
	*state = strdup(path);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	int rc = file_rm_rf(AT_FDCWD, *state);
	free(*state);
	return rc;
}

static int open_dir(void **state)
{
	int fd = open(*state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static size_t count_entries(int dir)
{
	size_t n = 0;
	DIR *d = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void atomic_write_replaces_whole_and_leaves_nothing(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	struct stat st;
	assert_int_equal(file_write_atomic(dir, "a", "one", 3, 0600), 0);
	assert_int_equal(file_write_atomic(dir, "a", "second", 6, 0644), 0);
	_cleanup_strbuf_ struct strbuf b = {0};
	assert_int_equal(file_read(dir, "a", 100, &b), 0);
	assert_string_equal(b.data, "second");
	assert_int_equal(fstatat(dir, "a", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	assert_int_equal(count_entries(dir), 1);
}

static void failed_atomic_write_leaves_nothing(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	assert_int_equal(mkdirat(dir, "taken", 0700), 0);
	assert_int_equal(file_write_atomic(dir, "taken", "x", 1, 0600), -EISDIR);
	assert_int_equal(file_write_atomic(dir, "no/such", "x", 1, 0600), -ENOENT);
	assert_int_equal(count_entries(dir), 1);
}

static void read_has_a_limit(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	_cleanup_strbuf_ struct strbuf b = {0};
	assert_int_equal(file_write_atomic(dir, "a", "0123456789", 10, 0600), 0);
	assert_int_equal(file_read(dir, "a", 9, &b), -EFBIG);
	assert_null(b.data);
	assert_int_equal(file_read(dir, "a", 10, &b), 0);
	assert_int_equal(b.len, 10);
	assert_int_equal(file_read(dir, "none", 10, &b), -ENOENT);
}

static void read_line(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	_cleanup_free_ char *line = NULL;
	assert_int_equal(file_write_atomic(dir, "a", "key\nmore\n", 9, 0600), 0);
	assert_int_equal(file_read_line(dir, "a", &line), 0);
	assert_string_equal(line, "key");
}

static void mkdir_p(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	assert_int_equal(file_mkdir_p(dir, "a/b/c", 0700), 0);
	assert_int_equal(file_mkdir_p(dir, "a/b/c/", 0700), 0);
	assert_int_equal(file_write_atomic(dir, "a/f", "", 0, 0600), 0);
	assert_int_equal(file_mkdir_p(dir, "a/f", 0700), -ENOTDIR);
	assert_true(file_mkdir_p(dir, "a/f/g", 0700) < 0);
}

static void rm_rf_does_not_follow_links(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	assert_int_equal(file_mkdir_p(dir, "keep", 0700), 0);
	assert_int_equal(file_write_atomic(dir, "keep/f", "x", 1, 0600), 0);
	assert_int_equal(file_mkdir_p(dir, "gone/deep/er", 0700), 0);
	assert_int_equal(file_write_atomic(dir, "gone/deep/f", "x", 1, 0600), 0);
	assert_int_equal(symlinkat("../keep", dir, "gone/link"), 0);
	assert_int_equal(file_rm_rf(dir, "gone"), 0);
	assert_false(file_exists(dir, "gone"));
	assert_true(file_exists(dir, "keep/f"));
	assert_int_equal(file_rm_rf(dir, "gone"), 0);
	assert_int_equal(symlinkat("keep", dir, "link"), 0);
	assert_int_equal(file_rm_rf(dir, "link"), 0);
	assert_true(file_exists(dir, "keep/f"));
}

static void rm_rf_stops_at_mounts(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	char path[200];
	assert_int_equal(file_mkdir_p(dir, "tree/mnt", 0700), 0);
	snprintf(path, sizeof path, "%s/tree/mnt", (char *)*state);
	if (mount("none", path, "tmpfs", 0, NULL) < 0)
		skip(); // needs root
	int made = file_write_atomic(dir, "tree/mnt/f", "x", 1, 0600);
	int removed = file_rm_rf(dir, "tree");
	bool kept = file_exists(dir, "tree/mnt/f");
	umount(path);
	assert_int_equal(made, 0);
	assert_int_equal(removed, -EBUSY);
	assert_true(kept);
}

static void lock_is_exclusive_and_names_its_holder(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	_cleanup_close_ int fd = -1;
	int second;
	pid_t holder = -1;
	assert_int_equal(file_lock(dir, "lock", &fd, &holder), 0);
	assert_int_equal(file_lock(dir, "lock", &second, &holder), -EBUSY);
	assert_int_equal(holder, getpid());
	fd = safe_close(fd);
	assert_int_equal(file_lock(dir, "lock", &fd, NULL), 0);
}

static void beneath_cannot_leave(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	assert_int_equal(file_mkdir_p(dir, "in", 0700), 0);
	assert_int_equal(file_write_atomic(dir, "secret", "x", 1, 0600), 0);
	assert_int_equal(file_write_atomic(dir, "in/ok", "x", 1, 0600), 0);
	_cleanup_close_ int in = openat(dir, "in", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(symlinkat("../secret", in, "relative"), 0);
	assert_int_equal(symlinkat("/etc/passwd", in, "absolute"), 0);
	_cleanup_close_ int fd = file_open_beneath(in, "ok", O_RDONLY, 0);
	assert_true(fd >= 0);
	static const char *const bad[] = {"../secret", "relative", "absolute", "/etc/passwd"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(file_open_beneath(in, bad[i], O_RDONLY, 0), -EXDEV);
}

static void full_reads_and_writes_over_a_pipe(void **state)
{
	int p[2];
	static char out[300000], in[sizeof out + 10];
	memset(out, 7, sizeof out);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0)
		_exit(file_write_full(p[1], out, sizeof out) != 0);
	close(p[1]);
	assert_int_equal(file_read_full(p[0], in, sizeof in), sizeof out);
	assert_memory_equal(in, out, sizeof out);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(p[0]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(atomic_write_replaces_whole_and_leaves_nothing),
		T(failed_atomic_write_leaves_nothing),
		T(read_has_a_limit),
		T(read_line),
		T(mkdir_p),
		T(rm_rf_does_not_follow_links),
		T(rm_rf_stops_at_mounts),
		T(lock_is_exclusive_and_names_its_holder),
		T(beneath_cannot_leave),
		T(full_reads_and_writes_over_a_pipe),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
