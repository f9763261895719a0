// SPDX-License-Identifier: Apache-2.0
// Child processes. A process is a pidfd, or pid and start time; never a bare pid that may have been
// given to another one.
#pragma once
#include <sys/types.h>
#include "base/err.h"
#include "base/str.h"

struct proc_fd_map {
	int parent_fd, child_fd;
};

struct proc_spawn {
	const char *const
		*argv; // NULL-terminated; argv[0] is looked up in PATH unless it has a slash
	const char *const *env;		    // NULL: inherits
	int stdin_fd, stdout_fd, stderr_fd; // -1: /dev/null (stdin, stdout), inherited (stderr)
	const struct proc_fd_map *fds;	    // further descriptors; all others are closed on exec
	size_t n_fds;
	bool new_session; // setsid: outlives the caller's terminal
	// Signal the child gets when the thread that called proc_spawn ends (0: none). Call it from
	// the main thread, which lives as long as the process.
	int death_signal;
};

// By vfork: the thread waits until the exec, others go on. A failure, of the exec too, is in the
// return value. *ret_pidfd is owned by the caller. Reap with proc_wait.
int proc_spawn(const struct proc_spawn *s, pid_t *ret_pid, int *ret_pidfd, struct err *e);
// Waits for and reaps a child. timeout_ms -1: for ever. 0, -ETIMEDOUT, -errno. *ret_status as
// waitpid.
int proc_wait(int pidfd, int timeout_ms, int *ret_status);
int proc_kill(int pidfd, int sig); // pidfd_send_signal; -ESRCH when it has ended
// SIGTERM, then SIGKILL after grace_ms, then reaps. *ret_status may be NULL.
int proc_stop(int pidfd, int grace_ms, int *ret_status);
int proc_pidfd_open(pid_t pid); // descriptor or -errno
// Start time in clock ticks since boot (field 22 of /proc/PID/stat): with the boot id it names a
// process.
int proc_start_time(pid_t pid, uint64_t *ret);
// "exit status 1", "signal: killed".
void proc_status_text(int status, char *out, size_t size);
// Runs to its end, whoever else holds its output then: stdout and stderr into *ret_out (may be
// NULL), 16 MiB at most. Kills it at the time-out. 0 only for exit status 0; else the error has the
// command and the end of what it said.
int proc_run(const char *const *argv, const void *input, size_t input_len, int timeout_ms,
	struct strbuf *ret_out, struct err *e);
