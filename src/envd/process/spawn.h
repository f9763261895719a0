// SPDX-License-Identifier: Apache-2.0
// Starts a program as a user, with as few system calls as can be: guests run under emulation ten to
// thirty times slower.
#pragma once
#include <sys/resource.h>
#include <sys/types.h>
#include "base/err.h"
#include "envd/process/users.h"

struct spawn {
	const char *cmd; // looked up in PATH of env unless it has a slash
	char *const *argv, *const *env;
	const char *cwd;	     // absolute
	int fds[3];		     // become 0, 1, 2; all else must be close-on-exec
	bool tty;		     // fds[0] is a terminal: becomes the controlling one
	const struct user *user;     // NULL: stays who we are
	int cgroup_fd;		     // -1: stays in ours
	int cgroup_ns_fd;	     // the cgroup namespace that it is to be in; 0: ours
	const struct rlimit *nofile; // NULL: ours
};

// The child is a session and group leader. *ret_pidfd is owned by the caller. A missing program or
// directory is ERR_INVALID.
int spawn_process(const struct spawn *s, pid_t *ret_pid, int *ret_pidfd, struct err *e);
