// SPDX-License-Identifier: Apache-2.0
#include "shim/boundlog.h"
#include <fcntl.h>
#include <sys/stat.h>

// Keeps the newest *keep* bytes. Copied down within the file: its end is always after its start.
static void cut(struct boundlog *l, uint64_t keep)
{
	char buf[65536];
	uint64_t from = l->size - keep, done = 0;
	while (done < keep) {
		ssize_t n = pread(l->fd, buf, MIN(sizeof buf, keep - done), (off_t)(from + done));
		if (n > 0)
			n = pwrite(l->fd, buf, (size_t)n, (off_t)done);
		if (n <= 0)
			break;
		done += (uint64_t)n;
	}
	if (ftruncate(l->fd, (off_t)done) == 0)
		l->size = done;
}

int boundlog_open(struct boundlog *l, int dirfd, const char *path, uint64_t max)
{
	struct stat st;
	_cleanup_close_ int fd =
		openat(dirfd, path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	*l = (struct boundlog){.fd = TAKE_FD(fd), .size = (uint64_t)st.st_size, .max = max};
	if (l->size > max)
		cut(l, max / 2);
	return 0;
}

void boundlog_add(struct boundlog *l, const void *data, size_t len)
{
	const char *p = data;
	if (l->fd < 0)
		return;
	if (len > l->max / 2) { // its end alone is the newest half
		p += len - l->max / 2;
		len = l->max / 2;
		cut(l, 0);
	} else if (l->size + len > l->max) {
		cut(l, l->max / 2);
	}
	while (len && l->size + len <= l->max) {
		ssize_t n = pwrite(l->fd, p, len, (off_t)l->size);
		if (n <= 0)
			return;
		p += n;
		len -= (size_t)n;
		l->size += (uint64_t)n;
	}
}

void boundlog_done(struct boundlog *l)
{
	l->fd = safe_close(l->fd);
}
