// SPDX-License-Identifier: Apache-2.0
// The map of a file with holes in a tar archive (GNU's sparse format 1.0): decimal numbers, a line
// each: how many parts of data there are, then the offset and length of each; filled up to the next
// block. Stands before the data.
#pragma once
#include "archive/entry.h"
#include "base/err.h"

struct sparse_map {
	struct archive_segment *segments; // ascending, within the file, once it is whole
	size_t n;
	size_t numbers; // read so far
	uint64_t taken, number;
	bool digits;
};

void sparse_map_reset(struct sparse_map *m);
void sparse_map_done(struct sparse_map *m);
// stored: bytes of map and data in the archive; size: of the file. The count of bytes taken, with
// *ret_whole set when the rest is data; ERR_INVALID for a map that does not fit these.
ssize_t sparse_map_feed(struct sparse_map *m, const char *data, size_t len, uint64_t stored,
	uint64_t size, bool *ret_whole, struct err *e);
