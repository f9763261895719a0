// SPDX-License-Identifier: Apache-2.0
#include "fixture.h"
#include "base/proc.h"
#include "disk/disk.h"

#define MIB (1 << 20)

// 16 MiB: text at the start, in the middle and as the last bytes; holes between.
static void make_sparse(const struct fixture *f, const char *name)
{
	int fd = openat(f->fd, name, O_RDWR | O_CREAT | O_EXCL, 0600);
	assert_return_code(fd, errno);
	assert_return_code(ftruncate(fd, 16 * MIB), errno);
	write_at(fd, "start", 0);
	write_at(fd, "middle", 8 * MIB + 5);
	write_at(fd, "end", 16 * MIB - 3);
	close(fd);
}

static void assert_same_content(const struct fixture *f, const char *a, const char *b)
{
	_cleanup_strbuf_ struct strbuf x = {0}, y = {0};
	assert_int_equal(file_read(f->fd, a, 64 * MIB, &x), 0);
	assert_int_equal(file_read(f->fd, b, 64 * MIB, &y), 0);
	assert_int_equal(x.len, y.len);
	assert_memory_equal(x.data, y.data, x.len);
}

static void clone_without_reflink_keeps_content_and_holes(void **state)
{
	struct fixture *f = *state;
	enum disk_clone_method how = DISK_CLONE_REFLINK;
	struct err e = {0};
	uint64_t used;
	make_sparse(f, "a");
	assert_int_equal(fault_setup("disk.reflink:fail", &e), 0);
	assert_int_equal(disk_clone(f->fd, "a", "b", 0, &how, &e), 0);
	assert_int_equal(how, DISK_CLONE_SPARSE);
	assert_same_content(f, "a", "b");
	assert_int_equal(disk_usage(f->fd, "b", &used), 0);
	assert_in_range(used, 1, MIB);
}

static void clone_across_file_systems_is_complete(void **state)
{
	struct fixture *f = *state;
	enum disk_clone_method how = DISK_CLONE_REFLINK;
	struct err e = {0};
	_cleanup_free_ char *small = mount_small(f, "size=4m");
	make_sparse(f, "a");
	assert_int_equal(disk_clone(f->fd, "a", "small/b", 0, &how, &e), 0);
	assert_int_equal(how, DISK_CLONE_SPARSE);
	assert_same_content(f, "a", "small/b");
	assert_return_code(umount(small), errno);
}

static void clone_of_one_hole_is_one_hole(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	uint64_t used;
	struct stat st;
	int fd = openat(f->fd, "a", O_RDWR | O_CREAT, 0600);
	assert_return_code(ftruncate(fd, 32 * MIB), errno);
	close(fd);
	assert_int_equal(fault_setup("disk.reflink:fail", &e), 0);
	assert_int_equal(disk_clone(f->fd, "a", "b", 0, NULL, &e), 0);
	assert_int_equal(disk_usage(f->fd, "b", &used), 0);
	assert_int_equal(used, 0);
	assert_int_equal(fstatat(f->fd, "b", &st, 0), 0);
	assert_int_equal(st.st_size, 32 * MIB);
}

static void clone_grows_but_never_shrinks(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	struct stat st;
	make_sparse(f, "a");
	assert_int_equal(disk_clone(f->fd, "a", "b", 64 * MIB, NULL, &e), 0);
	assert_int_equal(fstatat(f->fd, "b", &st, 0), 0);
	assert_int_equal(st.st_size, 64 * MIB);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(disk_clone(f->fd, "a", "c", MIB, NULL, &e), 0);
	assert_int_equal(fstatat(f->fd, "c", &st, 0), 0);
	assert_int_equal(st.st_size, 16 * MIB);
}

