// SPDX-License-Identifier: Apache-2.0
// How this works: one thread, one poll loop. Signals come as descriptors (blocked before anything
// is started), so that nothing is interrupted and a child's end is seen in the same loop as its
// last output.
//
// The API socket: the kernel announces its name (inotify on /run) but not that it is listened on.
// Between the two, microseconds for any sane VMM, connecting is refused; only then a short, growing
// timer is used.
//
// VMM and pager hold each other's sockets, so each sees the other's end, and often ends first where
// it was the second to fail. So an end is not judged by who was reaped first: when one has ended,
// the other is given a moment, and how both ended tells the cause (judge_end).
#include "shim/supervise.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/proc.h"
#include "shim/boundlog.h"
#include "shim/jail.h"
#include "shim/spec.h"

#define CAP_BIT(c) (1ull << (c))
#define CAPS_READY CAP_BIT(CAP_KILL)
#define CAPS_STARTED (CAPS_READY | CAP_BIT(CAP_DAC_OVERRIDE) | CAP_BIT(CAP_CHOWN))
#define CAPS_JAILED (CAPS_STARTED | CAP_BIT(CAP_SETUID) | CAP_BIT(CAP_SETGID))

#define CONSOLE_MAX_DEFAULT (4ull << 20)
#define LOG_MAX (256ull << 10)
#define STOP_GRACE_NS (2 * NSEC_PER_SEC)
#define RETRY_MIN_NS 100000ull
#define RETRY_MAX_NS (10 * NSEC_PER_MSEC)
#define PAGER_GRACE_NS (NSEC_PER_SEC / 2) // it writes its figures, then ends
#define VMM_GRACE_NS (2 * NSEC_PER_SEC)	  // to give back its memory, once the pager saw it go

// Exit statuses of stasis-pager that tell of the VMM, not of itself.
#define PAGER_SAW_END 0
#define PAGER_BAD_HANDSHAKE 3

// What one program says on stderr: all of it to the log, the last line kept.
struct voice {
	int fd;
	char line[160], last[160];
	size_t len;
};

struct shim {
	const struct shim_spec *spec;
	int report_fd;
	int dir_fd;	// <dir>, of the host
	int runtime_fd; // shared lock: shim_tree_remove leaves it alone
	int own_fd;	// too
	int proc_fd;	// the host's /proc, until ready
	int signal_fd, inotify_fd;
	int out_fd;	// the VMM's stdout
	int vmm_log_fd; // JAIL_VMM_LOG, open for writing too: it has no end
	struct voice vmm_err, pager_err;
	struct boundlog console, log, vmm_log;
	pid_t vmm, pager; // in the new namespace; 0: not running
	bool vmm_ended, pager_ended;
	int vmm_status, pager_status;
	struct shim_state state;
	bool ready, stopping, ended;
	uint64_t kill_at_ns, retry_at_ns, judge_at_ns, retry_ns; // 0: not set
	struct shim_exit exit;
};

static void shim_log(struct shim *sh, const char *fmt, ...) _printf_(2, 3);
static void shim_log(struct shim *sh, const char *fmt, ...)
{
	char stamp[32], text[1200], line[1300];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	clock_format_rfc3339(clock_realtime_ns(), stamp);
	int n = snprintf(line, sizeof line, "%s stasis-shim: %s\n", stamp, text);
	boundlog_add(&sh->log, line, MIN((size_t)n, sizeof line - 1));
}

void supervise_report(int report_fd, const struct err *e)
{
	char text[1100];
	if (report_fd < 0)
		return;
	int n = e ? snprintf(text, sizeof text, "%s\n%s", err_info(e->code)->name, e->text)
		  : snprintf(text, sizeof text, "ok\n");
	// The starter may be gone; the sandbox goes on and is adopted or stopped later.
	send(report_fd, text, MIN((size_t)n, sizeof text - 1), MSG_NOSIGNAL);
}

// ---- build

