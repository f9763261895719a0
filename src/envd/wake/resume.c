// SPDX-License-Identifier: Apache-2.0
// How the connections are ended. sock_diag lists the sockets; each is then destroyed by its cookie
// over a second netlink socket (SOCK_DESTROY), while the list is still being read. A walk goes over
// the whole hash table, which after a resume is not in memory yet: so there is only one, by the
// request of old that knows no address families (TCPDIAG_GETSOCK) and gives all.
#include "envd/wake/resume.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "envd/process/path.h"
#include "envd/process/spawn.h"

// --- the clock's rate

#define TICK_EVEN 10000
#define TICK_MAX_STEP 1000	       // the kernel takes 9000 to 11000
#define STEP_FREQ ((int64_t)100 << 16) // 1 us in 10 ms, in 2^-16 ppm

int clock_rate_plan(int ppm, long *ret_tick, long *ret_freq)
{
	if (ppm <= -1000000 || ppm >= 1000000)
		return -ERANGE;
	// A counter that runs (1 + p) times too fast asks for a clock of 1/(1 + p).
	int64_t million = 1000000, freq = -(int64_t)ppm * million * 65536 / (million + ppm);
	int64_t half = freq < 0 ? -STEP_FREQ / 2 : STEP_FREQ / 2;
	int64_t steps = (freq + half) / STEP_FREQ;
	if (steps < -TICK_MAX_STEP || steps > TICK_MAX_STEP)
		return -ERANGE;
	*ret_tick = TICK_EVEN + (long)steps;
	*ret_freq = (long)(freq - steps * STEP_FREQ);
	return 0;
}

int clock_rate_set(int ppm, struct err *e)
{
	struct timex t = {.modes = ADJ_TICK | ADJ_FREQUENCY};
	if (clock_rate_plan(ppm, &t.tick, &t.freq) < 0)
		return err_set(e, ERR_INVALID,
			"clockPpm: %d is more than the guest's clock can be adjusted by", ppm);
	if (adjtimex(&t) < 0)
		return err_errno(e, errno, "cannot set the rate of the clock");
	return 0;
}

// --- connections

#define STATE(s) (1u << (s))
#define STATES                                                                                     \
	(STATE(TCP_ESTABLISHED) | STATE(TCP_SYN_RECV) | STATE(TCP_FIN_WAIT1) |                     \
		STATE(TCP_FIN_WAIT2) | STATE(TCP_CLOSE_WAIT) | STATE(TCP_LAST_ACK) |               \
		STATE(TCP_CLOSING))

static int diag_send(
	int fd, unsigned short type, unsigned short flags, const void *body, size_t size)
{
	struct nlmsghdr head = {.nlmsg_len = (uint32_t)(sizeof head + size),
		.nlmsg_type = type,
		.nlmsg_flags = (unsigned short)(NLM_F_REQUEST | flags)};
	struct iovec parts[] = {{&head, sizeof head}, {(void *)body, size}};
	return writev(fd, parts, 2) == (ssize_t)head.nlmsg_len ? 0 : -errno;
}

static bool is_loopback(const struct inet_diag_msg *m)
{
	static const uint32_t one[4] = {0, 0, 0, 0x01000000};
	const uint32_t *a = m->id.idiag_dst;
	if (m->idiag_family == AF_INET)
		return (ntohl(a[0]) >> 24) == 127;
	if (a[0] == 0 && a[1] == 0 && a[2] == htonl(0xffff)) // an IPv4 address
		return (ntohl(a[3]) >> 24) == 127;
	return memcmp(a, one, sizeof one) == 0;
}

