// SPDX-License-Identifier: Apache-2.0
// How this works. The file is read first: one that ends within the head is whole then; of a longer
// one the size that stat tells is promised; one that stat calls shorter than what was read (of
// /proc) is copied to memory.
#include "archive/packed_file.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "base/file.h"

#define MAX_SEGMENTS 65536	// beyond these, holes are sent as zeros
#define MAX_UNKNOWN (64u << 20) // of a file whose size nobody knows

static int add_segment(struct packed_file *c, uint64_t offset, uint64_t length)
{
	if ((c->n & (c->n - 1)) == 0) {
		struct archive_segment *s =
			reallocarray(c->segments, c->n ? 2 * c->n : 1, sizeof *s);
		if (!s)
			return -ENOMEM;
		c->segments = s;
	}
	c->segments[c->n++] = (struct archive_segment){offset, length};
	c->length += length;
	return 0;
}

// The parts that have data. A file without any has one of no length, at its end. -EOPNOTSUPP where
// the file system does not tell.
static int find_data(struct packed_file *c, uint64_t size)
{
	uint64_t at = 0;
	while (at < size) {
		off_t data = lseek(c->fd, (off_t)at, SEEK_DATA);
		if (data < 0 && errno != ENXIO)
			return -EOPNOTSUPP;
		if (data < 0 || (uint64_t)data >= size)
			break;
		off_t hole = c->n < MAX_SEGMENTS ? lseek(c->fd, data, SEEK_HOLE) : (off_t)size;
		if (hole <= data || (uint64_t)hole > size)
			hole = (off_t)size;
		int rc = add_segment(c, (uint64_t)data, (uint64_t)(hole - data));
		if (rc < 0)
			return rc;
		at = (uint64_t)hole;
	}
	return c->n ? 0 : add_segment(c, size, 0);
}

// Of a file whose length is not known: a copy takes its place. -EFBIG: it goes on and on.
static int read_to_end(struct packed_file *c)
{
	_cleanup_close_ int copy = memfd_create("pack", MFD_CLOEXEC);
	char buf[16384];
	uint64_t total = c->head_len;
	if (copy < 0)
		return -errno;
	int rc = file_write_full(copy, c->head, c->head_len);
	while (rc == 0) {
		ssize_t n = RETRY_EINTR(read(c->fd, buf, sizeof buf));
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		total += (uint64_t)n;
		rc = total > MAX_UNKNOWN ? -EFBIG : file_write_full(copy, buf, (size_t)n);
	}
	if (rc < 0)
		return rc;
	close(c->fd);
	c->fd = TAKE_FD(copy);
	return add_segment(c, 0, total);
}

static void forget_segments(struct packed_file *c)
{
	c->n = c->segment = 0;
	c->in_segment = c->length = 0;
}

static int measure(struct packed_file *c)
{
	struct stat st;
	bool end = false;
	forget_segments(c);
	c->head_len = 0;
	while (c->head_len < sizeof c->head && !end) {
		ssize_t n = RETRY_EINTR(
			read(c->fd, c->head + c->head_len, sizeof c->head - c->head_len));
		if (n < 0)
			return -errno;
		c->head_len += (size_t)n;
		end = n == 0;
	}
	if (fstat(c->fd, &st) < 0)
		return -errno;
	uint64_t size = (uint64_t)st.st_size;
	bool sized = end ? size == c->head_len : size >= c->head_len;
	if (!end && !sized)
		return read_to_end(c);
	if (sized && (uint64_t)st.st_blocks * 512 < size) {
		int rc = find_data(c, size);
		c->holes = rc == 0 && c->length < size;
		c->size = size;
		if (c->holes || rc == -ENOMEM)
			return rc;
		forget_segments(c);
	}
	return add_segment(c, 0, end ? c->head_len : size);
}

int packed_open(struct packed_file *c, int fd)
{
	c->fd = fd;
	c->holes = false;
	int rc = measure(c);
	if (!c->holes)
		c->size = c->length;
	if (rc < 0)
		packed_close(c);
	return rc;
}

ssize_t packed_read(struct packed_file *c, char *buf, size_t max)
{
	while (c->segment < c->n && c->in_segment == c->segments[c->segment].length) {
		c->segment++;
		c->in_segment = 0;
	}
	if (c->segment == c->n)
		return 0;
	const struct archive_segment *s = &c->segments[c->segment];
	uint64_t at = s->offset + c->in_segment;
	size_t want = (size_t)MIN((uint64_t)max, s->length - c->in_segment);
	ssize_t n;
	if (at < c->head_len) {
		n = (ssize_t)MIN(want, c->head_len - (size_t)at);
		memcpy(buf, c->head + at, (size_t)n);
	} else {
		n = RETRY_EINTR(pread(c->fd, buf, want, (off_t)at));
	}
	if (n <= 0)
		return n < 0 ? -errno : -ENODATA;
	c->in_segment += (uint64_t)n;
	return n;
}

void packed_close(struct packed_file *c)
{
	c->fd = safe_close(c->fd);
}

void packed_done(struct packed_file *c)
{
	packed_close(c);
	free(c->segments);
	c->segments = NULL;
}
