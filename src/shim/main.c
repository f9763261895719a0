// SPDX-License-Identifier: Apache-2.0
// stasis-shim SPEC [REPORT-FD]: runs one sandbox (see shim.h). SPEC "-": standard input.
//
// Rights are given up in these stages:
//
//  stage     process   user       capabilities            sees
//  start     starter   root       all                     the host; ends after forking PID 1
//  build     PID 1     root       all                     the host; own PID and network namespaces
//  jailed    PID 1     root       KILL, SETUID, SETGID,   the jail; descriptors of <dir>, the logs,
//                                 DAC_OVERRIDE, CHOWN     the host's /proc. Nothing can be gained
//                                                         from here on (jail_seal)
//  started   PID 1     root       KILL, DAC_OVERRIDE,     same; DAC_OVERRIDE to connect to the
//                                 CHOWN                   socket, CHOWN to take /run away
//  ready     PID 1     root       KILL                    the jail; descriptors of <dir>, the logs
//  VMM       children  sandbox's  none                    the jail; stdin, stdout, stderr only
//
// PID 1 takes from the VMM only bytes on two pipes and its wait status, and interprets neither. It
// is another user than the VMM, so that the VMM can neither trace nor signal it.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include "base/fault.h"
#include "base/fdpass.h"
#include "base/file.h"
#include "base/log.h"
#include "base/proc.h"
#include "shim/spec.h"
#include "shim/supervise.h"

static int join_netns(const char *path, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
		return err_errno(e, errno, "network namespace %s", path);
	return 0;
}

// The starter gets a descriptor, not a number: PID 1 is this process's child and not reaped yet, so
// the number is still its own here.
static int send_pidfd(int report_fd, pid_t pid, struct err *e)
{
	_cleanup_close_ int pidfd = proc_pidfd_open(pid);
	if (pidfd < 0)
		return err_errno(e, pidfd, "open the new process");
	ssize_t n = fdpass_send(report_fd, "", 1, pidfd, 0);
	return n < 0 ? err_errno(e, (int)n, "hand over the new process") : 0;
}

// From standard input, which is then nobody's.
static int read_stdin(struct strbuf *ret)
{
	char chunk[4096];
	for (;;) {
		ssize_t n = RETRY_EINTR(read(STDIN_FILENO, chunk, sizeof chunk));
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		if (ret->len + (size_t)n > SHIM_FILE_MAX)
			return -EFBIG;
		strbuf_add(ret, chunk, (size_t)n);
	}
	_cleanup_close_ int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0)
		return -errno;
	return strbuf_check(ret);
}

static int start(const char *spec_path, int report_fd, struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_(spec_freep) struct spec *spec = NULL;
	int rc = strcmp(spec_path, "-") == 0 ? read_stdin(&text)
					     : file_read(AT_FDCWD, spec_path, SHIM_FILE_MAX, &text);
	if (rc < 0)
		return err_errno(e, rc, "read %s", spec_path);
	rc = spec_parse(text.data, text.len, &spec, e);
	if (rc < 0)
		return err_prefix(e, rc, "%s", spec_path);
	struct supervise s = {.spec = spec_get(spec), .report_fd = report_fd};

	_cleanup_close_ int dir = open(s.spec->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_errno(e, errno, "%s", s.spec->dir);
	_cleanup_close_ int lock = -1;
	pid_t holder;
	rc = file_lock(dir, SHIM_LOCK_FILE, &lock, &holder);
	if (rc == -EBUSY)
		return err_set(
			e, ERR_CONFLICT, "%s: already run by process %d", s.spec->dir, (int)holder);
	if (rc < 0)
		return err_errno(e, rc, "lock %s/" SHIM_LOCK_FILE, s.spec->dir);
	s.lock_fd = lock;

	rc = join_netns(s.spec->netns, e);
	if (rc < 0)
		return rc;
	if (unshare(CLONE_NEWPID) < 0)
		return err_errno(e, errno, "new PID namespace");
	pid_t pid = fork();
	if (pid < 0)
		return err_errno(e, errno, "fork");
	if (pid == 0) {
		rc = supervise_run(&s);
		spec_free(TAKE_PTR(spec));
		strbuf_done(&text);
		_exit(rc);
	}
	rc = report_fd < 0 ? 0 : send_pidfd(report_fd, pid, e);
	if (rc < 0)
		kill(pid, SIGKILL);
	return rc;
}

int main(int argc, char **argv)
{
	uint64_t report = 0;
	struct err e = {0};
	log_setup("stasis-shim", LOG_LEVEL_INFO);
	if (argc < 2 || argc > 3 || (argc == 3 && str_to_u64(argv[2], 1024, &report) < 0)) {
		fprintf(stderr, "usage: stasis-shim SPEC [REPORT-FD]\n");
		return 2;
	}
	int report_fd = argc == 3 ? (int)report : -1;
	// Whatever the starter forgot to close must not live as long as the sandbox.
	if ((report_fd > 3 && close_range(3, (unsigned)report_fd - 1, 0) < 0) ||
		close_range((unsigned)MAX(report_fd + 1, 3), ~0u, 0) < 0 ||
		(report_fd >= 0 && fcntl(report_fd, F_SETFD, FD_CLOEXEC) < 0)) {
		log_error("descriptors: %s", strerror(errno));
		return 1;
	}
	int rc = fault_setup(getenv("STASIS_FAULT"), &e);
	if (rc == 0)
		rc = start(argv[1], report_fd, &e);
	if (rc < 0 && report_fd >= 0)
		supervise_report(report_fd, &e);
	else if (rc < 0)
		log_error("%s", e.text);
	// No exit handlers: what they might start (LeakSanitizer does) would be born into the
	// sandbox's PID namespace.
	_exit(rc < 0);
}
