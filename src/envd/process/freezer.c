// SPDX-License-Identifier: Apache-2.0
#include "envd/process/freezer.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include "base/clock.h"

void freezer_init(struct freezer *f, int cgroup_fd)
{
	*f = (struct freezer){-1, -1};
	if (cgroup_fd < 0)
		return;
	f->freeze_fd = openat(cgroup_fd, "cgroup.freeze", O_RDWR | O_CLOEXEC);
	if (f->freeze_fd >= 0)
		f->events_fd = openat(cgroup_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
}

void freezer_done(struct freezer *f)
{
	f->freeze_fd = safe_close(f->freeze_fd);
	f->events_fd = safe_close(f->events_fd);
}

int freezer_set(const struct freezer *f, bool on)
{
	return pwrite(f->freeze_fd, on ? "1" : "0", 1, 0) == 1 ? 0 : -errno;
}

bool freezer_is_on(const struct freezer *f)
{
	char c = '0';
	return freezer_usable(f) && pread(f->freeze_fd, &c, 1, 0) == 1 && c == '1';
}

// Each read also tells the kernel which change the next poll is to wait for.
static int is_frozen(const struct freezer *f)
{
	char text[256];
	ssize_t n = RETRY_EINTR(pread(f->events_fd, text, sizeof text - 1, 0));
	if (n < 0)
		return -errno;
	text[n] = '\0';
	return strstr(text, "frozen 1\n") != NULL;
}

int freezer_wait(const struct freezer *f, uint64_t until_ns, int wake_fd)
{
	for (;;) {
		int rc = is_frozen(f);
		if (rc)
			return MIN(rc, 0);
		if (deadline_over(until_ns))
			return -ETIMEDOUT;
		struct pollfd pf[2] = {
			{.fd = f->events_fd, .events = POLLPRI}, {.fd = wake_fd, .events = POLLIN}};
		int n = poll(pf, 2, deadline_left_ms(until_ns));
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0 && pf[1].revents)
			return -ECANCELED;
	}
}
