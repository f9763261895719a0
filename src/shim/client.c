// SPDX-License-Identifier: Apache-2.0
// How this works: the server holds a shim by pidfd. After a restart, or when state.json was never
// written, the lock is what is certain: only the shim of a directory holds its shim.lock, and its
// number stands in it.
#include "shim/shim.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/fdpass.h"
#include "base/file.h"
#include "base/proc.h"
#include "shim/spec.h"

#define REPORT_FD 3
#define GONE_MS 10000 // from SIGKILL to the end of all processes; only a stuck disk takes longer
#define JUDGE_TAIL 16384u // bytes at the end of the console

// 1 when fd became readable (a pidfd: the process is gone), 0 when the deadline was over first.
static int wait_readable(int fd, uint64_t deadline)
{
	struct pollfd pf = {.fd = fd, .events = POLLIN};
	for (;;) {
		int n = poll(&pf, 1, deadline_left_ms(deadline));
		if (n > 0 || (n == 0 && deadline_over(deadline)))
			return n;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static int read_json_file(const char *dir, const char *name, struct strbuf *ret, struct err *e)
{
	_cleanup_free_ char *path = str_printf("%s/%s", dir, name);
	if (!path)
		return err_errno(e, ENOMEM, "%s", dir);
	int rc = file_read(AT_FDCWD, path, SHIM_FILE_MAX, ret);
	return rc < 0 ? err_errno(e, rc, "read %s", path) : 0;
}

int shim_read_state(const char *dir, struct shim_state *ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	int rc = read_json_file(dir, SHIM_STATE_FILE, &text, e);
	if (rc < 0)
		return rc;
	rc = shim_state_parse(text.data, text.len, ret, e);
	return err_prefix(e, rc, "%s/" SHIM_STATE_FILE, dir);
}

int shim_read_exit(const char *dir, struct shim_exit *ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	int rc = read_json_file(dir, SHIM_EXIT_FILE, &text, e);
	if (rc < 0)
		return rc;
	rc = shim_exit_parse(text.data, text.len, ret, e);
	return err_prefix(e, rc, "%s/" SHIM_EXIT_FILE, dir);
}

int shim_read_tree(const char *dir, char ret_id[SHIM_TREE_ID_SIZE], struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_(spec_freep) struct spec *spec = NULL;
	int rc = read_json_file(dir, SHIM_SPEC_FILE, &text, e);
	if (rc == 0 && (rc = spec_parse(text.data, text.len, &spec, e)) < 0)
		err_prefix(e, rc, "%s/" SHIM_SPEC_FILE, dir);
	if (rc < 0)
		return rc;
	const char *tree = strrchr(spec_get(spec)->runtime_dir, '/') + 1;
	if (str_format(ret_id, SHIM_TREE_ID_SIZE, "%s", tree) < 0)
		return err_set(e, ERR_INVALID, "%s: runtime_dir is no tree", dir);
	return 0;
}

int shim_api_socket_path(const char *dir, char out[static 108], struct err *e)
{
	int rc = str_format(out, 108, "%s%s", dir, JAIL_API_SOCK);
	return rc < 0 ? err_set(e, ERR_INVALID,
				"%s: too long for a socket's path: use a shorter run directory",
				dir)
		      : 0;
}

int shim_adopt(const char *dir, struct shim_state *ret, int *ret_pidfd, struct err *e)
{
	struct shim_state st;
	char boot_id[37];
	int rc = shim_read_state(dir, &st, e);
	if (rc < 0)
		return rc == -ENOENT ? err_errno(e, ESRCH, "%s: no " SHIM_STATE_FILE, dir) : rc;
	clock_boot_id(boot_id);
	if (strcmp(boot_id, st.boot_id) != 0)
		return err_errno(e, ESRCH, "%s: the host was restarted since", dir);
	_cleanup_close_ int pidfd = proc_pidfd_open(st.pid);
	// Looked at after the descriptor holds the process: the number cannot change hands any
	// more.
	uint64_t start_time;
	if (pidfd < 0 || proc_start_time(st.pid, &start_time) < 0 || start_time != st.start_time ||
		wait_readable(pidfd, 0) != 0)
		return err_errno(e, ESRCH, "%s: the shim has ended", dir);
	*ret = st;
	*ret_pidfd = TAKE_FD(pidfd);
	return 0;
}

static bool lock_is_held(int fd)
{
	return flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

// The shim that holds the directory's lock: a pidfd, or -ESRCH.
static int find_by_lock(const char *dir)
{
	_cleanup_free_ char *path = str_printf("%s/" SHIM_LOCK_FILE, dir);
	char text[16] = "";
	uint64_t pid;
	if (!path)
		return -ENOMEM;
	_cleanup_close_ int lock = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (lock < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	for (int tries = 0; tries < 1000; tries++) {
		if (!lock_is_held(lock))
			return -ESRCH;
		if (pread(lock, text, sizeof text - 1, 0) < 0)
			return -errno;
		_cleanup_close_ int pidfd = -1;
		if (str_to_u64(text, INT32_MAX, &pid) == 0)
			pidfd = proc_pidfd_open((pid_t)pid);
		// Still held and still by that one: the descriptor is the holder's. (The number
		// changes once, from the starting process to PID 1.)
		char again[16] = "";
		if (pidfd >= 0 && lock_is_held(lock) &&
			pread(lock, again, sizeof again - 1, 0) >= 0 && strcmp(text, again) == 0 &&
			wait_readable(pidfd, 0) == 0)
			return TAKE_FD(pidfd);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	return -EBUSY;
}

// The shim of a directory: a pidfd, or -ESRCH. One that ends has let go of its lock when it still
// waits for the sandbox's other processes; then its number and start time tell.
static int find_shim(const char *dir)
{
	struct shim_state st;
	int pidfd = find_by_lock(dir);
	if (pidfd == -ESRCH && shim_adopt(dir, &st, &pidfd, NULL) < 0)
		return -ESRCH;
	return pidfd;
}

static int wait_gone(int pidfd, int timeout_ms, struct err *e)
{
	int rc = wait_readable(pidfd, deadline_in_ms(MAX(timeout_ms, 0)));
	if (rc == 0)
		return err_errno(e, ETIMEDOUT,
			"processes of the sandbox do not end (stuck in a disk or network access?)");
	return rc < 0 ? err_errno(e, rc, "wait for the shim") : 0;
}

static void end_process(int pidfd)
{
	proc_kill(pidfd, SIGKILL);
	wait_readable(pidfd, deadline_in_ms(GONE_MS));
}

int shim_poke_pager(int pidfd)
{
	// A process that has ended but was not reaped takes signals.
	return wait_readable(pidfd, 0) != 0 ? -ESRCH : proc_kill(pidfd, SIGUSR1);
}

int shim_end(const char *dir, int pidfd)
{
	return wait_readable(pidfd, 0) != 0 ? -ESRCH : proc_kill(pidfd, SIGTERM);
}

// *found owns what is looked for: pidfd is the caller's.
static int hold_shim(const char *dir, int pidfd, int *found)
{
	*found = pidfd < 0 ? find_shim(dir) : -1;
	return pidfd < 0 ? *found : pidfd;
}

int shim_kill(const char *dir, int pidfd)
{
	_cleanup_close_ int found = -1;
	pidfd = hold_shim(dir, pidfd, &found);
	int rc = pidfd < 0 ? pidfd : proc_kill(pidfd, SIGKILL);
	return rc == -ESRCH ? 0 : rc;
}

int shim_wait_gone(const char *dir, int pidfd, int timeout_ms, struct err *e)
{
	_cleanup_close_ int found = -1;
	pidfd = hold_shim(dir, pidfd, &found);
	if (pidfd < 0 && pidfd != -ESRCH)
		return err_errno(e, pidfd, "find the shim of %s", dir);
	int rc = pidfd < 0 ? 0 : wait_gone(pidfd, timeout_ms, e);
	if (rc < 0)
		return err_prefix(e, rc, "stop %s", dir);
	rc = file_rm_rf(AT_FDCWD, dir);
	return rc < 0 ? err_errno(e, rc, "remove %s", dir) : 0;
}

int shim_stop(const char *dir, int pidfd, struct err *e)
{
	_cleanup_close_ int found = -1;
	pidfd = hold_shim(dir, pidfd, &found);
	int rc = pidfd == -ESRCH ? 0 : pidfd < 0 ? pidfd : shim_kill(dir, pidfd);
	if (rc < 0)
		return err_errno(e, rc, "stop %s", dir);
	return shim_wait_gone(dir, pidfd, GONE_MS, e);
}

// ---- start

static int receive_pidfd(int fd, uint64_t deadline, int *pidfd, char *text, size_t size)
{
	int rc = wait_readable(fd, deadline);
	if (rc <= 0)
		return rc < 0 ? rc : -ETIMEDOUT;
	ssize_t n = fdpass_receive(fd, text, size - 1, pidfd, 0);
	if (n >= 0)
		text[n] = '\0';
	return (int)n;
}

// Messages of stasis-shim, in order: its pidfd; then "ok" or an error. Either process may report an
// error, so the descriptor may be missing.
static int await_report(int fd, uint64_t deadline, int timeout_ms, int *pidfd, struct err *e)
{
	char text[1200];
	for (;;) {
		int n = receive_pidfd(fd, deadline, pidfd, text, sizeof text);
		if (n == -ETIMEDOUT)
			return err_set(e, ERR_TIMEOUT,
				"the VMM's API socket did not accept within %d ms", timeout_ms);
		if (n < 0)
			return err_errno(e, n, "read the shim's report");
		if (n == 0)
			return err_set(e, ERR_INTERNAL, "the shim was killed while starting");
		if (strcmp(text, "ok\n") == 0)
			return 0;
		char *nl = strchr(text, '\n');
		if (!nl)
			continue; // the one byte that came with the pidfd
		*nl = '\0';
		return err_set(e, err_code_from_name(text), "%s", nl + 1);
	}
}

// *ret_fd reads it from its start.
static int write_spec(const struct shim_spec *spec, int *ret_fd, struct err *e)
{
	_cleanup_free_ char *text = shim_spec_format(spec);
	_cleanup_free_ char *path = str_printf("%s/" SHIM_SPEC_FILE, spec->dir);
	if (!text || !path)
		return err_set(e, ERR_INVALID, "the specification has a text that is not UTF-8");
	_cleanup_close_ int fd =
		open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int rc = fd < 0 ? -errno : file_write_full(fd, text, strlen(text));
	if (rc == 0 && lseek(fd, 0, SEEK_SET) < 0)
		rc = -errno;
	if (rc < 0)
		return err_errno(e, rc, "write %s", path);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

// By descriptor, for everybody on the host may read a process's arguments, and the path has the
// sandbox's id.
static int run_shim(const char *program, int spec_fd, int timeout_ms, int *ret_pidfd, struct err *e)
{
	uint64_t deadline = deadline_in_ms(MAX(timeout_ms, 0));
	int sv[2];
	// Packets: a message is whole, and the end of all senders is seen.
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return err_errno(e, errno, "socketpair");
	_cleanup_close_ int mine = sv[0], theirs = sv[1], starter = -1, pidfd = -1;
	const struct proc_fd_map map = {theirs, REPORT_FD};
	const struct proc_spawn s = {
		.argv = (const char *[]){program, "-", "3", NULL},
		.stdin_fd = spec_fd,
		.stdout_fd = -1,
		.stderr_fd = -1,
		.fds = &map,
		.n_fds = 1,
		.new_session = true,
	};
	int rc = proc_spawn(&s, NULL, &starter, e);
	if (rc < 0)
		return rc;
	theirs = safe_close(theirs);
	rc = await_report(mine, deadline, timeout_ms, &pidfd, e);
	if (proc_wait(starter, rc < 0 ? 0 : deadline_left_ms(deadline), NULL) == -ETIMEDOUT) {
		proc_kill(starter, SIGKILL);
		proc_wait(starter, -1, NULL);
	}
	if (rc == 0)
		*ret_pidfd = TAKE_FD(pidfd);
	else if (pidfd >= 0)
		end_process(pidfd);
	return rc;
}

static void empty_directory(const char *dir)
{
	static const char *const made[] = {SHIM_SPEC_FILE, SHIM_STATE_FILE, SHIM_STATE_NEW,
		SHIM_EXIT_FILE, SHIM_LOG_FILE, SHIM_LOCK_FILE, "root", "run"};
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; fd >= 0 && i < ARRAY_SIZE(made); i++)
		file_rm_rf(fd, made[i]);
}

int shim_start(const char *shim_program, const struct shim_spec *spec, int timeout_ms,
	struct shim_state *ret, int *ret_pidfd, struct err *e)
{
	_cleanup_close_ int spec_fd = -1;
	_cleanup_close_ int pidfd = -1;
	char sock[108];
	struct shim_state st;
	int rc = shim_spec_check(spec, e);
	if (rc == 0)
		rc = shim_api_socket_path(spec->dir, sock, e);
	if (rc < 0)
		return rc;
	pidfd = find_by_lock(spec->dir);
	if (pidfd >= 0)
		return err_set(e, ERR_CONFLICT, "%s: a shim runs already", spec->dir);
	rc = write_spec(spec, &spec_fd, e);
	if (rc == 0)
		rc = run_shim(shim_program, spec_fd, timeout_ms, &pidfd, e);
	if (rc == 0)
		rc = shim_read_state(spec->dir, &st, e);
	if (rc < 0) {
		// Also one that was forked, but whose descriptor did not get here.
		_cleanup_close_ int lost = pidfd >= 0 ? TAKE_FD(pidfd) : find_by_lock(spec->dir);
		if (lost >= 0)
			end_process(lost);
		empty_directory(spec->dir);
		return rc;
	}
	*ret = st;
	*ret_pidfd = TAKE_FD(pidfd);
	return 0;
}

// ---- console

const char *shim_judge_console(const char *console_path)
{
	static const struct {
		const char *text, *cause;
	} signs[] = {
		{"Kernel panic - not syncing", "guest_panic"},
		// mm/oom_kill.c: nothing left to kill, and vm.panic_on_oom
		{"Kernel panic - not syncing: System is deadlocked on memory", "guest_oom"},
		{"Kernel panic - not syncing: Out of memory", "guest_oom"},
		{"reboot: Power down", "guest_poweroff"},
		{"reboot: System halted", "guest_poweroff"},
		{"reboot: Restarting system", "guest_poweroff"},
		{"reboot: machine restart", "guest_poweroff"},
		{"sysrq: Resetting", "guest_poweroff"}, // drivers/tty/sysrq.c, 'b'
	};
	struct stat st;
	char tail[JUDGE_TAIL];
	_cleanup_close_ int fd = open(console_path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return NULL;
	off_t from = st.st_size > (off_t)sizeof tail ? st.st_size - (off_t)sizeof tail : 0;
	ssize_t n = pread(fd, tail, sizeof tail, from);
	const char *last = tail, *cause = NULL; // the latest sign counts: the log spans boots
	for (size_t i = 0; n > 0 && i < ARRAY_SIZE(signs); i++) {
		size_t len = strlen(signs[i].text);
		for (const char *p = last;
			(p = memmem(p, (size_t)(tail + n - p), signs[i].text, len)); p++) {
			last = p;
			cause = signs[i].cause;
		}
	}
	return cause;
}
