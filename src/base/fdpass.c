// SPDX-License-Identifier: Apache-2.0
#include "base/fdpass.h"
#include <string.h>
#include <sys/socket.h>

#define MAX_FDS 16 // what more a peer sends is closed by the kernel

ssize_t fdpass_send(int socket, const void *data, size_t len, int fd, int flags)
{
	union {
		char bytes[CMSG_SPACE(sizeof fd)];
		struct cmsghdr align;
	} control = {0};
	struct iovec io = {(void *)data, len};
	struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};
	if (fd >= 0) {
		m.msg_control = control.bytes;
		m.msg_controllen = sizeof control.bytes;
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(c), &fd, sizeof fd);
	}
	ssize_t n = RETRY_EINTR(sendmsg(socket, &m, MSG_NOSIGNAL | flags));
	return n < 0 ? -errno : n;
}

static void take(const struct cmsghdr *c, int *fd)
{
	for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof *fd; i++) {
		int got;
		memcpy(&got, CMSG_DATA(c) + i * sizeof got, sizeof got);
		if (*fd < 0)
			*fd = got;
		else
			close(got);
	}
}

ssize_t fdpass_receive(int socket, void *buf, size_t size, int *fd, int flags)
{
	union {
		char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec io = {buf, size};
	struct msghdr m = {.msg_iov = &io,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof control.bytes};
	ssize_t n = RETRY_EINTR(recvmsg(socket, &m, MSG_CMSG_CLOEXEC | flags));
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			take(c, fd);
	return n;
}
