// SPDX-License-Identifier: Apache-2.0
// The processes of the played VMs. A helper is forked before the test has threads; it makes one
// process for each request and outlives the servers that ask, so that these may be killed.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/file.h"
#include "played/played.h"

struct request {
	uint64_t nonce;
	char dir[256];
};
struct answer {
	uint64_t nonce;
	int32_t pid;
};

// Ends by SIGTERM, but not while the stage says that processes are stuck.
_noreturn_ static void vm(pid_t helper_pid)
{
	sigset_t set;
	siginfo_t info;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != helper_pid)
		_exit(0); // it was gone before
	prctl(PR_SET_NAME, "played-vm");
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	while (sigwaitinfo(&set, &info) != SIGTERM)
		;
	while (atomic_load(&world.stage->stuck))
		clock_sleep_ns(NSEC_PER_MSEC);
	_exit(0);
}

static void reap(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		atomic_fetch_sub(&world.stage->vms, 1);
}

_noreturn_ static void helper(int fd)
{
	sigset_t set;
	prctl(PR_SET_NAME, "played-born");
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	pid_t self = getpid();
	int ended = signalfd(-1, &set, SFD_CLOEXEC);
	for (;;) {
		struct request r;
		struct answer a;
		struct signalfd_siginfo info;
		struct pollfd pf[] = {
			{.fd = fd, .events = POLLIN}, {.fd = ended, .events = POLLIN}};
		if (poll(pf, 2, -1) < 0)
			continue;
		if (pf[1].revents && read(ended, &info, sizeof info) > 0)
			reap();
		if (!pf[0].revents)
			continue;
		if (recv(fd, &r, sizeof r, 0) != sizeof r)
			_exit(0); // its VMs end with it
		pid_t pid = fork();
		if (pid == 0)
			vm(self);
		atomic_fetch_add(&world.stage->vms, 1);
		// Before the answer: who asked may be gone.
		char path[300], text[16];
		snprintf(path, sizeof path, "%s/pid", r.dir);
		int len = snprintf(text, sizeof text, "%d", (int)pid);
		_cleanup_close_ int out =
			open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (out < 0 || write(out, text, (size_t)len) != len)
			kill(pid, SIGKILL);
		a = (struct answer){r.nonce, pid};
		send(fd, &a, sizeof a, MSG_NOSIGNAL);
	}
}

static int start_helper(void)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	world.born_pid = fork();
	if (world.born_pid < 0)
		return -errno;
	if (world.born_pid == 0) {
		close(pair[0]);
		helper(pair[1]);
	}
	close(pair[1]);
	world.born = pair[0];
	return 0;
}

int born_start(const char *dir, pid_t *ret)
{
	if (!dir)
		return start_helper();
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static _Atomic uint32_t count;
	// Answers to servers that were killed while they waited are passed over.
	struct request r = {.nonce = (uint64_t)getpid() << 32 | ++count};
	struct answer a = {0};
	snprintf(r.dir, sizeof r.dir, "%s", dir);
	pthread_mutex_lock(&lock);
	int rc = send(world.born, &r, sizeof r, MSG_NOSIGNAL) == sizeof r ? 0 : -errno;
	while (rc == 0 && a.nonce != r.nonce)
		if (recv(world.born, &a, sizeof a, 0) != sizeof a)
			rc = -EIO;
	pthread_mutex_unlock(&lock);
	*ret = a.pid;
	return rc;
}

void born_stop(void)
{
	atomic_store(&world.stage->stuck, 0);
	world.born = safe_close(world.born);
	kill(world.born_pid, SIGKILL);
	waitpid(world.born_pid, NULL, 0);
}
