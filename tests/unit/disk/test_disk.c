// SPDX-License-Identifier: Apache-2.0
#include "fixture.h"
#include <sys/mman.h>
#include <sys/sysmacros.h>
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

// The writer holds the file and writes on, by write and by a mapping: what was taken stays as it
// was.
static void assert_taken_is_apart(const struct fixture *f)
{
	struct err e = {0};
	struct stat st;
	make_sparse(f, "snap/mem");
	assert_return_code(fchownat(f->fd, "snap/mem", 1234, 1234, 0), errno);
	int fd = openat(f->fd, "snap/mem", O_RDWR);
	char *map = mmap(NULL, 16 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	memcpy(map + MIB, "mapped", 6); // dirty in the cache only
	assert_int_equal(disk_take(f->fd, "snap/mem", f->fd, "mem", 0400, 16 * MIB, &e), 0);
	assert_same_content(f, "snap/mem", "mem");
	_cleanup_strbuf_ struct strbuf before = {0}, after = {0};
	assert_int_equal(file_read(f->fd, "mem", 64 * MIB, &before), 0);
	write_at(fd, "later", 0);
	memcpy(map + 8 * MIB, "later", 5);
	assert_return_code(ftruncate(fd, 17 * MIB), errno);
	assert_return_code(fchmod(fd, 0666), errno);
	assert_int_equal(file_read(f->fd, "mem", 64 * MIB, &after), 0);
	assert_int_equal(after.len, 16 * MIB);
	assert_memory_equal(before.data, after.data, before.len);
	assert_int_equal(fstatat(f->fd, "mem", &st, 0), 0);
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(st.st_mode & 07777, 0400);
	assert_int_equal(st.st_nlink, 1);
	assert_in_range(st.st_blocks, 1, 16 * MIB / 512 / 4); // holes stay
	munmap(map, 16 * MIB);
	close(fd);
}

static void take_is_apart_from_its_writer(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	assert_int_equal(mkdirat(f->fd, "snap", 0777), 0);
	assert_taken_is_apart(f);
	// What lies there already is replaced, a half-made one of before too.
	assert_return_code(unlinkat(f->fd, "snap/mem", 0), errno);
	close(openat(f->fd, "mem.take", O_WRONLY | O_CREAT, 0600));
	assert_int_equal(fault_setup("disk.reflink:fail", &e), 0);
	assert_taken_is_apart(f);
	assert_false(file_exists(f->fd, "mem.take"));
}

static void take_refuses_what_is_not_a_plain_file(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	assert_int_equal(mkdirat(f->fd, "snap", 0777), 0);
	make_sparse(f, "secret");
	make_sparse(f, "snap/large");
	assert_int_equal(mkfifoat(f->fd, "snap/fifo", 0666), 0);
	assert_int_equal(mkdirat(f->fd, "snap/directory", 0777), 0);
	assert_int_equal(symlinkat("../secret", f->fd, "snap/link"), 0);
	assert_int_equal(symlinkat("..", f->fd, "snap/up"), 0);
	assert_return_code(mknodat(f->fd, "snap/device", S_IFCHR | 0666, makedev(1, 5)), errno);
	assert_int_equal(disk_take(f->fd, "snap/none", f->fd, "x", 0400, 64 * MIB, &e), -ENOENT);
	assert_int_equal(disk_take(f->fd, "snap/fifo", f->fd, "x", 0400, 64 * MIB, &e), -EINVAL);
	assert_int_equal(
		disk_take(f->fd, "snap/directory", f->fd, "x", 0400, 64 * MIB, &e), -EINVAL);
	assert_int_equal(disk_take(f->fd, "snap/device", f->fd, "x", 0400, 64 * MIB, &e), -EINVAL);
	assert_int_equal(disk_take(f->fd, "snap/link", f->fd, "x", 0400, 64 * MIB, &e), -ELOOP);
	assert_int_equal(disk_take(f->fd, "../secret", f->fd, "x", 0400, 64 * MIB, &e), -EXDEV);
	assert_true(disk_take(f->fd, "snap/large", f->fd, "x", 0400, 16 * MIB - 1, &e) < 0);
	assert_int_equal(e.code, ERR_TOO_LARGE);
	assert_false(file_exists(f->fd, "x"));
	assert_false(file_exists(f->fd, "x.take"));
	assert_int_equal(disk_take(f->fd, "snap/large", f->fd, "x", 0400, 16 * MIB, &e), 0);
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
		T(take_is_apart_from_its_writer),
		T(take_refuses_what_is_not_a_plain_file),
		T(probe_tells_what_tmpfs_can),
		T(grow_fills_the_file_and_nothing_else),
		T(grow_refuses_what_is_no_ext4),
	};
	if (geteuid() != 0)
		return 77; // mounts
	return cmocka_run_group_tests(tests, NULL, NULL);
}
