// SPDX-License-Identifier: Apache-2.0
// The played shim (shim/shim.h). What the real one binds into the jail is written down here by its
// host path; the machine's player opens it.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/proc.h"
#include "base/str.h"
#include "played/played.h"

#define GONE_MS 10000 // as the real one

static int read_struct(const char *dir, const char *name, void *ret, size_t size)
{
	char path[512];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return file_read_full(fd, ret, size) == (ssize_t)size ? 0 : -EIO;
}

static int write_struct(const char *dir, const char *name, const void *data, size_t size)
{
	char path[512], tmp[520];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	snprintf(tmp, sizeof tmp, "%s.tmp", path);
	_cleanup_close_ int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int rc = file_write_full(fd, data, size);
	return rc == 0 && rename(tmp, path) < 0 ? -errno : rc;
}

int machine_read(const char *dir, struct machine *ret)
{
	return read_struct(dir, "machine", ret, sizeof *ret);
}

int machine_write(const char *dir, const struct machine *m)
{
	return write_struct(dir, "machine", m, sizeof *m);
}

int machine_memory(const char *dir, int flags)
{
	char path[512];
	snprintf(path, sizeof path, "%s/memory", dir);
	int fd = open(path, flags | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

static int open_process(int32_t pid, uint64_t start_time)
{
	uint64_t is;
	int fd = proc_pidfd_open(pid);
	struct pollfd pf = {.fd = fd, .events = POLLIN};
	if (fd < 0)
		return -ESRCH;
	if ((start_time && (proc_start_time(pid, &is) < 0 || is != start_time)) ||
		poll(&pf, 1, 0) != 0) {
		close(fd);
		return -ESRCH;
	}
	return fd;
}

bool machine_lives(const struct machine *m)
{
	_cleanup_close_ int fd = open_process(m->pid, m->start_time);
	return fd >= 0;
}

// All that the guest may have.
int shim_processes(const char *dir, int *ret, size_t n)
{
	memset(ret, 0, n * sizeof *ret);
	ret[0] = getpid();
	return 0;
}

int shim_memory(const char *dir, uint64_t *ret)
{
	struct machine m;
	int rc = machine_read(dir, &m);
	*ret = rc == 0 ? (uint64_t)m.memory_mib << 20 : 0;
	return rc;
}

static void take_bind(struct machine *m, const struct shim_bind *b)
{
	const struct {
		const char *target;
		char *to;
	} fields[] = {{JAIL_ROOTFS, m->rootfs}, {JAIL_VMSTATE, m->vmstate}, {JAIL_MEM, m->mem},
		{JAIL_HEADER, m->header}, {JAIL_LAYERS, m->layers}};
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (str_eq(b->target, fields[i].target))
			snprintf(fields[i].to, sizeof m->rootfs, "%s", b->source);
	// One file each of them, or one directory with all.
	if (str_starts(b->target, JAIL_LAYERS "/")) {
		snprintf(m->layers, sizeof m->layers, "%s", b->source);
		*strrchr(m->layers, '/') = '\0';
	}
}

static int begin(const struct shim_spec *spec, struct machine *m, struct err *e)
{
	struct stat st;
	_cleanup_close_ int console =
		open(spec->console_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (console < 0)
		return err_errno(e, errno, "%s", spec->console_path);
	snprintf(m->id, sizeof m->id, "%s", spec->id);
	snprintf(m->tree, sizeof m->tree, "%s", strrchr(spec->runtime_dir, '/') + 1);
	snprintf(m->snap, sizeof m->snap, "%s", spec->snap_dir ? spec->snap_dir : "");
	for (size_t i = 0; i < spec->n_binds; i++) {
		if (stat(spec->binds[i].source, &st) < 0)
			return err_errno(e, errno, "bind %s", spec->binds[i].source);
		take_bind(m, &spec->binds[i]);
	}
	// The slot leads to its machine: netns/<index> has its run directory.
	char dir[256];
	snprintf(dir, sizeof dir, "%s", spec->dir);
	_cleanup_close_ int fd = open(spec->netns, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || file_write_full(fd, dir, strlen(dir) + 1) < 0)
		return err_errno(e, errno, "%s", spec->netns);
	return 0;
}

int shim_start(const char *program, const struct shim_spec *spec, int timeout_ms,
	struct shim_state *ret, int *ret_pidfd, struct err *e)
{
	struct machine m = {.state = VMM_NOT_STARTED};
	struct shim_state st = {.uid = spec->uid, .kmsg_from = spec->kmsg_from};
	bool lost = false;
	int rc = trouble_meet("shim_start", spec->id, timeout_ms, NULL, NULL, &lost, e);
	if (rc == 0)
		rc = begin(spec, &m, e);
	pid_t pid = -1;
	if (rc == 0 && (rc = born_start(spec->dir, &pid)) < 0)
		err_errno(e, rc, "start a process");
	if (rc < 0)
		return rc;
	m.pid = st.pid = st.vmm_pid = pid;
	proc_start_time(pid, &m.start_time);
	st.start_time = m.start_time;
	snprintf(st.id, sizeof st.id, "%s", spec->id);
	char boot_id[37];
	clock_boot_id(boot_id);
	snprintf(st.boot_id, sizeof st.boot_id, "%s", boot_id);
	_cleanup_close_ int memory = machine_memory(spec->dir, O_RDWR | O_CREAT | O_EXCL);
	if (memory < 0 || ftruncate(memory, (off_t)PLAYED_PAGES * PLAYED_PAGE) < 0 ||
		machine_write(spec->dir, &m) < 0 ||
		write_struct(spec->dir, "state", &st, sizeof st) < 0)
		return err_set(e, ERR_INTERNAL, "%s: cannot write", spec->dir);
	if (lost) { // it took too long: the real one leaves nothing that runs
		shim_stop(spec->dir, -1, NULL);
		mkdir(spec->dir, 0700);
		return err_set(e, ERR_TIMEOUT, "the VMM's API socket did not accept");
	}
	int fd = open_process(pid, m.start_time);
	if (fd < 0)
		return err_set(e, ERR_INTERNAL, "the shim was killed while starting");
	*ret = st;
	*ret_pidfd = fd;
	return 0;
}

int shim_api_socket_path(const char *dir, char out[static 108], struct err *e)
{
	int rc = str_format(out, 108, "%s%s", dir, JAIL_API_SOCK);
	return rc < 0 ? err_set(e, ERR_INVALID, "%s: too long", dir) : 0;
}

int shim_read_state(const char *dir, struct shim_state *ret, struct err *e)
{
	int rc = read_struct(dir, "state", ret, sizeof *ret);
	return rc < 0 ? err_errno(e, rc, "%s/state", dir) : 0;
}

int shim_read_exit(const char *dir, struct shim_exit *ret, struct err *e)
{
	int rc = read_struct(dir, "exit", ret, sizeof *ret);
	return rc < 0 ? err_errno(e, rc, "%s/exit", dir) : 0;
}

int shim_adopt(const char *dir, struct shim_state *ret, int *ret_pidfd, struct err *e)
{
	struct shim_state st;
	char boot_id[37];
	int rc = read_struct(dir, "state", &st, sizeof st);
	if (rc < 0)
		return err_errno(e, rc == -ENOENT ? ESRCH : -rc, "%s: no state", dir);
	clock_boot_id(boot_id);
	int fd = str_eq(boot_id, st.boot_id) ? open_process(st.pid, st.start_time) : -ESRCH;
	if (fd < 0)
		return err_errno(e, ESRCH, "%s: the shim has ended", dir);
	*ret = st;
	*ret_pidfd = fd;
	return 0;
}

int shim_poke_pager(int pidfd)
{
	struct pollfd pf = {.fd = pidfd, .events = POLLIN};
	return poll(&pf, 1, 0) != 0 ? -ESRCH : 0;
}

static int hold_process(const char *dir, int pidfd, int *ret_found)
{
	char text[16] = "", path[512];
	snprintf(path, sizeof path, "%s/pid", dir);
	_cleanup_close_ int fd = pidfd >= 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, text, sizeof text - 1) > 0)
		*ret_found = pidfd = open_process((int32_t)strtol(text, NULL, 10), 0);
	return pidfd;
}

int shim_kill(const char *dir, int pidfd)
{
	_cleanup_close_ int found = -1;
	bool lost;
	pidfd = hold_process(dir, pidfd, &found);
	int rc = pidfd >= 0 ? proc_kill(pidfd, SIGTERM) : 0;
	int met = trouble_meet("shim_kill", strrchr(dir, '/') + 1, 0, NULL, NULL, &lost, NULL);
	return met < 0 ? met : rc;
}

int shim_end(const char *dir, int pidfd)
{
	guest_crash(strrchr(dir, '/') + 1, "killed");
	return 0;
}

int shim_wait_gone(const char *dir, int pidfd, int timeout_ms, struct err *e)
{
	_cleanup_close_ int found = -1;
	bool late = false;
	const char *name = strrchr(dir, '/') ? strrchr(dir, '/') + 1 : dir;
	int rc = trouble_meet("shim_stop", name, timeout_ms, NULL, NULL, &late, e);
	if (rc < 0)
		return rc;
	pidfd = hold_process(dir, pidfd, &found);
	struct pollfd pf = {.fd = pidfd, .events = POLLIN};
	if (pidfd >= 0 && (late || atomic_load(&world.stage->stuck))) {
		stage_skip_ms((uint64_t)timeout_ms);
		return err_errno(e, ETIMEDOUT, "%s: processes of the sandbox do not end", dir);
	}
	if (pidfd >= 0 && poll(&pf, 1, timeout_ms ? -1 : 0) != 1)
		return err_errno(e, ETIMEDOUT, "%s: processes of the sandbox do not end", dir);
	rc = file_rm_rf(AT_FDCWD, dir);
	return rc < 0 ? err_errno(e, rc, "remove %s", dir) : 0;
}

int shim_stop(const char *dir, int pidfd, struct err *e)
{
	shim_kill(dir, pidfd);
	return shim_wait_gone(dir, pidfd, GONE_MS, e);
}

const char *shim_judge_console(const char *console_path)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	if (file_read(AT_FDCWD, console_path, 65536, &text) < 0 || !text.data)
		return NULL;
	return strstr(text.data, "panic")      ? "guest_panic"
	       : strstr(text.data, "reboot: ") ? "guest_poweroff"
					       : NULL;
}

