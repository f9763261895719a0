// SPDX-License-Identifier: Apache-2.0
#include "agentclient/probe.h"
#include <arpa/inet.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include "base/clock.h"

static int wait_for(int fd, short events, uint64_t end)
{
	for (;;) {
		if (deadline_over(end))
			return -ETIMEDOUT;
		struct pollfd pf = {.fd = fd, .events = events};
		int n = poll(&pf, 1, deadline_left_ms(end));
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

// *ret is -1 on errors.
static int dial(const char *ip, uint16_t port, uint64_t end, int *ret)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	*ret = -1;
	if (fd < 0)
		return -errno;
	if (inet_pton(AF_INET, ip, &a.sin_addr) != 1)
		return -EINVAL;
	if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS)
		return -errno;
	int rc = wait_for(fd, POLLOUT, end), err = 0;
	socklen_t len = sizeof err;
	if (rc < 0)
		return rc;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 || err)
		return err ? -err : -errno;
	*ret = TAKE_FD(fd);
	return 0;
}

int envd_reach(const char *ip, uint16_t port, int timeout_ms)
{
	_cleanup_close_ int fd = -1;
	int rc = dial(ip, port, deadline_in_ms(timeout_ms), &fd);
	return rc == -ECONNREFUSED || rc == -ECONNRESET ? 0 : rc;
}

// Not by libcurl: this runs a hundred times while a guest boots and must cost nothing.
int envd_probe(const char *ip, uint16_t port, int timeout_ms)
{
	static const char request[] =
		"GET /health HTTP/1.1\r\nHost: envd\r\nConnection: close\r\n\r\n";
	uint64_t end = deadline_in_ms(timeout_ms);
	_cleanup_close_ int fd = -1;
	int rc = dial(ip, port, end, &fd);
	if (rc < 0)
		return rc;
	if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) != sizeof request - 1)
		return -ECONNRESET;
	// The connection stands, so the guest answers: an emulated one may need longer than the
	// limit.
	end = MAX(end, deadline_in_ms(1000));
	char head[16];
	size_t got = 0;
	while (got < 12) {
		if ((rc = wait_for(fd, POLLIN, end)) < 0)
			return rc;
		ssize_t n = recv(fd, head + got, sizeof head - got, 0);
		if (n == 0)
			return -ECONNRESET;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		got += n > 0 ? (size_t)n : 0;
	}
	return memcmp(head, "HTTP/1.1 204", 12) == 0 ? 0 : -EPROTO;
}