// Asks for the end of one; 0 also when it ended by itself meanwhile.
static int destroy(int fd, const struct inet_diag_msg *m)
{
	const struct inet_diag_req_v2 body = {.sdiag_family = m->idiag_family,
		.sdiag_protocol = IPPROTO_TCP,
		.idiag_states = STATES,
		.id = m->id};
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
		char rest[256];
	} answer;
	int rc = diag_send(fd, SOCK_DESTROY, NLM_F_ACK, &body, sizeof body);
	if (rc < 0)
		return rc;
	ssize_t n = RETRY_EINTR(recv(fd, &answer, sizeof answer, 0));
	if (n < (ssize_t)(sizeof answer.head + sizeof answer.error.error) ||
		answer.head.nlmsg_type != NLMSG_ERROR)
		return -EPROTO;
	rc = answer.error.error;
	return rc == -ENOENT ? 0 : rc;
}

// One read's worth of the list. 1: that was the end.
static int take_list(int kill_fd, const char *data, size_t len, uint64_t keep, unsigned *count)
{
	const struct nlmsghdr *h = (const struct nlmsghdr *)data;
	for (; NLMSG_OK(h, len); h = NLMSG_NEXT(h, len)) {
		if (h->nlmsg_type == NLMSG_DONE)
			return 1;
		if (h->nlmsg_type == NLMSG_ERROR) {
			const struct nlmsgerr *error = NLMSG_DATA(h);
			return h->nlmsg_len < NLMSG_LENGTH(sizeof *error) || !error->error
				       ? -EPROTO
				       : error->error;
		}
		const struct inet_diag_msg *m = NLMSG_DATA(h);
		if (h->nlmsg_len < NLMSG_LENGTH(sizeof *m))
			return -EPROTO;
		uint64_t cookie = (uint64_t)m->id.idiag_cookie[1] << 32 | m->id.idiag_cookie[0];
		if (cookie == keep || is_loopback(m))
			continue;
		int rc = destroy(kill_fd, m);
		if (rc < 0)
			return rc;
		++*count;
	}
	return 0;
}

static int end_all(uint64_t keep, unsigned *count)
{
	const struct inet_diag_req body = {.idiag_states = STATES};
	_Alignas(struct nlmsghdr) char data[8192];
	_cleanup_close_ int list = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	_cleanup_close_ int kill_fd =
		socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (list < 0 || kill_fd < 0)
		return -errno;
	int rc = diag_send(list, TCPDIAG_GETSOCK, NLM_F_DUMP, &body, sizeof body);
	while (rc == 0) {
		ssize_t n = RETRY_EINTR(recv(list, data, sizeof data, 0));
		rc = n < 0 ? -errno : n == 0 ? -EPROTO : 0;
		if (rc == 0)
			rc = take_list(kill_fd, data, (size_t)n, keep, count);
	}
	return MIN(rc, 0);
}

static bool peer_is_away(int fd)
{
	struct inet_diag_msg m = {0};
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} peer;
	socklen_t len = sizeof peer;
	if (getpeername(fd, &peer.any, &len) < 0)
		return false;
	m.idiag_family = (unsigned char)peer.any.sa_family;
	if (peer.any.sa_family == AF_INET)
		memcpy(m.id.idiag_dst, &peer.in.sin_addr, sizeof peer.in.sin_addr);
	else if (peer.any.sa_family == AF_INET6)
		memcpy(m.id.idiag_dst, &peer.in6.sin6_addr, sizeof peer.in6.sin6_addr);
	else
		return false;
	return !is_loopback(&m);
}

// Those of this process, without the kernel's help.
static void end_own(int keep_fd)
{
	DIR *d = opendir("/proc/self/fd");
	if (!d)
		return;
	for (struct dirent *de; (de = readdir(d));) {
		uint64_t fd;
		if (str_to_u64(de->d_name, INT32_MAX, &fd) < 0 || (int)fd == keep_fd)
			continue;
		if (peer_is_away((int)fd))
			shutdown((int)fd, SHUT_RDWR);
	}
	closedir(d);
}

