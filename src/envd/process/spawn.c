// SPDX-License-Identifier: Apache-2.0
// How this works. The child is made by clone3 with CLONE_VM | CLONE_VFORK: it borrows our memory on
// a stack of its own while the calling thread sleeps, so nothing is copied, and it tells us of a
// failed step by plain assignment. CLONE_INTO_CGROUP puts it into its cgroup at birth (a move by
// cgroup.procs would wait for a grace period). In the child only raw system calls are allowed: the
// C library's set*id functions would broadcast to the threads of envd.
#include "envd/process/spawn.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "envd/process/env.h"
#include "envd/process/path.h"

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

#define STACK_SIZE (32u << 10)
#define OOM_SCORE_ADJ "100"

// The sanitizers' bookkeeping belongs to the parent, whose memory it is.
#define _in_child_ __attribute__((no_sanitize("address", "undefined", "thread")))

enum step { STEP_SETUP, STEP_USER, STEP_CWD, STEP_EXEC };

struct child {
	const struct spawn *s;
	const char *path; // PATH of the new environment
	enum step step;
	int errnum;
};

// execvpe by the new environment's PATH, without allocation.
_in_child_ static int exec_search(const struct spawn *s, const char *path)
{
	if (strchr(s->cmd, '/')) {
		execve(s->cmd, s->argv, s->env);
		return errno;
	}
	char full[PATH_SIZE];
	size_t name = strlen(s->cmd);
	int result = ENOENT;
	for (;;) {
		size_t n = strcspn(path, ":");
		if (n + 1 + name < sizeof full) {
			memcpy(full, path, n);
			if (n)
				full[n++] = '/';
			memcpy(full + n, s->cmd, name + 1);
			execve(full, s->argv, s->env);
			if (errno == EACCES)
				result = EACCES; // a later directory may still have it
			else if (errno != ENOENT && errno != ENOTDIR)
				return errno;
		}
		path += strcspn(path, ":");
		if (!*path)
			return result;
		path++;
	}
}

_in_child_ static int child_setup(const struct spawn *s)
{
	// Handlers are reset by exec; what we, or who started us, ignore would stay ignored.
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &dfl, NULL);
	if (setsid() < 0)
		return errno;
	if (s->tty && ioctl(s->fds[0], TIOCSCTTY, 0) < 0)
		return errno;
	for (int i = 0; i < 3; i++)
		if (dup2(s->fds[i], i) < 0)
			return errno;
	if (s->cgroup_ns_fd > 0 && setns(s->cgroup_ns_fd, CLONE_NEWCGROUP) < 0)
		return errno;
	if (s->nofile && setrlimit(RLIMIT_NOFILE, s->nofile) < 0)
		return errno;
	// Users' programs go before the agent when memory runs out. Not possible for an agent that
	// was started by hand with a higher value, and no reason to fail then.
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, OOM_SCORE_ADJ, strlen(OOM_SCORE_ADJ)) < 0)
		return 0;
	return 0;
}

_in_child_ static int child_become(const struct user *u)
{
	if (syscall(SYS_setgroups, u->n_groups, u->groups) < 0 ||
		syscall(SYS_setresgid, u->gid, u->gid, u->gid) < 0 ||
		syscall(SYS_setresuid, u->uid, u->uid, u->uid) < 0)
		return errno;
	return 0;
}

_in_child_ static int child_main(void *arg)
{
	struct child *c = arg;
	const struct spawn *s = c->s;
	c->step = STEP_SETUP;
	c->errnum = child_setup(s);
	if (!c->errnum && s->user) {
		c->step = STEP_USER;
		c->errnum = child_become(s->user);
	}
	if (!c->errnum) {
		c->step = STEP_CWD;
		c->errnum = chdir(s->cwd) < 0 ? errno : 0;
	}
	if (!c->errnum) {
		c->step = STEP_EXEC;
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		c->errnum = exec_search(s, c->path);
	}
	_exit(127);
}

// clone3 with a new stack has no C wrapper: the child cannot return to a caller's frame that it
// does not have.
static pid_t clone_child(struct clone_args *args, int (*fn)(void *), void *arg)
{
	long ret;
	register int (*call)(void *) __asm__("r12") = fn;
	register void *call_arg __asm__("r13") = arg;
	__asm__ volatile(
		"syscall\n\t"
		"test %%rax, %%rax\n\t"
		"jnz 1f\n\t"
		"xor %%ebp, %%ebp\n\t"
		"mov %%r13, %%rdi\n\t"
		"call *%%r12\n\t"
		"ud2\n"
		"1:"
		: "=a"(ret)
		: "0"((long)SYS_clone3), "D"(args), "S"(sizeof *args), "r"(call), "r"(call_arg)
		: "rcx", "r11", "memory");
	if (ret < 0) {
		errno = (int)-ret;
		return -1;
	}
	return (pid_t)ret;
}

static int explain(const struct child *c, struct err *e)
{
	const struct spawn *s = c->s;
	enum err_reason reason = ERR_REASON_NONE;
	switch (c->step) {
	case STEP_USER:
		if (c->errnum == EPERM)
			return err_set(e, ERR_FORBIDDEN,
				"cannot become user '%s': envd does not run as root",
				s->user->name);
		return err_errno(e, c->errnum, "cannot become user '%s'", s->user->name);
	case STEP_CWD:
		err_errno(e, c->errnum, "cannot use '%s' as working directory", s->cwd);
		break;
	case STEP_EXEC:
		if (c->errnum == ENOENT || c->errnum == ENOTDIR) {
			err_set(e, ERR_INVALID, "%s: no such program%s", s->cmd,
				strchr(s->cmd, '/') ? " (or its interpreter)" : " in PATH");
			reason = ERR_REASON_NO_PROGRAM;
		} else {
			err_errno(e, c->errnum, "cannot run %s", s->cmd);
			reason = ERR_REASON_CANNOT_RUN;
		}
		break;
	default:
		return err_errno(e, c->errnum, "cannot start %s", s->cmd);
	}
	if (e) {
		e->code = ERR_INVALID;
		e->reason = reason;
	}
	return -EINVAL;
}

int spawn_process(const struct spawn *s, pid_t *ret_pid, int *ret_pidfd, struct err *e)
{
	// The child's stack is part of ours: the caller sleeps until it is done with it.
	_Alignas(16) char stack[STACK_SIZE];
	int pidfd = -1;
	struct child c = {.s = s, .path = env_get(s->env, "PATH")};
	if (!c.path)
		c.path = ENV_PATH_DEFAULT;
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD |
			 (s->cgroup_fd >= 0 ? CLONE_INTO_CGROUP : 0),
		.pidfd = (uint64_t)(uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
		.stack = (uint64_t)(uintptr_t)stack,
		.stack_size = sizeof stack,
		.cgroup = s->cgroup_fd >= 0 ? (uint64_t)s->cgroup_fd : 0,
	};
	// No handler of ours may run on the borrowed memory.
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid_t pid = clone_child(&args, child_main, &c);
	int errnum = errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		return err_errno(e, errnum, "cannot start %s", s->cmd);
	if (c.errnum) {
		siginfo_t si;
		RETRY_EINTR(waitid(P_PID, (id_t)pid, &si, WEXITED));
		close(pidfd);
		return explain(&c, e);
	}
	*ret_pid = pid;
	*ret_pidfd = pidfd;
	return 0;
}
