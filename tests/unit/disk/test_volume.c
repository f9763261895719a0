// SPDX-License-Identifier: Apache-2.0
// The data volume, on real loop devices.
#include "fixture.h"
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include "base/id.h"
#include "base/proc.h"
#include "disk/disk.h"

#define GIB (1ull << 30)

struct paths {
	char *image, *data;
};

static void paths_done(struct paths *p)
{
	free(p->image);
	free(p->data);
}

#define PATHS(f) _cleanup_(paths_done) struct paths p = {in_dir(f, "volume.img"), in_dir(f, "data")}

static void create_or_die(const struct paths *p)
{
	struct err e = {0};
	if (volume_create(p->image, GIB, NULL, NULL, &e) < 0)
		fail_msg("%s", e.text);
}

static void mount_or_die(const struct paths *p)
{
	struct err e = {0};
	if (volume_mount(p->image, p->data, &e) < 0)
		fail_msg("%s", e.text);
}

static void unmount_or_die(const struct paths *p)
{
	struct err e = {0};
	if (volume_unmount(p->data, &e) < 0)
		fail_msg("%s", e.text);
}

static uint64_t last_done;

static void note_progress(void *ctx, const char *what, uint64_t done, uint64_t total)
{
	assert_true(done <= total);
	last_done = done;
	++*(unsigned *)ctx;
}