int resume_end_connections(int keep_fd)
{
	uint64_t keep = 0;
	socklen_t len = sizeof keep;
	unsigned count = 0;
	if (keep_fd >= 0 && getsockopt(keep_fd, SOL_SOCKET, SO_COOKIE, &keep, &len) < 0)
		return -errno;
	int rc = end_all(keep, &count);
	if (rc < 0) {
		// ENOENT: no module for it; EOPNOTSUPP: a kernel without SOCK_DESTROY.
		log_warn("connections of before the resume stay open error=%s", strerror(-rc));
		end_own(keep_fd);
		return -EOPNOTSUPP;
	}
	log_debug("connections of before the resume were ended count=%u", count);
	return 0;
}

// --- hooks

#define HOOKS_CGROUP "stasis-hooks"

static int is_program(const struct dirent *de)
{
	size_t n = strlen(de->d_name);
	return de->d_name[0] != '.' && de->d_name[n - 1] != '~';
}

// The whole tree, mounted nowhere: what the guest sees of it is frozen.
static int open_all_cgroups(void)
{
	_cleanup_close_ int fs = fsopen("cgroup2", FSOPEN_CLOEXEC);
	if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -1;
	return fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
}

// Where they can be found again to be killed; -1: in ours.
static int hooks_cgroup(void)
{
	_cleanup_close_ int all = open_all_cgroups();
	// A new one each time: Linux 6.18 kills at birth in one whose processes were killed before.
	if (all >= 0)
		unlinkat(all, HOOKS_CGROUP, AT_REMOVEDIR);
	if (all < 0 || (mkdirat(all, HOOKS_CGROUP, 0755) < 0 && errno != EEXIST))
		return -1;
	return openat(all, HOOKS_CGROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void kill_hook(int cgroup, pid_t pid)
{
	if (cgroup < 0 || file_write_existing(cgroup, "cgroup.kill", "1") < 0)
		kill(-pid, SIGKILL);
}

static void run_hook(const char *path, char *const *env, int cgroup, int null, uint64_t until_ns)
{
	struct err e = {0};
	char *const argv[] = {(char *)path, NULL};
	const struct spawn s = {.cmd = path,
		.argv = argv,
		.env = env,
		.cwd = "/",
		.fds = {null, null, null},
		.cgroup_fd = cgroup};
	pid_t pid;
	_cleanup_close_ int pidfd = -1;
	siginfo_t si = {0};
	if (spawn_process(&s, &pid, &pidfd, &e) < 0) {
		log_warn("resume hook does not start file=%s error=%s", path, err_text(&e, 0));
		return;
	}
	struct pollfd pf = {.fd = pidfd, .events = POLLIN};
	int n = RETRY_EINTR(poll(&pf, 1, deadline_left_ms(until_ns)));
	if (n <= 0) {
		log_warn("resume hook is killed: out of time file=%s", path);
		kill_hook(cgroup, pid);
	}
	RETRY_EINTR(waitid(P_PID, (id_t)pid, &si, WEXITED));
	if (n > 0 && (si.si_code != CLD_EXITED || si.si_status != 0))
		log_warn("resume hook failed file=%s %s=%d", path,
			si.si_code == CLD_EXITED ? "status" : "signal", si.si_status);
}

void resume_run_hooks(const char *directory, char *const *env)
{
	if (access(directory, X_OK) < 0)
		return;
	struct dirent **list = NULL;
	int n = scandir(directory, &list, is_program, alphasort);
	_cleanup_close_ int cgroup = n > 0 ? hooks_cgroup() : -1;
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	uint64_t until = clock_monotonic_ns() + RESUME_HOOKS_LIMIT_NS;
	for (int i = 0; i < n; i++) {
		char path[PATH_SIZE];
		struct stat st;
		if (str_format(path, sizeof path, "%s/%s", directory, list[i]->d_name) == 0 &&
			null >= 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
			(st.st_mode & 0111)) {
			if (!deadline_over(until))
				run_hook(path, env, cgroup, null, until);
			else
				log_warn("resume hook is left out: no time file=%s", path);
		}
		free(list[i]);
	}
	free(list);
}