static void clone_refuses_what_is_no_image_or_exists(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	make_sparse(f, "a");
	assert_int_equal(mkdirat(f->fd, "d", 0755), 0);
	assert_int_equal(mkfifoat(f->fd, "p", 0600), 0);
	assert_int_equal(disk_clone(f->fd, "none", "b", 0, NULL, &e), -ENOENT);
	assert_int_equal(e.code, ERR_NOT_FOUND);
	assert_true(disk_clone(f->fd, "d", "b", 0, NULL, &e) < 0);
	assert_true(disk_clone(f->fd, "p", "b", 0, NULL, &e) < 0);
	assert_false(file_exists(f->fd, "b"));
	assert_int_equal(disk_clone(f->fd, "d", "a", 0, NULL, &e), -EINVAL);
	assert_int_equal(disk_clone(f->fd, "a", "a", 0, NULL, &e), -EEXIST);
	assert_true(file_exists(f->fd, "a"));
	assert_int_equal(disk_clone(f->fd, "a", "b", UINT64_MAX, NULL, &e), -EINVAL);
}

static void clone_onto_a_full_disk_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	static char block[MIB];
	_cleanup_free_ char *small = mount_small(f, "size=1m");
	memset(block, 'x', sizeof block);
	int fd = openat(f->fd, "a", O_RDWR | O_CREAT, 0600);
	for (int i = 0; i < 3; i++)
		assert_int_equal(file_write_full(fd, block, sizeof block), 0);
	close(fd);
	assert_int_equal(disk_clone(f->fd, "a", "small/b", 0, NULL, &e), -ENOSPC);
	assert_int_equal(e.code, ERR_NO_SPACE);
	assert_int_equal(count_entries(small), 0);
	assert_return_code(umount(small), errno);
}

static void probe_tells_what_tmpfs_can(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	bool reflink = true, holes = false;
	_cleanup_free_ char *small = mount_small(f, "size=1m");
	int fd = open(small, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(disk_probe(fd, &reflink, &holes, &e), 0);
	close(fd);
	assert_false(reflink);
	assert_true(holes);
	assert_int_equal(count_entries(small), 0);
	assert_return_code(umount(small), errno);
}

static void grow_fills_the_file_and_nothing_else(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	struct stat before, after;
	_cleanup_free_ char *path = in_dir(f, "a");
	_cleanup_strbuf_ struct strbuf out = {0};
	const char *const mkfs[] = {"/usr/sbin/mke2fs", "-q", "-t", "ext4", path, "64M", NULL};
	const char *const fsck[] = {"/usr/sbin/e2fsck", "-fn", path, NULL};
	const char *const dump[] = {"/usr/sbin/dumpe2fs", "-h", path, NULL};
	assert_int_equal(proc_run(mkfs, NULL, 0, 60000, NULL, &e), 0);
	assert_return_code(stat(path, &before), errno);
	assert_int_equal(disk_grow_ext4(path, &e), 0);
	assert_return_code(stat(path, &after), errno);
	assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
	assert_return_code(truncate(path, 200 * MIB), errno);
	assert_int_equal(disk_grow_ext4(path, &e), 0);
	assert_int_equal(proc_run(fsck, NULL, 0, 60000, NULL, &e), 0);
	assert_int_equal(proc_run(dump, NULL, 0, 60000, &out, &e), 0);
	char *count = strstr(out.data, "Block count:"), *size = strstr(out.data, "Block size:");
	assert_non_null(count);
	assert_non_null(size);
	uint64_t bytes = strtoull(count + 12, NULL, 10) * strtoull(size + 11, NULL, 10);
	assert_int_equal(bytes, 200 * MIB);
}

static void grow_refuses_what_is_no_ext4(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	_cleanup_free_ char *path = in_dir(f, "a");
	make_sparse(f, "a");
	assert_int_equal(disk_grow_ext4(path, &e), -EINVAL);
	assert_return_code(truncate(path, 100), errno);
	assert_int_equal(disk_grow_ext4(path, &e), -EINVAL);
	assert_return_code(unlink(path), errno);
	assert_int_equal(disk_grow_ext4(path, &e), -ENOENT);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(clone_without_reflink_keeps_content_and_holes),
		T(clone_across_file_systems_is_complete),
		T(clone_of_one_hole_is_one_hole),
		T(clone_grows_but_never_shrinks),
		T(clone_refuses_what_is_no_image_or_exists),
		T(clone_onto_a_full_disk_leaves_nothing),
		T(probe_tells_what_tmpfs_can),
		T(grow_fills_the_file_and_nothing_else),
		T(grow_refuses_what_is_no_ext4),
	};
	if (geteuid() != 0)
		return 77; // mounts
	return cmocka_run_group_tests(tests, NULL, NULL);
}
