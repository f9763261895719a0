// SPDX-License-Identifier: Apache-2.0
// layers/<uuid>.sum: which blocks a layer holds, and a sum of each. Version 2, with sums of 64
// bits, is written; version 1, with 32, is read. Beside it what a layer holds while it is made. Of
// the files of this room that make, copy or verify layers; others see layer.h.
#pragma once
#include "snapshot/block.h"

struct layer_name {
	char data[UUID_SIZE + 4], data_tmp[UUID_SIZE + 4];
	char sums[UUID_SIZE + 4], sums_tmp[UUID_SIZE + 8];
};
struct layer_name layer_names(const char *id);

// What a layer holds, block by block and as ranges. Embedded: content_init ... content_done.
struct content {
	uint64_t size;
	uint64_t *sums; // little-endian, one per block
	struct header_range *ranges;
	size_t n, cap;
	uint64_t data_blocks, zero_blocks;
};
int content_init(struct content *c, uint64_t size);
void content_done(struct content *c);
// Blocks are added in ascending order.
int content_add(struct content *c, uint64_t block, uint64_t sum);

// Durable under its name when it returns 0; the directory is not synced.
int sums_write(int layers_fd, const struct layer_name *name, const char *id,
	const struct content *c, struct err *e);
// Fills in all of *l that tells of the sums.
int sums_open(int layers_fd, const char *id, uint64_t size, struct layer *l, struct err *e);
// n entries from that block on, as they are in the file: 32 bits of each sum in version 1.
int sums_read(const struct layer *l, uint64_t block, size_t n, uint64_t *ret, struct err *e);
// All of them, checked as a whole: their numbers, and in version 2 their checksum. *ret is the
// caller's.
int sums_read_all(const struct layer *l, uint64_t **ret, struct err *e);
uint64_t sums_file_size(const struct layer *l);

// All of it at that place: 0, -errno; reading, -ENODATA where the file ends early.
int layer_write_at(int fd, const void *data, size_t len, uint64_t offset);
int layer_read_at(int fd, void *data, size_t len, uint64_t offset);
// The next data extent at or after *at, widened to whole blocks: 1, 0 at the end, or -errno.
int layer_next_extent(int fd, uint64_t size, uint64_t *at, uint64_t *ret_end);
