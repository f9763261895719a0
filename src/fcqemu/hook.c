// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/hook.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include "base/clock.h"
#include "base/fdpass.h"
#include "fcqemu/ramhook.h"

static int send_request(int fd, const struct hook_request *r, int file)
{
	size_t len = offsetof(struct hook_request, ranges) + r->n * sizeof r->ranges[0];
	ssize_t n = fdpass_send(fd, r, len, file, MSG_DONTWAIT);
	return n >= 0 ? 0 : n == -EAGAIN ? -ETIMEDOUT : (int)n;
}

// Replies to requests that were given up are passed over.
static int wait_reply(int fd, uint64_t id, int timeout_ms)
{
	uint64_t deadline = deadline_in_ms(timeout_ms);
	for (;;) {
		struct hook_reply r;
		struct pollfd pf = {.fd = fd, .events = POLLIN};
		int n = poll(&pf, 1, deadline_left_ms(deadline));
		if (n == 0)
			return -ETIMEDOUT;
		if (n < 0 && errno == EINTR)
			continue;
		ssize_t got = n < 0 ? -1 : recv(fd, &r, sizeof r, MSG_DONTWAIT);
		if (got < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return -ECONNRESET;
		if (got != sizeof r)
			return -EBADMSG;
		if (r.id == id)
			return r.error > 0 && r.error < 4096 ? -(int)r.error
							     : -(r.error != 0) * EIO;
	}
}

static int request(
	int fd, struct hook_request *r, uint64_t *last_id, int file, int timeout_ms, struct err *e)
{
	if (!r->n)
		return 0;
	r->id = ++*last_id;
	int rc = send_request(fd, r, file);
	if (rc == 0)
		rc = wait_reply(fd, r->id, timeout_ms);
	r->n = 0;
	if (rc == -ETIMEDOUT)
		return err_set(e, ERR_TIMEOUT,
			"QEMU did not write guest memory in time (is its page server alive?)");
	if (rc == -ECONNRESET || rc == -EPIPE)
		return err_set(e, ERR_BAD_GATEWAY, "QEMU ended while it wrote guest memory");
	return rc < 0 ? err_errno(e, rc, "writing guest memory") : 0;
}

static int write_zeros(int file, uint64_t offset, uint64_t len, struct err *e)
{
	static const char zeros[65536];
	while (len) {
		ssize_t n = RETRY_EINTR(
			pwrite(file, zeros, (size_t)MIN(len, sizeof zeros), (off_t)offset));
		if (n <= 0)
			return err_errno(e, n < 0 ? errno : EIO, "writing guest memory");
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

int hook_write(int control_fd, uint64_t *last_id, int file, const struct dirty_range *ranges,
	size_t n, bool skip_zeros, int timeout_ms, struct err *e)
{
	struct hook_request r = {.skip_zeros = skip_zeros};
	uint64_t bytes = 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t at = ranges[i].offset, end = at + ranges[i].length;
		if (ranges[i].zero) {
			int rc = write_zeros(file, at, end - at, e);
			if (rc < 0)
				return rc;
			continue;
		}
		while (at < end) {
			uint64_t len = MIN(end - at, HOOK_BYTES_MAX - bytes);
			r.ranges[r.n++] = (struct hook_range){at, len};
			at += len;
			bytes += len;
			if (r.n < HOOK_RANGES_MAX && bytes < HOOK_BYTES_MAX)
				continue;
			int rc = request(control_fd, &r, last_id, file, timeout_ms, e);
			if (rc < 0)
				return rc;
			bytes = 0;
		}
	}
	return request(control_fd, &r, last_id, file, timeout_ms, e);
}