static void image_is_fully_allocated_and_carries_its_marker(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	struct volume_info info;
	struct stat st;
	unsigned calls = 0;
	PATHS(f);
	assert_int_equal(volume_create(p.image, GIB, note_progress, &calls, &e), 0);
	assert_true(calls >= 3);
	assert_int_equal(last_done, 1);
	assert_return_code(stat(p.image, &st), errno);
	assert_int_equal(st.st_size, GIB);
	assert_true((uint64_t)st.st_blocks * 512 >= GIB);
	assert_int_equal(count_mounts(f), 0);
	mount_or_die(&p);
	assert_int_equal(volume_open(p.data, &info, &e), 0);
	assert_true(id_is_uuid(info.uuid));
	assert_int_equal(info.format_version, VOLUME_FORMAT_VERSION);
	assert_true(info.loop);
	struct loop_info64 li;
	int loop = open(info.loop_device, O_RDONLY | O_CLOEXEC);
	assert_return_code(loop, errno);
	assert_return_code(ioctl(loop, LOOP_GET_STATUS64, &li), errno);
	close(loop);
	assert_true(li.lo_flags & LO_FLAGS_AUTOCLEAR);
	assert_true(li.lo_flags & LO_FLAGS_DIRECT_IO);
	// Nothing done inside may make it sparse.
	_cleanup_free_ char *big = in_dir(f, "data/big");
	int fd = open(big, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_return_code(fallocate(fd, 0, 0, 100 << 20), errno);
	close(fd);
	assert_return_code(unlink(big), errno);
	const char *const trim[] = {"/usr/sbin/fstrim", p.data, NULL};
	assert_true(proc_run(trim, NULL, 0, 60000, NULL, &e) < 0);
	assert_return_code(stat(p.image, &st), errno);
	assert_true((uint64_t)st.st_blocks * 512 >= GIB);
	unmount_or_die(&p);
}

static void cycles_leave_nothing_and_lose_nothing(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	PATHS(f);
	create_or_die(&p);
	for (int i = 0; i < 3; i++) {
		_cleanup_free_ char *file = str_printf("%s/file%d", p.data, i);
		mount_or_die(&p);
		mount_or_die(&p); // already: fine
		assert_int_equal(count_mounts(f), 1);
		assert_int_equal(count_loops(f), 1);
		assert_int_equal(count_entries(p.data), 1u + (unsigned)i);
		assert_int_equal(file_write_atomic(AT_FDCWD, file, "x", 1, 0600), 0);
		unmount_or_die(&p);
		unmount_or_die(&p);
		assert_int_equal(count_mounts(f), 0);
		assert_int_equal(count_loops(f), 0);
		assert_int_equal(count_entries(p.data), 0);
	}
	mount_or_die(&p);
	assert_int_equal(volume_remove(p.image, p.data, &e), 0);
	assert_false(file_exists(AT_FDCWD, p.image));
	assert_int_equal(volume_remove(p.image, p.data, &e), 0);
}

// Unmounted here, but not in a copy of our mounts that another process has.
static void a_volume_that_another_process_still_has_is_mounted_again(void **state)
{
	struct fixture *f = *state;
	int go[2], gone[2];
	char byte;
	PATHS(f);
	create_or_die(&p);
	mount_or_die(&p);
	assert_return_code(pipe2(go, O_CLOEXEC), errno);
	assert_return_code(pipe2(gone, O_CLOEXEC), errno);
	pid_t pid = fork();
	assert_return_code(pid, errno);
	if (pid == 0) {
		close(gone[1]);
		bool ok = unshare(CLONE_NEWNS) == 0 &&
			  mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
			  write(go[1], "x", 1) == 1;
		_exit(!ok || read(gone[0], &byte, 1) != 0); // until the parent closes
	}
	close(go[1]);
	assert_int_equal(read(go[0], &byte, 1), 1);
	unmount_or_die(&p);
	assert_int_equal(count_mounts(f), 0);
	mount_or_die(&p);
	assert_int_equal(count_loops(f), 1);
	close(gone[1]);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	unmount_or_die(&p);
	assert_int_equal(count_loops(f), 0);
	close(go[0]);
	close(gone[0]);
}

static void clone_inside_shares_blocks(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	enum disk_clone_method how = DISK_CLONE_SPARSE;
	bool reflink = false, holes = false;
	PATHS(f);
	create_or_die(&p);
	mount_or_die(&p);
	int dir = open(p.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(disk_probe(dir, &reflink, &holes, &e), 0);
	assert_true(reflink);
	assert_true(holes);
	assert_int_equal(count_entries(p.data), 1);
	int fd = openat(dir, "a", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	write_at(fd, "hello", 1 << 20);
	close(fd);
	assert_int_equal(disk_clone(dir, "a", "b", 4 << 20, &how, &e), 0);
	assert_int_equal(how, DISK_CLONE_REFLINK);
	fd = openat(dir, "b", O_RDWR | O_CLOEXEC);
	write_at(fd, "other", 1 << 20);
	close(fd);
	char text[6] = "";
	fd = openat(dir, "a", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, text, 5, 1 << 20), 5);
	assert_string_equal(text, "hello");
	close(fd);
	close(dir);
	unmount_or_die(&p);
}

static void unmount_of_a_volume_in_use_names_the_user(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	char self[32];
	PATHS(f);
	create_or_die(&p);
	mount_or_die(&p);
	_cleanup_free_ char *file = in_dir(f, "data/open");
	int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_return_code(fd, errno);
	assert_int_equal(volume_unmount(p.data, &e), -EBUSY);
	snprintf(self, sizeof self, "process %d ", (int)getpid());
	assert_non_null(strstr(e.text, self));
	assert_int_equal(volume_remove(p.image, p.data, &e), -EBUSY);
	assert_true(file_exists(AT_FDCWD, p.image));
	close(fd);
	unmount_or_die(&p);
}

static void create_refuses_too_small_and_existing(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	PATHS(f);
	assert_int_equal(volume_create(p.image, GIB - 1, NULL, NULL, &e), -EINVAL);
	assert_false(file_exists(AT_FDCWD, p.image));
	assert_int_equal(file_write_atomic(AT_FDCWD, p.image, "precious", 8, 0600), 0);
	assert_int_equal(volume_create(p.image, GIB, NULL, NULL, &e), -EEXIST);
	assert_int_equal(e.code, ERR_CONFLICT);
	_cleanup_strbuf_ struct strbuf b = {0};
	assert_int_equal(file_read(AT_FDCWD, p.image, 100, &b), 0);
	assert_string_equal(b.data, "precious");
	_cleanup_free_ char *nowhere = in_dir(f, "no/such/volume.img");
	assert_int_equal(volume_create(nowhere, GIB, NULL, NULL, &e), -ENOENT);
}

static void create_on_a_full_host_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	_cleanup_free_ char *small = mount_small(f, "size=64m");
	_cleanup_free_ char *image = in_dir(f, "small/volume.img");
	assert_int_equal(volume_create(image, GIB, NULL, NULL, &e), -ENOSPC);
	assert_int_equal(e.code, ERR_NO_SPACE);
	assert_int_equal(count_entries(small), 0);
	assert_return_code(umount(small), errno);
}

static void failed_or_killed_create_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	PATHS(f);
	assert_int_equal(fault_setup("volume.before_link:fail", &e), 0);
	assert_int_equal(volume_create(p.image, GIB, NULL, NULL, &e), -EIO);
	assert_int_equal(count_entries(f->dir), 0);
	pid_t pid = fork();
	if (pid == 0) {
		fault_setup("volume.before_link:kill", &e);
		volume_create(p.image, GIB, NULL, NULL, &e);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(count_entries(f->dir), 0);
}

static void mount_refuses_what_would_hide_or_is_not_ours(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	PATHS(f);
	create_or_die(&p);
	assert_return_code(mkdir(p.data, 0755), errno);
	_cleanup_free_ char *file = in_dir(f, "data/file");
	assert_int_equal(file_write_atomic(AT_FDCWD, file, "x", 1, 0600), 0);
	assert_true(volume_mount(p.image, p.data, &e) < 0);
	assert_int_equal(e.code, ERR_CONFLICT);
	assert_return_code(unlink(file), errno);
	assert_return_code(mount("tmpfs", p.data, "tmpfs", 0, "size=1m"), errno);
	assert_true(volume_mount(p.image, p.data, &e) < 0);
	assert_int_equal(e.code, ERR_CONFLICT);
	assert_true(volume_unmount(p.data, &e) < 0);
	assert_true(volume_remove(p.image, p.data, &e) < 0);
	assert_true(file_exists(AT_FDCWD, p.image));
	assert_return_code(umount(p.data), errno);
	assert_int_equal(count_loops(f), 0);
	// The same volume at a second place would be destroyed.
	_cleanup_free_ char *second = in_dir(f, "data2");
	mount_or_die(&p);
	assert_true(volume_mount(p.image, second, &e) < 0);
	assert_int_equal(count_loops(f), 1);
	unmount_or_die(&p);
	// Not XFS, or XFS of somebody else.
	assert_return_code(truncate(p.image, 0), errno);
	assert_return_code(truncate(p.image, GIB), errno);
	assert_true(volume_mount(p.image, p.data, &e) < 0);
	const char *const mkfs[] = {"/usr/sbin/mkfs.xfs", "-q", "-s", "size=4096", p.image, NULL};
	assert_int_equal(proc_run(mkfs, NULL, 0, 60000, NULL, &e), 0);
	assert_true(volume_mount(p.image, p.data, &e) < 0);
	assert_int_equal(e.code, ERR_UNAVAILABLE);
	assert_int_equal(count_mounts(f), 0);
	_cleanup_free_ char *none = in_dir(f, "none.img");
	assert_int_equal(volume_mount(none, p.data, &e), -ENOENT);
}

static void two_mounts_at_once_make_one(void **state)
{
	struct fixture *f = *state;
	pid_t pids[4];
	PATHS(f);
	create_or_die(&p);
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			_exit(volume_mount(p.image, p.data, NULL) < 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		int status;
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	assert_int_equal(count_mounts(f), 1);
	assert_int_equal(count_loops(f), 1);
	unmount_or_die(&p);
}

static void put_marker(const struct paths *p, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", p->data, VOLUME_MARKER);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, text, strlen(text), 0644), 0);
}

static void marker_is_made_once_and_checked(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	struct volume_info a, b;
	PATHS(f);
	assert_true(volume_open(p.data, &a, &e) < 0);
	assert_int_equal(e.code, ERR_UNAVAILABLE);
	assert_int_equal(volume_init_dir(p.data, &e), 0);
	assert_int_equal(volume_open(p.data, &a, &e), 0);
	assert_false(a.loop);
	assert_string_equal(a.loop_device, "");
	assert_int_equal(volume_init_dir(p.data, &e), 0);
	assert_int_equal(volume_open(p.data, &b, &e), 0);
	assert_string_equal(a.uuid, b.uuid);
	assert_int_equal(b.epoch, 0);
	assert_string_equal(b.journal, "");
	_cleanup_close_ int dir = open(p.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(volume_set_epoch(dir, &b, 1ull << 40, "abc", &e), 0);
	assert_int_equal(volume_open(p.data, &b, &e), 0);
	assert_string_equal(a.uuid, b.uuid);
	assert_int_equal(b.epoch, 1ull << 40);
	assert_string_equal(b.journal, "abc");
	// As older versions wrote it.
	put_marker(&p, "{\"uuid\":\"6e8bc430-9c3a-4d3b-8d3e-0123456789ab\","
		       "\"format_version\":1}\n");
	assert_int_equal(volume_open(p.data, &b, &e), 0);
	assert_int_equal(b.epoch, 0);
	assert_string_equal(b.journal, "");
	const char *const bad[] = {"", "[]", "{}", "{\"uuid\":\"x\",\"format_version\":1}",
		"{\"uuid\":\"6e8bc430-9c3a-4d3b-8d3e-0123456789ab\",\"format_version\":2}",
		"{\"uuid\":\"6e8bc430-9c3a-4d3b-8d3e-0123456789ab\",\"format_version\":0}",
		("{\"uuid\":\"6e8bc430-9c3a-4d3b-8d3e-0123456789ab\",\"format_version\":1,"
		 "\"epoch\":-1}"),
		"{\"uuid\":\"6e8bc430-9c3a-4d3b-8d3e-0123456789ab\"}"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		put_marker(&p, bad[i]);
		assert_int_equal(volume_open(p.data, &a, &e), -EINVAL);
		assert_int_equal(e.code, ERR_INVALID);
		assert_int_equal(volume_init_dir(p.data, &e), -EINVAL);
	}
}

static uint64_t size_inside(const struct paths *p)
{
	struct statvfs vfs;
	assert_return_code(statvfs(p->data, &vfs), errno);
	return (uint64_t)vfs.f_blocks * vfs.f_frsize;
}

static void it_grows_while_it_is_in_use(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	struct stat st;
	unsigned calls = 0;
	PATHS(f);
	create_or_die(&p);
	assert_true(volume_grow(p.image, p.data, 2 * GIB, NULL, NULL, &e) < 0); // not mounted
	mount_or_die(&p);
	_cleanup_free_ char *name = in_dir(f, "data/held");
	_cleanup_close_ int held = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(held, "kept", 4), 4);
	uint64_t before = size_inside(&p);
	e = (struct err){0};
	if (volume_grow(p.image, p.data, 2 * GIB + 100, note_progress, &calls, &e) < 0)
		fail_msg("%s", e.text);
	assert_true(calls >= 3);
	assert_true(size_inside(&p) > before + GIB * 9 / 10);
	assert_return_code(stat(p.image, &st), errno);
	assert_int_equal(st.st_size, 2 * GIB);
	assert_true((uint64_t)st.st_blocks * 512 >= 2 * GIB);
	// What was open goes on, a second time changes nothing, and smaller is no way.
	assert_int_equal(write(held, "more", 4), 4);
	uint64_t after = size_inside(&p);
	assert_int_equal(volume_grow(p.image, p.data, 2 * GIB, NULL, NULL, &e), 0);
	assert_int_equal(size_inside(&p), after);
	assert_true(volume_grow(p.image, p.data, GIB, NULL, NULL, &e) < 0);
	assert_int_equal(e.code, ERR_INVALID);
	e = (struct err){0};
	assert_true(volume_grow(p.image, p.data, 1ull << 50, NULL, NULL, &e) < 0);
	assert_int_equal(e.code, ERR_NO_SPACE);
	assert_return_code(stat(p.image, &st), errno);
	assert_int_equal(st.st_size, 2 * GIB);
	close(TAKE_FD(held));
	unmount_or_die(&p);
	mount_or_die(&p);
	assert_int_equal(size_inside(&p), after);
	unmount_or_die(&p);
}

static void one_that_was_cut_short_grows_when_asked_again(void **state)
{
	struct fixture *f = *state;
	static const char *const points[] = {
		"volume.after_allocate:kill", "volume.after_capacity:kill"};
	PATHS(f);
	create_or_die(&p);
	for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
		struct err e = {0};
		uint64_t size = GIB + (i + 1) * (GIB / 4);
		mount_or_die(&p);
		pid_t child = fork();
		if (child == 0) {
			fault_setup(points[i], &e);
			volume_grow(p.image, p.data, size, NULL, NULL, &e);
			_exit(0);
		}
		int status;
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status));
		// As after a power cut: mounted anew, with a file that is larger than its system.
		unmount_or_die(&p);
		mount_or_die(&p);
		if (volume_grow(p.image, p.data, size, NULL, NULL, &e) < 0)
			fail_msg("%s", e.text);
		assert_true(size_inside(&p) > size - (GIB / 8));
		unmount_or_die(&p);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(image_is_fully_allocated_and_carries_its_marker),
		T(cycles_leave_nothing_and_lose_nothing),
		T(a_volume_that_another_process_still_has_is_mounted_again),
		T(clone_inside_shares_blocks),
		T(unmount_of_a_volume_in_use_names_the_user),
		T(create_refuses_too_small_and_existing),
		T(create_on_a_full_host_leaves_nothing),
		T(failed_or_killed_create_leaves_nothing),
		T(mount_refuses_what_would_hide_or_is_not_ours),
		T(two_mounts_at_once_make_one),
		T(marker_is_made_once_and_checked),
		T(it_grows_while_it_is_in_use),
		T(one_that_was_cut_short_grows_when_asked_again),
	};
	if (geteuid() != 0 || access("/dev/loop-control", F_OK) < 0)
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