// Trees without programs: the VMM's is named by its version, our own are one.
int shim_tree_build(
	const char *trees_dir, const struct shim_files *f, struct shim_tree *ret, struct err *e)
{
	struct shim_tree t = {0};
	unsigned version = f->about ? 1 + atomic_load(&world.stage->vmm_upgrades) : 0;
	snprintf(t.id, sizeof t.id, "%032x", version);
	_cleanup_free_ char *tmp = str_printf("%s/.new.%u", trees_dir, version);
	_cleanup_free_ char *about = str_printf("%s/" SHIM_TREE_ABOUT, tmp);
	if (!(t.dir = str_printf("%s/%s", trees_dir, t.id)) || !tmp || !about)
		return err_errno(e, ENOMEM, "runtime");
	int rc = file_exists(AT_FDCWD, t.dir) ? 1 : file_mkdir_p(AT_FDCWD, tmp, 0700);
	if (rc == 0 && f->about)
		rc = file_write_atomic(AT_FDCWD, about, f->about, strlen(f->about), 0600);
	if (rc == 0)
		rc = fault_hit("runtime.before_name", e);
	if (rc == 0 && rename(tmp, t.dir) < 0)
		rc = -errno;
	if (rc == 0)
		rc = fault_hit("runtime.after_name", e);
	if (rc < 0) {
		free(t.dir);
		return err_errno(e, rc, "runtime");
	}
	*ret = t;
	return 0;
}

