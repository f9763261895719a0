// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include "../check.h"
#include "base/file.h"
#include "base/replace.h"

static int dir = -1; // of the test

static int setup(void **state)
{
	char path[] = "/tmp/stasis-replace.XXXXXX";
	if (!mkdtemp(path) || chmod(path, 0755) < 0)
		return -1;
	*state = strdup(path);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *state && dir >= 0 ? 0 : -1;
}

static int teardown(void **state)
{
	dir = safe_close(dir);
	int rc = file_rm_rf(AT_FDCWD, *state);
	free(*state);
	return rc;
}

static void put(const char *name, const char *text)
{
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(file_write_full(fd, text, strlen(text)), 0);
}

static void has(const char *name, const char *text)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	assert_int_equal(file_read(dir, name, 1000, &b), 0);
	assert_string_equal(b.data, text);
}

static size_t entries(void)
{
	size_t n = 0;
	_cleanup_closedir_ DIR *d = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	assert_non_null(d);
	while (readdir(d))
		n++;
	return n - 2;
}

static void started(struct replace *r, const char *path, unsigned flags, const char *text)
{
	assert_int_equal(replace_begin(r, dir, path, flags, 0644), 0);
	assert_int_equal(file_write_full(r->fd, text, strlen(text)), 0);
}

static void replaced(const char *path, unsigned flags, const char *text)
{
	struct replace r;
	started(&r, path, flags, text);
	assert_int_equal(replace_commit(&r), 0);
	assert_int_equal(r.fd, -1);
}

static void a_new_file_appears_when_it_is_whole(void **state)
{
	struct replace r;
	started(&r, "new", 0, "half");
	assert_false(file_exists(dir, "new"));
	replace_abort(&r);
	assert_int_equal(entries(), 0);
	replaced("new", 0, "whole");
	has("new", "whole");
	assert_int_equal(entries(), 1);
}

static void the_old_one_is_there_until_then(void **state)
{
	struct replace r;
	put("f", "old");
	started(&r, "f", 0, "new");
	has("f", "old");
	replace_abort(&r);
	has("f", "old");
	replaced("f", REPLACE_SYNC, "new");
	has("f", "new");
	assert_int_equal(entries(), 1);
}

