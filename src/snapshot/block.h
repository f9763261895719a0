// SPDX-License-Identifier: Apache-2.0
// An open layer, and the sums of its blocks. Who opens one is layer.h; the file of the sums is
// sums.h.
#pragma once
#include <endian.h>
#include <string.h>
#include "snapshot/header.h"

// Entries of a .sum file.
#define LAYER_SUM_ABSENT 0u   // the block is not the layer's
#define LAYER_SUMS_HEAD 4096u // bytes before them
#define LAYER_SUM_ZERO 1u     // the snapshot found the block written, and all zeros

struct layer {
	char id[UUID_SIZE];
	uint64_t size;	      // of the memory
	uint64_t data_blocks; // blocks with data; zero_blocks: of LAYER_SUM_ZERO
	uint64_t zero_blocks;
	int data_fd, sums_fd; // -1 once mapped
	const uint8_t *data;  // NULL until mapped
	const void *sums;     // entries, one per block; NULL until mapped
	unsigned entry;	      // bytes of one: 8; 4 in version 1 of the file
	uint64_t digest;      // of all entries; 0 in version 1
};

// Never LAYER_SUM_ABSENT or LAYER_SUM_ZERO.
uint64_t layer_sum(const void *block);
// Is that the sum of the block whose entry in the file is stored?
bool layer_sum_fits(const struct layer *l, uint64_t stored, uint64_t sum);
// Of the len bytes from offset on, of a layer whose sums are mapped: the offset of the first block
// in data (theirs) that does not fit its sum; offset + len when all do.
uint64_t layer_first_unfit(
	const struct layer *l, uint64_t offset, const uint8_t *data, uint64_t len);
// The i-th of entries as they are in the file.
static inline uint64_t layer_entry(const struct layer *l, const void *entries, uint64_t i)
{
	uint64_t wide;
	uint32_t narrow;
	if (l->entry == sizeof wide) {
		memcpy(&wide, (const uint8_t *)entries + i * sizeof wide, sizeof wide);
		return le64toh(wide);
	}
	memcpy(&narrow, (const uint8_t *)entries + i * sizeof narrow, sizeof narrow);
	return le32toh(narrow);
}
bool layer_block_is_zero(const void *block);
