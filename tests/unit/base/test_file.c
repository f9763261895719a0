// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
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

static unsigned mode_of(int dir, const char *path)
{
	struct stat st;
	assert_int_equal(fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st.st_mode & 07777;
}

static void private_directories_lose_what_others_may(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	umask(0);
	assert_int_equal(file_private_dir(dir, "new/below", 0700), 0);
	assert_int_equal(mode_of(dir, "new"), 0700);
	assert_int_equal(mode_of(dir, "new/below"), 0700);
	assert_int_equal(mkdirat(dir, "old", 0711), 0);
	assert_int_equal(file_private_dir(dir, "old", 0710), 0);
	assert_int_equal(mode_of(dir, "old"), 0710);
	assert_int_equal(file_private_dir(dir, "old", 0700), 0);
	assert_int_equal(mode_of(dir, "old"), 0700);
	assert_int_equal(file_let_group_pass(dir, "old", getegid()), 0);
	assert_int_equal(mode_of(dir, "old"), 0710);
	assert_int_equal(file_private_dir(dir, "old", 0710), 0);
	assert_int_equal(mode_of(dir, "old"), 0710); // and stays so at the next start

	assert_int_equal(mkdirat(dir, "old/a", 0755), 0);
	assert_int_equal(mkdirat(dir, "old/b", 0500), 0);
	assert_int_equal(mkdirat(dir, "out", 0755), 0);
	assert_int_equal(symlinkat("../out", dir, "old/link"), 0);
	assert_int_equal(file_write_atomic(dir, "old/f", "x", 1, 0644), 0);
	assert_int_equal(file_private_children(dir, "old"), 0);
	assert_int_equal(mode_of(dir, "old/a"), 0700);
	assert_int_equal(mode_of(dir, "old/b"), 0500);
	assert_int_equal(mode_of(dir, "old/f"), 0644);
	assert_int_equal(mode_of(dir, "out"), 0755);
	assert_int_equal(file_private_children(dir, "none"), -ENOENT);
	umask(022);
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

static void rm_rf_leaves_a_bound_directory_of_the_same_file_system(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	char from[200], to[200];
	assert_int_equal(file_mkdir_p(dir, "from", 0700), 0);
	assert_int_equal(file_write_atomic(dir, "from/f", "x", 1, 0600), 0);
	assert_int_equal(file_mkdir_p(dir, "tree/a/mnt", 0700), 0);
	assert_int_equal(file_mkdir_p(dir, "tree/b/c", 0700), 0);
	snprintf(from, sizeof from, "%s/from", (char *)*state);
	snprintf(to, sizeof to, "%s/tree/a/mnt", (char *)*state);
	if (mount(from, to, NULL, MS_BIND, NULL) < 0)
		skip(); // needs root
	int removed = file_rm_rf(dir, "tree");
	int itself = file_rm_rf(dir, "tree/a/mnt");
	bool kept = file_exists(dir, "from/f");
	umount(to);
	assert_int_equal(removed, -EBUSY);
	assert_int_equal(itself, -EBUSY);
	assert_true(kept);
	assert_false(file_exists(dir, "tree/b")); // all else is gone
	assert_int_equal(file_rm_rf(dir, "tree"), 0);
}

// A chain of directories called "d" below top; the descriptor of the last.
static int make_chain(int top, unsigned n)
{
	int fd = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (unsigned i = 0; i < n; i++) {
		assert_true(mkdirat(fd, "d", 0700) == 0 || errno == EEXIST);
		int next = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(fd);
		fd = next;
	}
	return fd;
}

static void touch(int dir, const char *name)
{
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
}

struct removal {
	int dir, rc;
};

static size_t count_descriptors(void)
{
	_cleanup_close_ int fd = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return count_entries(fd);
}

static void *remove_tree(void *arg)
{
	struct removal *r = arg;
	r->rc = file_rm_rf(r->dir, "tree");
	return NULL;
}

// As a connection's thread of a server has it, and a server that is nearly out of descriptors.
static int remove_in_little_room(int dir)
{
	struct removal r = {.dir = dir};
	struct rlimit was, few;
	pthread_attr_t attr;
	pthread_t t;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	few = (struct rlimit){.rlim_cur = (rlim_t)dir + 16, .rlim_max = was.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	pthread_attr_init(&attr);
	assert_int_equal(pthread_attr_setstacksize(&attr, 64u << 10), 0);
	assert_int_equal(pthread_create(&t, &attr, remove_tree, &r), 0);
	pthread_join(t, NULL);
	pthread_attr_destroy(&attr);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
	return r.rc;
}

// In memory, if there is such a place: a disk may take minutes for as many directories.
static int memory_setup(void **state)
{
	char path[] = "/dev/shm/stasis-file.XXXXXX";
	if (!mkdtemp(path))
		return setup(state);
	*state = strdup(path);
	return *state ? 0 : -1;
}

static void rm_rf_of_60000_levels_takes_little_room(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	assert_int_equal(mkdirat(dir, "tree", 0700), 0);
	_cleanup_close_ int tree = openat(dir, "tree", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int last = make_chain(tree, 60000);
	touch(last, "f");
	size_t open_before = count_descriptors();
	assert_int_equal(remove_in_little_room(dir), 0);
	assert_false(file_exists(dir, "tree"));
	assert_int_equal(count_descriptors(), open_before);
}

// Wide at the top, and wide where the tree is cut, so that the walk comes back to directories that
// it has closed.
static void rm_rf_of_a_wide_and_deep_tree(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	char name[32];
	assert_int_equal(mkdirat(dir, "tree", 0700), 0);
	_cleanup_close_ int tree = openat(dir, "tree", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (unsigned i = 0; i < 40; i++) {
		snprintf(name, sizeof name, "w%u", i);
		assert_int_equal(mkdirat(tree, name, 0700), 0);
		_cleanup_close_ int fd = openat(tree, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		_cleanup_close_ int end = make_chain(fd, i % 20);
		touch(end, "f");
		touch(fd, "g");
	}
	_cleanup_close_ int deep = make_chain(tree, 1015);
	for (unsigned i = 0; i < 16; i++) {
		snprintf(name, sizeof name, "x%u", i);
		assert_int_equal(mkdirat(deep, name, 0700), 0);
		_cleanup_close_ int fd = openat(deep, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		_cleanup_close_ int end = make_chain(fd, 20);
		touch(end, "f");
		touch(fd, "g");
	}
	assert_int_equal(remove_in_little_room(dir), 0);
	assert_false(file_exists(dir, "tree"));
}

struct mover {
	int dir;
	atomic_bool stop;
};

static void *move_to_and_fro(void *arg)
{
	static const char inside[] = "tree/d/d/d/d/d/d/d/d/d/d/d/d";
	struct mover *m = arg;
	while (!m->stop) {
		renameat(m->dir, inside, m->dir, "keep/moved");
		renameat(m->dir, "keep/moved", m->dir, inside);
	}
	return NULL;
}

// "..", where a directory has been moved to, is somebody else's.
static void rm_rf_never_goes_up_into_another_tree(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	assert_int_equal(file_mkdir_p(dir, "keep/too", 0700), 0);
	assert_int_equal(file_write_atomic(dir, "keep/f", "x", 1, 0600), 0);
	for (unsigned round = 0; round < 50; round++) {
		struct mover m = {.dir = dir};
		pthread_t t;
		assert_int_equal(file_mkdir_p(dir, "tree", 0700), 0);
		_cleanup_close_ int tree = openat(dir, "tree", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		_cleanup_close_ int end = make_chain(tree, 60);
		touch(end, "f");
		assert_int_equal(pthread_create(&t, NULL, move_to_and_fro, &m), 0);
		file_rm_rf(dir, "tree"); // all, or what was there when it looked
		m.stop = true;
		pthread_join(t, NULL);
		assert_true(file_exists(dir, "keep/f"));
		assert_true(file_exists(dir, "keep/too"));
		assert_int_equal(file_rm_rf(dir, "tree"), 0);
		assert_int_equal(file_rm_rf(dir, "keep/moved"), 0);
	}
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

static void there_absent_or_not_known(void **state)
{
	_cleanup_close_ int dir = open_dir(state);
	char name[300];
	memset(name, 'n', sizeof name);
	name[sizeof name - 1] = '\0';
	assert_int_equal(file_write_atomic(dir, "f", "x", 1, 0600), 0);
	assert_int_equal(symlinkat("nowhere", dir, "dangling"), 0);
	assert_int_equal(symlinkat("round", dir, "round"), 0);
	assert_int_equal(file_there(dir, "f"), 1);
	assert_int_equal(file_there(dir, "."), 1);
	assert_int_equal(file_there(dir, "dangling"), 1);
	assert_int_equal(file_there(dir, "gone"), 0);
	assert_int_equal(file_there(dir, "f/below"), 0);
	assert_int_equal(file_there(dir, "round/below"), -ELOOP);
	assert_int_equal(file_there(dir, name), -ENAMETOOLONG);
	assert_int_equal(file_there(-1, "f"), -EBADF);
	assert_false(file_exists(dir, name));
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
		T(private_directories_lose_what_others_may),
		T(rm_rf_does_not_follow_links),
		T(rm_rf_stops_at_mounts),
		T(rm_rf_leaves_a_bound_directory_of_the_same_file_system),
		cmocka_unit_test_setup_teardown(
			rm_rf_of_60000_levels_takes_little_room, memory_setup, teardown),
		T(rm_rf_of_a_wide_and_deep_tree),
		cmocka_unit_test_setup_teardown(
			rm_rf_never_goes_up_into_another_tree, memory_setup, teardown),
		T(lock_is_exclusive_and_names_its_holder),
		T(beneath_cannot_leave),
		T(there_absent_or_not_known),
		T(full_reads_and_writes_over_a_pipe),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
