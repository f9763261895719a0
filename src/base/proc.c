// SPDX-License-Identifier: Apache-2.0
#include "base/proc.h"
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/file.h"

extern char **environ;

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

int proc_pidfd_open(pid_t pid)
{
	long fd = syscall(SYS_pidfd_open, pid, 0);
	return fd < 0 ? -errno : (int)fd;
}

int proc_kill(int pidfd, int sig)
{
	return syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) < 0 ? -errno : 0;
}

// In the child, between vfork and exec: only async-signal-safe calls, and nothing is written to but
// the own stack and errno, for memory is the parent's. Comes with all signals blocked, so that no
// handler of the parent's runs here. Never returns; an errno goes up the pipe.
static _noreturn_ void child(const struct proc_spawn *s, pid_t parent, int report)
{
	// Move everything wanted above the range of the targets first, so that no dup2 overwrites a
	// source.
	int base = 64, src[3 + 32], dst[3 + 32];
	size_t n = 0;
	sigset_t none;
	sigemptyset(&none);
	for (int sig = 1; sig < 65; sig++)
		signal(sig, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (s->new_session)
		setsid();
	// A parent that ended before the prctl will send no signal any more.
	if (s->death_signal &&
		(prctl(PR_SET_PDEATHSIG, s->death_signal) < 0 || getppid() != parent))
		_exit(127);
	for (size_t i = 0; i < s->n_fds; i++)
		base = MAX(base, s->fds[i].child_fd + 1);
	if ((report = fcntl(report, F_DUPFD_CLOEXEC, base)) < 0)
		_exit(127);
	const int std[3] = {s->stdin_fd, s->stdout_fd, s->stderr_fd};
	for (int i = 0; i < 3; i++) {
		int fd = std[i];
		if (fd < 0 && i == 2)
			fd = 2;
		else if (fd < 0)
			fd = open("/dev/null", i ? O_WRONLY : O_RDONLY);
		if (fd < 0 || (src[n] = fcntl(fd, F_DUPFD_CLOEXEC, base)) < 0)
			goto fail;
		dst[n++] = i;
	}
	for (size_t i = 0; i < s->n_fds; i++) {
		if ((src[n] = fcntl(s->fds[i].parent_fd, F_DUPFD_CLOEXEC, base)) < 0)
			goto fail;
		dst[n++] = s->fds[i].child_fd;
	}
	// What some library opened without the flag must not get through either.
	if (syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
		goto fail;
	for (size_t i = 0; i < n; i++)
		if (dup2(src[i], dst[i]) < 0)
			goto fail;
	execvpe(s->argv[0], (char *const *)s->argv, s->env ? (char *const *)s->env : environ);
fail:;
	int err = errno;
	if (write(report, &err, sizeof err) < 0) {
		// the exit status tells it too
	}
	_exit(127);
}

int proc_spawn(const struct proc_spawn *s, pid_t *ret_pid, int *ret_pidfd, struct err *e)
{
	int p[2];
	if (s->n_fds > 32)
		return err_set(e, ERR_INVALID, "%s: too many descriptors", s->argv[0]);
	if (pipe2(p, O_CLOEXEC) < 0)
		return err_errno(e, errno, "pipe");
	_cleanup_close_ int rd = p[0], wr = p[1];
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	// Not fork: the tables of a server's memory take milliseconds to copy.
	pid_t parent = getpid(), pid = vfork();
	if (pid == 0)
		child(s, parent, wr);
	int failed = pid < 0 ? errno : 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (failed)
		return err_errno(e, failed, "vfork for %s", s->argv[0]);
	wr = safe_close(wr);
	_cleanup_close_ int pidfd = proc_pidfd_open(pid);
	int err = pidfd < 0 ? -pidfd : 0;
	if (!err && file_read_full(rd, &err, sizeof err) != sizeof err)
		err = 0;
	if (err) {
		kill(pid, SIGKILL); // still ours: not reaped yet
		RETRY_EINTR(waitpid(pid, NULL, 0));
		return err_errno(e, err, "start %s", s->argv[0]);
	}
	if (ret_pid)
		*ret_pid = pid;
	*ret_pidfd = TAKE_FD(pidfd);
	return 0;
}

int proc_wait(int pidfd, int timeout_ms, int *ret_status)
{
	struct pollfd pf = {.fd = pidfd, .events = POLLIN};
	uint64_t end = deadline_in_ms(timeout_ms);
	for (;;) {
		int n = poll(&pf, 1, deadline_left_ms(end));
		if (n == 0)
			return -ETIMEDOUT;
		if (n > 0)
			break;
		if (errno != EINTR)
			return -errno;
	}
	siginfo_t si = {0};
	if (RETRY_EINTR(waitid((idtype_t)P_PIDFD, (id_t)pidfd, &si, WEXITED)) < 0)
		return -errno;
	if (ret_status)
		*ret_status = si.si_code == CLD_EXITED ? W_EXITCODE(si.si_status, 0)
						       : W_EXITCODE(0, si.si_status);
	return 0;
}

int proc_stop(int pidfd, int grace_ms, int *ret_status)
{
	proc_kill(pidfd, SIGTERM);
	int rc = proc_wait(pidfd, grace_ms, ret_status);
	if (rc != -ETIMEDOUT)
		return rc;
	proc_kill(pidfd, SIGKILL);
	return proc_wait(pidfd, -1, ret_status);
}

int proc_start_time(pid_t pid, uint64_t *ret)
{
	char path[64];
	_cleanup_strbuf_ struct strbuf b = {0};
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	int rc = file_read(AT_FDCWD, path, 4096, &b);
	if (rc < 0)
		return rc == -ENOENT ? -ESRCH : rc;
	char *p = strrchr(b.data, ')'); // the name may hold blanks and brackets
	for (int field = 2; p && field < 22; field++)
		if ((p = strchr(p, ' ')))
			p++;
	if (!p)
		return -EBADMSG;
	*strchrnul(p, ' ') = '\0';
	return str_to_u64(p, UINT64_MAX, ret);
}

void proc_status_text(int status, char *out, size_t size)
{
	if (WIFSIGNALED(status)) {
		const char *d = sigdescr_np(WTERMSIG(status));
		snprintf(out, size, "signal: %s", d ? d : "unknown");
		if (size > 8 && out[8] >= 'A' && out[8] <= 'Z')
			out[8] = (char)(out[8] + 32);
	} else {
		snprintf(out, size, "exit status %d", WEXITSTATUS(status));
	}
}

#define RUN_OUTPUT_MAX (16u << 20)

// What proc_run has open, and what it has to pass on.
struct run {
	int pidfd, rd, wr; // its output, its input; -1: at its end
	const char *input;
	size_t input_len;
	struct strbuf text;
};

static void run_done(struct run *r)
{
	safe_close(r->pidfd);
	safe_close(r->rd);
	safe_close(r->wr);
	strbuf_done(&r->text);
}

static void run_write(struct run *r)
{
	ssize_t n = write(r->wr, r->input, r->input_len);
	if (n > 0) {
		r->input += n;
		r->input_len -= (size_t)n;
	}
	if ((n < 0 && errno != EAGAIN && errno != EINTR) || r->input_len == 0)
		r->wr = safe_close(r->wr);
}

// At most so many bytes.
static void run_read(struct run *r, size_t max)
{
	char buf[16384];
	ssize_t n = RETRY_EINTR(read(r->rd, buf, MIN(max, sizeof buf)));
	if (n <= 0)
		r->rd = safe_close(r->rd);
	else if (r->text.len < RUN_OUTPUT_MAX)
		strbuf_add(&r->text, buf, (size_t)n);
}

// What it wrote before its end. Whom it left behind may hold the pipe for ever.
static void run_read_rest(struct run *r)
{
	int left = 0;
	if (r->rd >= 0 && ioctl(r->rd, FIONREAD, &left) < 0)
		return;
	for (size_t before = r->text.len; r->rd >= 0 && left > 0; before = r->text.len) {
		run_read(r, (size_t)left);
		if (r->text.len == before)
			return;
		left -= (int)(r->text.len - before);
	}
}

// Until it has ended: 0, or -ETIMEDOUT and it was killed.
static int run_to_end(struct run *r, uint64_t end, int *ret_status)
{
	for (;;) {
		struct pollfd pf[3] = {{.fd = r->rd, .events = POLLIN},
			{.fd = r->wr, .events = POLLOUT}, {.fd = r->pidfd, .events = POLLIN}};
		if (deadline_over(end)) {
			proc_kill(r->pidfd, SIGKILL);
			int rc = proc_wait(r->pidfd, -1, ret_status);
			return rc < 0 ? rc : -ETIMEDOUT;
		}
		if (poll(pf, 3, deadline_left_ms(end)) <= 0)
			continue;
		if (pf[2].revents) {
			run_read_rest(r);
			return proc_wait(r->pidfd, -1, ret_status);
		}
		if (pf[1].revents)
			run_write(r);
		if (pf[0].revents)
			run_read(r, SIZE_MAX);
	}
}

static int run_failed(const char *program, int status, struct strbuf *text, struct err *e)
{
	char how[64];
	proc_status_text(status, how, sizeof how);
	while (text->len && (text->data[text->len - 1] == '\n' || text->data[text->len - 1] == ' '))
		text->data[--text->len] = '\0';
	const char *tail = text->len > 600 ? text->data + text->len - 600 : text->data;
	return err_set(
		e, ERR_INTERNAL, "%s: %s%s%s", program, how, tail ? ": " : "", tail ? tail : "");
}

int proc_run(const char *const *argv, const void *input, size_t input_len, int timeout_ms,
	struct strbuf *ret_out, struct err *e)
{
	int in[2] = {-1, -1}, out[2], status = 0;
	_cleanup_(run_done) struct run r = {
		.pidfd = -1, .rd = -1, .wr = -1, .input = input, .input_len = input_len};
	if (pipe2(out, O_CLOEXEC) < 0)
		return err_errno(e, errno, "pipe");
	r.rd = out[0];
	_cleanup_close_ int wr = out[1];
	if (input && pipe2(in, O_CLOEXEC) < 0)
		return err_errno(e, errno, "pipe");
	r.wr = in[1];
	_cleanup_close_ int in_rd = in[0];
	struct proc_spawn s = {.argv = argv, .stdin_fd = in_rd, .stdout_fd = wr, .stderr_fd = wr};
	int rc = proc_spawn(&s, NULL, &r.pidfd, e);
	if (rc < 0)
		return rc;
	wr = safe_close(wr);
	in_rd = safe_close(in_rd);
	if (r.wr >= 0)
		fcntl(r.wr, F_SETFL, O_NONBLOCK);
	rc = run_to_end(&r, deadline_in_ms(timeout_ms), &status);
	if (rc == -ETIMEDOUT)
		return err_set(e, ERR_TIMEOUT, "%s: no end after %d ms", argv[0], timeout_ms);
	if (rc < 0)
		return err_errno(e, rc, "wait for %s", argv[0]);
	if (status != 0)
		return run_failed(argv[0], status, &r.text, e);
	strbuf_add(&r.text, "", 0);
	if (ret_out) {
		*ret_out = r.text;
		r.text = (struct strbuf){0};
	}
	return 0;
}