static void what_the_old_one_was_stays(void **state)
{
	struct stat st;
	struct replace r;
	char value[8] = "";
	put("f", "old");
	assert_int_equal(fchmodat(dir, "f", 0640, 0), 0);
	_cleanup_close_ int fd = openat(dir, "f", O_RDONLY | O_CLOEXEC);
	bool xattrs = fsetxattr(fd, "user.kept", "yes", 3, 0) == 0;
	bool root = geteuid() == 0;
	if (root)
		assert_int_equal(fchownat(dir, "f", 65534, 65533, 0), 0);
	assert_int_equal(fchmodat(dir, "f", 04640, 0), 0);
	started(&r, "f", 0, "new");
	replace_take_old(&r);
	assert_int_equal(replace_commit(&r), 0);
	assert_int_equal(fstatat(dir, "f", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	if (root)
		assert_true(st.st_uid == 65534 && st.st_gid == 65533);
	_cleanup_close_ int now = openat(dir, "f", O_RDONLY | O_CLOEXEC);
	if (xattrs) {
		assert_int_equal(fgetxattr(now, "user.kept", value, sizeof value), 3);
		assert_memory_equal(value, "yes", 3);
	}
}

static void links_are_followed_where_wanted(void **state)
{
	struct replace r;
	struct stat st;
	assert_int_equal(mkdirat(dir, "d", 0755), 0);
	put("d/target", "old");
	assert_int_equal(symlinkat("d/one", dir, "link"), 0);
	assert_int_equal(symlinkat("target", dir, "d/one"), 0);
	replaced("link", REPLACE_FOLLOW, "through");
	has("d/target", "through");
	assert_int_equal(symlinkat("d/made", dir, "dangling"), 0);
	replaced("dangling", REPLACE_FOLLOW, "made");
	has("d/made", "made");
	assert_int_equal(symlinkat("no/where", dir, "lost"), 0);
	assert_int_equal(replace_begin(&r, dir, "lost", REPLACE_FOLLOW, 0644), -ENOENT);
	assert_int_equal(symlinkat("loop", dir, "loop"), 0);
	assert_int_equal(replace_begin(&r, dir, "loop", REPLACE_FOLLOW, 0644), -ELOOP);
	assert_int_equal(symlinkat("d", dir, "dirlink"), 0);
	assert_int_equal(replace_begin(&r, dir, "dirlink", REPLACE_FOLLOW, 0644), -EISDIR);
	replaced("link", 0, "instead");
	assert_int_equal(fstatat(dir, "link", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISREG(st.st_mode));
	has("d/target", "through");
}

static void other_names_of_the_file_keep_the_old_content(void **state)
{
	put("one", "old");
	assert_int_equal(linkat(dir, "one", dir, "two", 0), 0);
	replaced("one", 0, "new");
	has("one", "new");
	has("two", "old");
}

static void what_is_no_file_is_refused_or_written_to(void **state)
{
	struct replace r;
	char buf[8] = "";
	assert_int_equal(mkdirat(dir, "d", 0755), 0);
	assert_int_equal(replace_begin(&r, dir, "d", 0, 0644), -EISDIR);
	assert_int_equal(replace_begin(&r, dir, "d/", 0, 0644), -EISDIR);
	assert_int_equal(replace_begin(&r, dir, "", 0, 0644), -ENOENT);
	assert_int_equal(replace_begin(&r, dir, "no/file", 0, 0644), -ENOENT);
	assert_int_equal(mkfifoat(dir, "pipe", 0600), 0);
	assert_int_equal(replace_begin(&r, dir, "pipe", 0, 0644), -EINVAL);
	_cleanup_close_ int pipe = openat(dir, "pipe", O_RDWR | O_CLOEXEC);
	started(&r, "pipe", REPLACE_SPECIAL | REPLACE_FOLLOW, "word");
	assert_int_equal(replace_commit(&r), 0);
	assert_int_equal(read(pipe, buf, sizeof buf), 4);
	assert_string_equal(buf, "word");
	started(&r, "/dev/null", REPLACE_SPECIAL | REPLACE_FOLLOW, "gone");
	replace_abort(&r);
	assert_true(file_exists(AT_FDCWD, "/dev/null"));
}

static void a_mount_point_is_written_in_place(void **state)
{
	char from[100], to[100];
	struct replace r;
	struct stat before, after;
	snprintf(from, sizeof from, "%s/from", (char *)*state);
	snprintf(to, sizeof to, "%s/to", (char *)*state);
	put("from", "a longer old text");
	put("to", "");
	if (mount(from, to, NULL, MS_BIND, NULL) < 0)
		skip();
	fstatat(dir, "from", &before, 0);
	started(&r, "to", 0, "dropped");
	replace_abort(&r);
	has("from", "a longer old text");
	replaced("to", 0, "new");
	umount(to);
	fstatat(dir, "from", &after, 0);
	has("from", "new");
	assert_int_equal(before.st_ino, after.st_ino);
	assert_int_equal(entries(), 2);
}

static void so_is_a_file_in_a_directory_that_cannot_be_written(void **state)
{
	struct replace r;
	if (geteuid() != 0)
		skip();
	put("f", "a longer old text");
	put("closed", "x");
	assert_int_equal(fchmodat(dir, "f", 0666, 0), 0);
	assert_int_equal(seteuid(65534), 0);
	replaced("f", 0, "new");
	int rc = replace_begin(&r, dir, "closed", 0, 0644);
	int none = replace_begin(&r, dir, "none", 0, 0644);
	assert_int_equal(seteuid(0), 0);
	assert_int_equal(rc, -EACCES);
	assert_int_equal(none, -EACCES);
	has("f", "new");
}

static void files_of_the_kernel_are_written_in_place(void **state)
{
	struct replace r;
	_cleanup_strbuf_ struct strbuf before = {0}, b = {0};
	if (file_read(AT_FDCWD, "/proc/self/oom_score_adj", 100, &before) < 0)
		skip();
	assert_int_equal(replace_begin(&r, AT_FDCWD, "/proc/self/oom_score_adj", 0, 0644), 0);
	assert_int_equal(file_write_full(r.fd, "777\n", 4), 0);
	assert_int_equal(replace_commit(&r), 0);
	assert_int_equal(file_read(AT_FDCWD, "/proc/self/oom_score_adj", 100, &b), 0);
	assert_string_equal(b.data, "777\n");
}

static void many_can_wait_without_a_descriptor(void **state)
{
	struct replace r;
	put("f", "old");
	started(&r, "f", 0, "new");
	assert_int_equal(replace_park(&r), 0);
	assert_int_equal(r.fd, -1);
	has("f", "old");
	assert_int_equal(entries(), 2);
	assert_int_equal(replace_commit(&r), 0);
	has("f", "new");
	started(&r, "f", 0, "third");
	assert_int_equal(replace_park(&r), 0);
	replace_abort(&r);
	has("f", "new");
	assert_int_equal(entries(), 1);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(a_new_file_appears_when_it_is_whole),
		CASE(the_old_one_is_there_until_then),
		CASE(what_the_old_one_was_stays),
		CASE(links_are_followed_where_wanted),
		CASE(other_names_of_the_file_keep_the_old_content),
		CASE(what_is_no_file_is_refused_or_written_to),
		CASE(a_mount_point_is_written_in_place),
		CASE(so_is_a_file_in_a_directory_that_cannot_be_written),
		CASE(files_of_the_kernel_are_written_in_place),
		CASE(many_can_wait_without_a_descriptor),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
