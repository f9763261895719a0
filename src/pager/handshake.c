// SPDX-License-Identifier: Apache-2.0
#include "pager/handshake.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "base/clock.h"
#include "base/fdpass.h"
#include "base/missing.h"
#include "base/proc.h"
#include "base/str.h"

int handshake_listen(const char *path, int *ret_fd, struct err *e)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct stat st;
	if (str_format(sa.sun_path, sizeof sa.sun_path, "%s.tmp", path) < 0)
		return err_set(e, ERR_INVALID, "%s: longer than a socket's path can be", path);
	if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
		return err_set(e, ERR_INVALID, "%s: exists and is not a socket", path);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(e, errno, "socket");
	if (unlink(sa.sun_path) < 0 && errno != ENOENT)
		return err_errno(e, errno, "%s", sa.sun_path);
	if (bind(fd, (const struct sockaddr *)&sa, sizeof sa) < 0)
		return err_errno(e, errno, "%s", sa.sun_path);
	if (chmod(sa.sun_path, 0600) < 0 || listen(fd, 1) < 0 || rename(sa.sun_path, path) < 0) {
		int r = err_errno(e, errno, "%s", path);
		unlink(sa.sun_path);
		return r;
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

// Until fd can be read, at most to the deadline: 0, -ETIMEDOUT.
static int wait_readable(int fd, uint64_t deadline)
{
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		int n = poll(&p, 1, deadline_left_ms(deadline));
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -ETIMEDOUT;
	}
}

static int accept_peer(int listen_fd, int timeout_ms, struct handshake *h, struct err *e)
{
	uint64_t deadline = deadline_in_ms(timeout_ms);
	int r = wait_readable(listen_fd, deadline);
	if (r == -ETIMEDOUT)
		return err_set(e, ERR_TIMEOUT, "no VMM connected within %d ms", timeout_ms);
	if (r == 0)
		h->socket = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (r < 0 || h->socket < 0)
		return err_errno(e, r < 0 ? r : errno, "accept");
	struct ucred peer;
	socklen_t len = sizeof peer;
	if (getsockopt(h->socket, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return err_errno(e, errno, "SO_PEERCRED");
	if (peer.uid != geteuid())
		return err_set(e, ERR_FORBIDDEN, "connection from uid %u; only %u is served",
			peer.uid, geteuid());
	h->pidfd = peer.pid > 0 ? MAX(proc_pidfd_open(peer.pid), -1) : -1;
	return 0;
}

// The stream may deliver the message in pieces; the descriptor comes with one of them.
static int receive(
	struct handshake *h, uint64_t deadline, char *text, size_t *ret_len, struct err *e)
{
	size_t len = 0;
	for (;;) {
		int complete = region_text_complete(text, len);
		if (complete < 0)
			return err_set(e, ERR_INVALID, "hand-shake: not a JSON array of regions");
		if (complete > 0)
			break;
		if (len == REGION_MAX_JSON)
			return err_set(e, ERR_INVALID, "hand-shake: longer than %u bytes",
				REGION_MAX_JSON);
		if (wait_readable(h->socket, deadline) < 0)
			return err_set(
				e, ERR_TIMEOUT, "hand-shake: the VMM did not finish it in time");
		ssize_t n =
			fdpass_receive(h->socket, text + len, REGION_MAX_JSON - len, &h->uffd, 0);
		if (n == -EAGAIN)
			continue;
		if (n < 0)
			return err_errno(e, (int)n, "hand-shake");
		if (n == 0)
			return err_set(e, ERR_INVALID,
				"hand-shake: the VMM closed the connection before its end");
		len += (size_t)n;
	}
	*ret_len = len;
	return 0;
}

static int check_uffd(const struct handshake *h, struct err *e)
{
	if (h->uffd < 0)
		return err_set(e, ERR_INVALID, "hand-shake: no userfaultfd came with the regions");
	// Waking nobody has no effect, and only a userfaultfd can do it.
	struct uffdio_range nobody = {h->map.regions[0].base, h->map.regions[0].size};
	if (ioctl(h->uffd, UFFDIO_WAKE, &nobody) < 0)
		return err_errno(
			e, errno, "hand-shake: the descriptor is not a working userfaultfd");
	int flags = fcntl(h->uffd, F_GETFL);
	if (flags < 0 || fcntl(h->uffd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_errno(e, errno, "hand-shake: userfaultfd");
	return 0;
}

int handshake_accept(
	int listen_fd, int timeout_ms, uint64_t memory_size, struct handshake *ret, struct err *e)
{
	struct handshake h = {.uffd = -1, .socket = -1, .pidfd = -1};
	_cleanup_free_ char *text = malloc(REGION_MAX_JSON);
	size_t len = 0;
	if (!text)
		return err_errno(e, ENOMEM, "hand-shake");
	int r = accept_peer(listen_fd, timeout_ms, &h, e);
	if (r == 0)
		r = receive(&h, deadline_in_ms(timeout_ms), text, &len, e);
	if (r == 0) {
		r = region_parse(text, len, memory_size, &h.map, e);
		if (r < 0)
			err_prefix(e, r, "hand-shake");
	}
	if (r == 0)
		r = check_uffd(&h, e);
	if (r < 0) {
		handshake_done(&h);
		return r;
	}
	*ret = h;
	return 0;
}

void handshake_done(struct handshake *h)
{
	h->uffd = safe_close(h->uffd);
	h->socket = safe_close(h->socket);
	h->pidfd = safe_close(h->pidfd);
}