// This process as the host knows it. The host's /proc shows it by the host's number.
static int own_identity(struct shim *sh, struct err *e)
{
	char text[16] = "";
	uint64_t pid;
	struct shim_state *st = &sh->state;
	sh->proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (sh->proc_fd < 0 || readlinkat(sh->proc_fd, "self", text, sizeof text - 1) < 0 ||
		str_to_u64(text, INT32_MAX, &pid) < 0)
		return err_errno(e, errno, "/proc/self");
	st->pid = (int32_t)pid;
	st->uid = sh->spec->uid;
	st->kmsg_from = sh->spec->kmsg_from;
	int rc = proc_start_time(st->pid, &st->start_time);
	if (rc < 0)
		return err_errno(e, rc, "start time");
	clock_boot_id(st->boot_id);
	return str_format(st->id, sizeof st->id, "%s", sh->spec->id);
}

static int hold_tree(const char *dir, int *ret_fd, struct err *e)
{
	*ret_fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (dir && (*ret_fd < 0 || flock(*ret_fd, LOCK_SH | LOCK_NB) < 0))
		return err_errno(e, errno, "runtime %s", dir);
	return 0;
}

static int open_files(struct shim *sh, int lock_fd, struct err *e)
{
	const struct shim_spec *s = sh->spec;
	sh->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (sh->dir_fd < 0)
		return err_errno(e, errno, "%s", s->dir);
	int rc = boundlog_open(&sh->log, sh->dir_fd, SHIM_LOG_FILE, LOG_MAX);
	if (rc < 0)
		return err_errno(e, rc, "%s/" SHIM_LOG_FILE, s->dir);
	// The server's terminal or log must not be held for the sandbox's life.
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 3; i++)
		if (null < 0 || dup2(null, i) < 0)
			return err_errno(e, errno, "/dev/null");
	rc = own_identity(sh, e);
	if (rc < 0)
		return rc;
	// Who holds the lock, for a stop before state.json is there.
	if (ftruncate(lock_fd, 0) < 0 || lseek(lock_fd, 0, SEEK_SET) < 0 ||
		dprintf(lock_fd, "%d", sh->state.pid) < 0)
		return err_errno(e, errno, "%s/" SHIM_LOCK_FILE, s->dir);
	rc = boundlog_open(&sh->console, AT_FDCWD, s->console_path,
		s->console_max ? s->console_max : CONSOLE_MAX_DEFAULT);
	if (rc < 0)
		return err_errno(e, rc, "console log %s", s->console_path);
	if (s->vmm_log_path &&
		(rc = boundlog_open(&sh->vmm_log, AT_FDCWD, s->vmm_log_path, LOG_MAX)) < 0)
		return err_errno(e, rc, "log %s", s->vmm_log_path);
	if ((rc = hold_tree(s->runtime_dir, &sh->runtime_fd, e)) < 0 ||
		(rc = hold_tree(s->own_dir, &sh->own_fd, e)) < 0)
		return rc;
	if ((mkdirat(sh->dir_fd, "root", 0700) < 0 && errno != EEXIST) ||
		(mkdirat(sh->dir_fd, "run", 0700) < 0 && errno != EEXIST) ||
		fchownat(sh->dir_fd, "run", s->uid, s->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(e, errno, "make root and run in %s", s->dir);
	return 0;
}

static int pipe_from_children(int *ret_read, int *ret_write, const char *what, struct err *e)
{
	int p[2];
	if (pipe2(p, O_CLOEXEC) < 0 || fcntl(p[0], F_SETFL, O_NONBLOCK) < 0)
		return err_errno(e, errno, "pipe for %s", what);
	*ret_read = p[0];
	*ret_write = p[1];
	return 0;
}

// ---- start of VMM and pager

// In the child. What fails here is the last line of its stderr, and so the detail of its end.
static _noreturn_ void become_program(
	const struct shim_spec *s, const char *const *argv, int out, int err)
{
	static const char *const env[] = {"PATH=" JAIL_BIN, "LANG=C.UTF-8", NULL};
	sigset_t none;
	sigemptyset(&none);
	int in = open("/dev/null", O_RDONLY);
	if (in < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 ||
		close_range(3, ~0u, 0) < 0)
		_exit(126);
	setsid();
	int rc = jail_become(s->uid, s->gid, s->fsize_max);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (rc == 0) {
		execve(argv[0], (char *const *)argv, (char *const *)env);
		rc = -errno;
	}
	dprintf(2, "start %s: %s\n", argv[0], strerror(-rc));
	_exit(127);
}

static int start_program(
	struct shim *sh, const char *const *argv, int out, int err, pid_t *ret, struct err *e)
{
	// It borrows our memory until it is the other program, and changes none of it: copying the
	// page tables, and each page touched afterwards, would cost more than all it does.
	pid_t pid = vfork();
	if (pid < 0)
		return err_errno(e, errno, "fork for %s", argv[0]);
	if (pid == 0)
		become_program(sh->spec, argv, out, err);
	*ret = pid;
	return 0;
}

// The child's number on the host: a pidfd's entry in the host's /proc tells it.
static int host_pid(struct shim *sh, pid_t pid, int32_t *ret, struct err *e)
{
	_cleanup_close_ int pidfd = proc_pidfd_open(pid);
	if (pidfd < 0)
		return err_errno(e, pidfd, "open the VMM's process");
	char path[64];
	_cleanup_strbuf_ struct strbuf text = {0};
	snprintf(path, sizeof path, "%d/fdinfo/%d", sh->state.pid, pidfd);
	int rc = file_read(sh->proc_fd, path, 4096, &text);
	const char *p = rc < 0 ? NULL : strstr(text.data, "\nPid:");
	if (!p)
		return err_errno(e, rc < 0 ? rc : ENOENT, "number of the VMM's process");
	*ret = (int32_t)strtol(p + 5, NULL, 10);
	return 0;
}

static int start_programs(struct shim *sh, struct err *e)
{
	_cleanup_close_ int out = -1, err = -1, pager_err = -1;
	int rc = pipe_from_children(&sh->out_fd, &out, "stdout", e);
	if (rc == 0)
		rc = pipe_from_children(&sh->vmm_err.fd, &err, "stderr", e);
	if (rc == 0 && sh->spec->pager_argv)
		rc = pipe_from_children(&sh->pager_err.fd, &pager_err, "stderr", e);
	if (rc == 0 && sh->spec->pager_argv)
		rc = start_program(sh, sh->spec->pager_argv, pager_err, pager_err, &sh->pager, e);
	if (rc == 0)
		rc = start_program(sh, sh->spec->vmm_argv, out, err, &sh->vmm, e);
	if (rc == 0)
		rc = host_pid(sh, sh->vmm, &sh->state.vmm_pid, e);
	return rc;
}

static int make_vmm_log(struct shim *sh, struct err *e)
{
	const struct shim_spec *s = sh->spec;
	if (!s->vmm_log_path)
		return 0;
	if (mkfifo(JAIL_VMM_LOG, 0600) < 0 || chown(JAIL_VMM_LOG, s->uid, s->gid) < 0)
		return err_errno(e, errno, "make " JAIL_VMM_LOG);
	sh->vmm_log_fd = open(JAIL_VMM_LOG, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	return sh->vmm_log_fd < 0 ? err_errno(e, errno, "open " JAIL_VMM_LOG) : 0;
}

static int setup(struct shim *sh, int lock_fd, struct err *e)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	if (sigprocmask(SIG_SETMASK, &set, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR ||
		(sh->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
		return err_errno(e, errno, "signals");
	setsid();
	int rc = open_files(sh, lock_fd, e);
	if (rc == 0)
		rc = fault_hit("shim.before_jail", e);
	if (rc == 0)
		rc = jail_enter(sh->spec, e);
	if (rc < 0)
		return rc;
	sh->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (sh->inotify_fd < 0 ||
		inotify_add_watch(sh->inotify_fd, "/run", IN_CREATE | IN_MOVED_TO) < 0)
		return err_errno(e, errno, "watch /run");
	rc = make_vmm_log(sh, e);
	if (rc == 0)
		rc = jail_seal(CAPS_JAILED, e);
	if (rc == 0)
		rc = start_programs(sh, e);
	if (rc == 0)
		rc = jail_limit_caps(CAPS_STARTED, e);
	return rc;
}

// ---- ready

static bool is_socket(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

// 1: accepts, 0: not yet there, -ECONNREFUSED: there, but not yet listened on.
static int api_accepts(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = JAIL_API_SOCK};
	if (!is_socket(JAIL_API_SOCK))
		return 0;
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0)
		return errno == ENOENT ? 0 : errno == EAGAIN ? 1 : -errno;
	return 1;
}

// Not fsynced: it describes running processes, which a crash of the host ends too.
static int write_state(struct shim *sh, struct err *e)
{
	_cleanup_free_ char *text = shim_state_format(&sh->state);
	_cleanup_close_ int fd = openat(sh->dir_fd, SHIM_STATE_NEW,
		O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (!text || fd < 0)
		return err_errno(e, text ? errno : ENOMEM, "write " SHIM_STATE_FILE);
	int rc = file_write_full(fd, text, strlen(text));
	if (rc == 0 && renameat(sh->dir_fd, SHIM_STATE_NEW, sh->dir_fd, SHIM_STATE_FILE) < 0)
		rc = -errno;
	return rc < 0 ? err_errno(e, rc, "write " SHIM_STATE_FILE) : 0;
}

static int become_ready(struct shim *sh, struct err *e)
{
	// The server connects to the socket through <dir>/run as root. From here on the VMM cannot
	// put another one or a link there, nor fill the host's file system with files.
	if (chown("/run", 0, 0) < 0 || chmod("/run", 0711) < 0)
		return err_errno(e, errno, "take over /run");
	if (!is_socket(JAIL_API_SOCK))
		return err_set(e, ERR_INTERNAL, JAIL_API_SOCK " is no socket any more");
	if (sh->spec->vmm_log_path)
		unlink(JAIL_VMM_LOG); // who has it open goes on
	int rc = fault_hit("shim.before_state", e);
	if (rc == 0)
		rc = write_state(sh, e);
	if (rc == 0)
		rc = jail_limit_caps(CAPS_READY, e);
	if (rc < 0)
		return rc;
	sh->ready = true;
	supervise_report(sh->report_fd, NULL);
	sh->report_fd = safe_close(sh->report_fd);
	sh->proc_fd = safe_close(sh->proc_fd);
	// Last: the kernel takes 5 to 20 ms for it, which nobody waits for now.
	sh->inotify_fd = safe_close(sh->inotify_fd);
	return 0;
}

static int check_ready(struct shim *sh, struct err *e)
{
	sh->retry_at_ns = 0; // also when it is ready: a time that is over would make poll spin
	if (sh->spec->pager_argv && !is_socket(JAIL_PAGER_SOCK))
		return 0;
	int rc = api_accepts();
	if (rc == 1)
		return become_ready(sh, e);
	if (rc == 0)
		return 0;
	if (rc != -ECONNREFUSED)
		return err_errno(e, rc, "connect to " JAIL_API_SOCK);
	sh->retry_ns = sh->retry_ns ? MIN(2 * sh->retry_ns, RETRY_MAX_NS) : RETRY_MIN_NS;
	sh->retry_at_ns = clock_monotonic_ns() + sh->retry_ns;
	return 0;
}

// ---- running

// Keeps the last line, made harmless: it goes into JSON and to users.
static void listen_to(struct voice *v, const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (data[i] != '\n') {
			bool plain = data[i] >= ' ' && data[i] <= '~';
			if (v->len < sizeof v->line - 1)
				v->line[v->len++] = plain ? data[i] : '?';
			continue;
		}
		if (v->len) {
			memcpy(v->last, v->line, v->len);
			v->last[v->len] = '\0';
		}
		v->len = 0;
	}
}

// Returns false when there is nothing more for now.
static bool read_vmm_log(struct shim *sh)
{
	char buf[16384];
	ssize_t n = sh->vmm_log_fd < 0 ? 0 : RETRY_EINTR(read(sh->vmm_log_fd, buf, sizeof buf));
	if (n > 0)
		boundlog_add(&sh->vmm_log, buf, (size_t)n);
	return n > 0;
}

// Of stdout (voice NULL) or a voice. Returns false when there is no more.
static bool read_output(struct shim *sh, struct voice *v)
{
	int *fd = v ? &v->fd : &sh->out_fd;
	char buf[65536];
	ssize_t n = *fd < 0 ? 0 : RETRY_EINTR(read(*fd, buf, sizeof buf));
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n <= 0) {
		*fd = safe_close(*fd);
		return false;
	}
	if (v) {
		boundlog_add(&sh->log, buf, (size_t)n);
		listen_to(v, buf, (size_t)n);
	} else {
		boundlog_add(&sh->console, buf, (size_t)n);
	}
	return true;
}

static void note_end(struct shim *sh, const char *who, const char *cause, int status)
{
	struct shim_exit *x = &sh->exit;
	sh->ended = true;
	x->status = status;
	snprintf(x->first, sizeof x->first, "%s", who);
	snprintf(x->cause, sizeof x->cause, "%s", cause);
}

// Did the pager end because of the VMM, or because it was told to after the VMM's end?
static bool pager_gave_no_cause(const struct shim *sh)
{
	int s = sh->pager_status;
	if (WIFEXITED(s))
		return WEXITSTATUS(s) == PAGER_SAW_END || WEXITSTATUS(s) == PAGER_BAD_HANDSHAKE;
	return sh->vmm_ended && WTERMSIG(s) == SIGTERM;
}

static void judge_end(struct shim *sh, uint64_t now)
{
	bool due = sh->judge_at_ns && now >= sh->judge_at_ns;
	if (sh->ended || (!sh->vmm_ended && !sh->pager_ended))
		return;
	if (!sh->exit.at_ns)
		sh->exit.at_ns = clock_realtime_ns();
	if (sh->stopping) {
		if (sh->vmm_ended)
			note_end(sh, "shim", "killed", sh->vmm_status);
	} else if (sh->pager_ended && !pager_gave_no_cause(sh)) {
		note_end(sh, "pager", "pager_lost", sh->pager_status);
	} else if (sh->vmm_ended && (!sh->pager || due)) {
		note_end(sh, "vmm", sh->vmm_status == 0 ? "vmm_exit" : "vmm_crash", sh->vmm_status);
	} else if (due) {
		note_end(sh, "pager", "pager_lost", sh->pager_status);
	} else if (sh->vmm_ended && !sh->judge_at_ns) {
		kill(sh->pager, SIGTERM); // where it waits for a VMM that never connected
		sh->judge_at_ns = now + PAGER_GRACE_NS;
	} else if (!sh->judge_at_ns) {
		sh->judge_at_ns = now + VMM_GRACE_NS;
	}
}

static void reap(struct shim *sh)
{
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
		if (pid == sh->vmm) {
			sh->vmm = 0;
			sh->vmm_ended = true;
			sh->vmm_status = status;
			sh->judge_at_ns = 0; // another wait begins
		} else if (pid == sh->pager) {
			sh->pager = 0;
			sh->pager_ended = true;
			sh->pager_status = status;
		}
	}
}

static void handle_signals(struct shim *sh)
{
	struct signalfd_siginfo si;
	while (read(sh->signal_fd, &si, sizeof si) == sizeof si) {
		if (si.ssi_signo == SIGCHLD) {
			reap(sh);
		} else if (si.ssi_signo == SIGUSR1) {
			// Before its socket is there it might not yet know the signal.
			if (sh->ready && sh->pager)
				kill(sh->pager, SIGUSR1);
		} else if (si.ssi_signo == SIGTERM && !sh->stopping && !sh->vmm_ended) {
			sh->stopping = true;
			sh->kill_at_ns = clock_monotonic_ns() + STOP_GRACE_NS;
			if (sh->vmm)
				kill(sh->vmm, SIGTERM);
		}
	}
}

static int next_timeout_ms(const struct shim *sh)
{
	const uint64_t times[] = {sh->kill_at_ns, sh->retry_at_ns, sh->judge_at_ns};
	uint64_t at = 0;
	for (size_t i = 0; i < ARRAY_SIZE(times); i++)
		if (times[i] && (!at || times[i] < at))
			at = times[i];
	if (!at)
		return -1;
	uint64_t now = clock_monotonic_ns();
	return now >= at ? 0 : (int)((at - now) / NSEC_PER_MSEC) + 1;
}

static int run_until_end(struct shim *sh, struct err *e)
{
	while (!sh->ended) {
		struct pollfd pf[] = {
			{.fd = sh->signal_fd, .events = POLLIN},
			{.fd = sh->out_fd, .events = POLLIN},
			{.fd = sh->vmm_err.fd, .events = POLLIN},
			{.fd = sh->pager_err.fd, .events = POLLIN},
			{.fd = sh->inotify_fd, .events = POLLIN},
			{.fd = sh->vmm_log_fd, .events = POLLIN},
		};
		if (poll(pf, ARRAY_SIZE(pf), next_timeout_ms(sh)) < 0 && errno != EINTR)
			return err_errno(e, errno, "poll");
		if (pf[1].revents)
			read_output(sh, NULL);
		if (pf[2].revents)
			read_output(sh, &sh->vmm_err);
		if (pf[3].revents)
			read_output(sh, &sh->pager_err);
		if (pf[5].revents)
			read_vmm_log(sh);
		if (pf[0].revents)
			handle_signals(sh);
		uint64_t now = clock_monotonic_ns();
		if (sh->kill_at_ns && now >= sh->kill_at_ns) {
			sh->kill_at_ns = 0;
			if (sh->vmm)
				kill(sh->vmm, SIGKILL);
		}
		judge_end(sh, now);
		if (sh->ready || sh->vmm_ended || sh->pager_ended)
			continue;
		if (pf[4].revents) {
			char events[4096];
			while (read(sh->inotify_fd, events, sizeof events) > 0)
				;
		}
		if (pf[4].revents || (sh->retry_at_ns && now >= sh->retry_at_ns)) {
			int rc = check_ready(sh, e);
			if (rc < 0)
				return rc;
		}
	}
	return 0;
}

// ---- end

static void end_everything(struct shim *sh)
{
	kill(-1, SIGKILL); // all of this PID namespace but itself
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	while (read_output(sh, NULL) || read_vmm_log(sh))
		;
	struct voice *const voices[] = {&sh->vmm_err, &sh->pager_err};
	for (size_t i = 0; i < ARRAY_SIZE(voices); i++) {
		while (read_output(sh, voices[i]))
			;
		listen_to(voices[i], "\n", 1); // a last line without its end counts
	}
}

static void write_exit(struct shim *sh)
{
	struct shim_exit *x = &sh->exit;
	char how[64];
	const char *said = strcmp(x->first, "pager") == 0 ? sh->pager_err.last : sh->vmm_err.last;
	proc_status_text(x->status, how, sizeof how);
	snprintf(x->detail, sizeof x->detail, "%s%s%s", how, said[0] ? ": " : "", said);
	_cleanup_free_ char *text = shim_exit_format(x);
	int rc = text ? file_write_atomic(sh->dir_fd, SHIM_EXIT_FILE, text, strlen(text), 0600)
		      : -ENOMEM;
	if (rc < 0)
		shim_log(sh, "write " SHIM_EXIT_FILE ": %s", strerror(-rc));
	shim_log(sh, "ended first=%s cause=%s detail=\"%s\"", x->first, x->cause, x->detail);
}

int supervise_run(const struct supervise *s)
{
	struct err e = {0};
	struct shim sh = {
		.spec = s->spec,
		.report_fd = s->report_fd,
		.dir_fd = -1,
		.runtime_fd = -1,
		.own_fd = -1,
		.proc_fd = -1,
		.signal_fd = -1,
		.inotify_fd = -1,
		.out_fd = -1,
		.vmm_log_fd = -1,
		.vmm_err = {.fd = -1},
		.pager_err = {.fd = -1},
		.console = {.fd = -1},
		.log = {.fd = -1},
		.vmm_log = {.fd = -1},
	};
	int rc = setup(&sh, s->lock_fd, &e);
	if (rc == 0)
		rc = run_until_end(&sh, &e);
	if (sh.vmm || sh.pager || sh.ended)
		end_everything(&sh);
	if (sh.ended && (rc = fault_hit("shim.before_exit", &e)) == 0)
		write_exit(&sh);
	if (rc == 0 && !sh.ready)
		rc = err_set(&e, ERR_INTERNAL, "the %s ended before its %s accepted: %s",
			strcmp(sh.exit.first, "pager") == 0 ? "pager" : "VMM",
			strcmp(sh.exit.first, "pager") == 0 ? "socket" : "API socket",
			sh.exit.detail);
	if (rc < 0) {
		shim_log(&sh, "%s", e.text);
		supervise_report(sh.report_fd, &e);
	}
	boundlog_done(&sh.console);
	boundlog_done(&sh.log);
	boundlog_done(&sh.vmm_log);
	return rc < 0 ? 1 : 0;
}