int shim_tree_remove(const char *trees_dir, const char *id, struct err *e)
{
	_cleanup_free_ char *dir = str_printf("%s/%s", trees_dir, id);
	int rc = dir ? fault_hit("runtime.before_remove", e) : -ENOMEM;
	if (rc == 0)
		rc = file_rm_rf(AT_FDCWD, dir);
	return rc < 0 ? err_errno(e, rc, "remove %s/%s", trees_dir, id) : 0;
}

int shim_tree_list(const char *trees_dir, bool tidy, shim_tree_fn f, void *ctx, struct err *e)
{
	int rc = 0;
	_cleanup_closedir_ DIR *d = opendir(trees_dir);
	for (struct dirent *de; d && rc == 0 && (de = readdir(d));) {
		if (str_starts(de->d_name, ".new."))
			file_rm_rf(dirfd(d), de->d_name);
		else if (de->d_name[0] != '.')
			rc = f(ctx, de->d_name);
	}
	return rc;
}

int shim_read_tree(const char *dir, char ret_id[SHIM_TREE_ID_SIZE], struct err *e)
{
	struct machine m;
	int rc = machine_read(dir, &m);
	if (rc < 0)
		return err_errno(e, rc, "%s", dir);
	memcpy(ret_id, m.tree, SHIM_TREE_ID_SIZE);
	return 0;
}

void shim_files_free(char ***files)
{
	free(*files);
}

char **shim_qemu_files(const char *qemu)
{
	return calloc(1, sizeof(char *));
}
