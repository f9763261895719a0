// SPDX-License-Identifier: Apache-2.0
// A temporary directory per test, and what is mounted or attached below it.
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include "base/fault.h"
#include "base/file.h"
#include "base/str.h"

struct fixture {
	char dir[64]; // absolute
	int fd;
};

static inline char *in_dir(const struct fixture *f, const char *name)
{
	char *p = str_printf("%s/%s", f->dir, name);
	assert_non_null(p);
	return p;
}

// Lines of a file that name our directory: mounts, or the files behind loop devices.
static inline unsigned lines_with(const char *path, const char *text)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	unsigned n = 0;
	if (file_read(AT_FDCWD, path, 1 << 20, &b) < 0)
		return 0;
	for (char *s = b.data; (s = strstr(s, text)); s++)
		n++;
	return n;
}

static inline unsigned count_loops(const struct fixture *f)
{
	unsigned n = 0;
	_cleanup_closedir_ DIR *d = opendir("/sys/block");
	assert_non_null(d);
	for (struct dirent *de; (de = readdir(d));) {
		_cleanup_free_ char *path =
			str_printf("/sys/block/%s/loop/backing_file", de->d_name);
		n += lines_with(path, f->dir) > 0;
	}
	return n;
}

static inline unsigned count_mounts(const struct fixture *f)
{
	return lines_with("/proc/self/mounts", f->dir);
}

static inline unsigned count_entries(const char *path)
{
	unsigned n = 0;
	_cleanup_closedir_ DIR *d = opendir(path);
	assert_non_null(d);
	for (struct dirent *de; (de = readdir(d));)
		n += !str_eq(de->d_name, ".") && !str_eq(de->d_name, "..");
	return n;
}

static inline int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	const char *base = getenv("STASIS_TEST_DIR");
	if (str_format(f->dir, sizeof f->dir, "%s/stasis-test.XXXXXX", base ? base : "/var/tmp") <
			0 ||
		!mkdtemp(f->dir))
		return -1;
	f->fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = f;
	return f->fd < 0 ? -1 : 0;
}

// Fails the test when it left a mount or a loop device behind.
static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;
	unsigned mounts = count_mounts(f), loops = count_loops(f);
	fault_setup(NULL, NULL);
	close(f->fd);
	for (const char *const *m = (const char *const[]){"data", "data2", "small", NULL}; *m;
		m++) {
		_cleanup_free_ char *path = in_dir(f, *m);
		while (umount2(path, MNT_DETACH) == 0)
			;
	}
	int rc = file_rm_rf(AT_FDCWD, f->dir);
	if (mounts || loops || rc < 0)
		print_error("left behind: %u mounts, %u loop devices, %s\n", mounts, loops,
			rc < 0 ? strerror(-rc) : "no files");
	free(f);
	return mounts || loops || rc < 0 ? -1 : 0;
}

// A tmpfs of that size at <dir>/small, for disks that run full.
static inline char *mount_small(const struct fixture *f, const char *options)
{
	char *path = in_dir(f, "small");
	assert_return_code(mkdir(path, 0755), errno);
	assert_return_code(mount("tmpfs", path, "tmpfs", 0, options), errno);
	return path;
}

static inline void write_at(int fd, const char *text, off_t at)
{
	assert_int_equal(pwrite(fd, text, strlen(text), at), strlen(text));
}
