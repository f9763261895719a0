// SPDX-License-Identifier: Apache-2.0
// What is in a file, with a length that holds: it is settled before anything is handed on.
#pragma once
#include "archive/entry.h"

struct packed_file {
	int fd; // -1: none
	// The parts that have data, in all `length` bytes; where holes, of a file of `size` bytes.
	struct archive_segment *segments;
	size_t n;
	uint64_t length, size;
	bool holes;
	size_t segment; // that is read from
	uint64_t in_segment;
	size_t head_len;
	char head[64u << 10];
};

// Takes fd, also when it fails. -EFBIG: a file without a size that goes on for more than 64 MiB.
int packed_open(struct packed_file *c, int fd);
// The count, 0 at its end, -ENODATA where the file ended before its length, or another -errno.
ssize_t packed_read(struct packed_file *c, char *buf, size_t max);
void packed_close(struct packed_file *c); // for the next one
void packed_done(struct packed_file *c);
