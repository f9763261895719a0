// SPDX-License-Identifier: Apache-2.0
#include "world.h"
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <cmocka.h>
#include "base/file.h"
#include "base/str.h"

static int make_file(const char *path, size_t size)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	// Only the jail stands between a sandbox and a file that anyone may write.
	return fd < 0 || fchmod(fd, 0666) < 0 || ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}

// A persistent tap device whose owner may attach to it without any capability, as the slots have.
static int make_tap(const char *name, uint32_t uid)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", name);
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETOWNER, uid) < 0 ||
		ioctl(fd, TUNSETPERSIST, 1) < 0)
		return -errno;
	return 0;
}

static int make_netns(const char *path)
{
	if (make_file(path, 0) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0) {
		if (unshare(CLONE_NEWNET) < 0 || make_tap("tap0", WORLD_UID) < 0)
			_exit(1);
		_exit(mount("/proc/self/ns/net", path, NULL, MS_BIND, NULL) < 0);
	}
	int status = 1;
	waitpid(pid, &status, 0);
	return status == 0 ? 0 : -EIO;
}

int world_tree(const char *base, const char *const *programs, const char *const *extra,
	char **ret_dir, struct err *e)
{
	_cleanup_free_ char *trees = str_printf("%s/runtime", base);
	struct shim_tree t;
	int rc = shim_tree_build(
		trees, &(struct shim_files){.programs = programs, .extra = extra}, &t, e);
	if (rc == 0)
		*ret_dir = t.dir;
	return rc;
}

int world_init(struct world *w, const char *shim_program, const char *dummy_program)
{
	*w = (struct world){.dir = "/tmp/stasis-shim-XXXXXX", .next_uid = WORLD_UID};
	if (!shim_program || !dummy_program) {
		print_error("STASIS_SHIM and STASIS_DUMMY_VMM must name the programs\n");
		return -EINVAL;
	}
	if (!mkdtemp(w->dir))
		return -errno;
	w->run = str_printf("%s/run", w->dir);
	w->netns = str_printf("%s/netns", w->dir);
	w->kernel = str_printf("%s/kernel", w->dir);
	w->shim = strdup(shim_program);
	w->dummy = strdup(dummy_program);
	struct err e = {0};
	int rc = mkdir(w->run, 0711) < 0 ? -errno : make_netns(w->netns);
	if (rc == 0)
		rc = make_file(w->kernel, 4096);
	const char *programs[] = {w->dummy, getenv("STASIS_PAGER"), NULL}; // where it is needed
	if (rc == 0)
		rc = world_tree(w->dir, programs, NULL, &w->runtime, &e);
	if (rc < 0)
		print_error("world: %s\n", err_text(&e, rc));
	return rc;
}

static size_t count_mounts(const char *below)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	size_t n = 0;
	assert_int_equal(file_read(AT_FDCWD, "/proc/self/mountinfo", 1u << 24, &b), 0);
	for (const char *p = b.data; (p = strstr(p, below)); p++)
		n++;
	return n;
}

size_t world_count_processes(uint32_t uid)
{
	_cleanup_closedir_ DIR *d = opendir("/proc");
	size_t n = 0;
	for (struct dirent *de; (de = readdir(d));) {
		struct stat st;
		if (de->d_name[0] >= '1' && de->d_name[0] <= '9' &&
			fstatat(dirfd(d), de->d_name, &st, 0) == 0 && st.st_uid == uid)
			n++;
	}
	return n;
}

// After a failed test its sandbox may still run.
static size_t stop_leftovers(const struct world *w)
{
	size_t n = 0;
	_cleanup_closedir_ DIR *d = opendir(w->run);
	for (struct dirent *de; d && (de = readdir(d));) {
		if (de->d_name[0] == '.')
			continue;
		_cleanup_free_ char *dir = str_printf("%s/%s", w->run, de->d_name);
		shim_stop(dir, -1, NULL);
		n++;
	}
	return n;
}

int world_done(struct world *w)
{
	size_t left = stop_leftovers(w);
	umount2(w->netns, MNT_DETACH);
	assert_int_equal(count_mounts(w->dir), 0);
	for (uint32_t uid = WORLD_UID; uid < w->next_uid; uid++)
		assert_int_equal(world_count_processes(uid), 0);
	assert_int_equal(rmdir(w->run), 0);
	assert_int_equal(file_rm_rf(AT_FDCWD, w->dir), 0);
	assert_int_equal(left, 0);
	free(w->run);
	free(w->netns);
	free(w->kernel);
	free(w->runtime);
	free(w->shim);
	free(w->dummy);
	return 0;
}

void box_init(struct box *b, struct world *w, const char *const *vmm_argv)
{
	uint32_t uid = w->next_uid++;
	*b = (struct box){.pidfd = -1};
	snprintf(b->id, sizeof b->id, "i%u", uid);
	b->dir = str_printf("%s/%s", w->run, b->id);
	b->console = str_printf("%s/console-%s.log", w->dir, b->id);
	b->disk = str_printf("%s/disk-%s.img", w->dir, b->id);
	assert_int_equal(mkdir(b->dir, 0711), 0);
	assert_int_equal(make_file(b->disk, 1u << 20), 0);
	b->binds[0] = (struct shim_bind){w->kernel, JAIL_KERNEL, false};
	b->binds[1] = (struct shim_bind){b->disk, JAIL_ROOTFS, true};
	b->spec = (struct shim_spec){
		.id = b->id,
		.dir = b->dir,
		.netns = w->netns,
		.uid = uid,
		.gid = uid,
		.runtime_dir = w->runtime,
		.console_path = b->console,
		.vmm_argv = vmm_argv,
		.binds = b->binds,
		.n_binds = 2,
	};
}

int box_start(struct box *b, const struct world *w, int timeout_ms, struct err *e)
{
	return shim_start(w->shim, &b->spec, timeout_ms, &b->state, &b->pidfd, e);
}

char *box_ask(struct box *b, const char *command)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	assert_int_equal(shim_api_socket_path(b->dir, sa.sun_path, NULL), 0);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_return_code(connect(fd, (struct sockaddr *)&sa, sizeof sa), errno);
	assert_int_equal(file_write_full(fd, command, strlen(command)), 0);
	_cleanup_strbuf_ struct strbuf text = {0};
	char buf[4096];
	for (ssize_t n; (n = read(fd, buf, sizeof buf)) > 0;)
		strbuf_add(&text, buf, (size_t)n);
	if (text.len < 5 || !str_ends(text.data, "done\n"))
		return NULL;
	return strbuf_steal(&text);
}

bool box_wait_gone(struct box *b)
{
	struct pollfd pf = {.fd = b->pidfd, .events = POLLIN};
	return poll(&pf, 1, 10000) == 1;
}

void box_done(struct box *b)
{
	struct err e = {0};
	if (shim_stop(b->dir, b->pidfd, &e) < 0)
		fail_msg("stop: %s", e.text);
	assert_false(file_exists(AT_FDCWD, b->dir));
	assert_int_equal(world_count_processes(b->spec.uid), 0);
	b->pidfd = safe_close(b->pidfd);
	unlink(b->console);
	unlink(b->disk);
	free(b->dir);
	free(b->console);
	free(b->disk);
}
