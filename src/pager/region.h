// SPDX-License-Identifier: Apache-2.0
// Which addresses of the VMM hold which part of guest memory: the JSON of Firecracker's hand-shake.
#pragma once
#include "base/err.h"

#define REGION_MAX 64u
#define REGION_MAX_JSON 16384u

struct region {
	uint64_t base; // address in the VMM's space
	uint64_t size;
	uint64_t offset; // in guest memory
};

struct region_map {
	struct region regions[REGION_MAX]; // sorted by base
	size_t n;
	bool write_protect; // registered for write-protect as well: copy with UFFDIO_COPY_MODE_WP
};

// Is text one whole JSON array, as far as brackets tell? 1, 0: more to come, -1: not an array, or
// something follows it.
int region_text_complete(const char *text, size_t len);
// All variants of Firecracker 1.1 and later; unknown keys are ignored. The regions must cover the
// memory of the given size exactly once. Pages larger than 4096 bytes are refused.
int region_parse(
	const char *text, size_t len, uint64_t memory_size, struct region_map *ret, struct err *e);
// The region that holds the address; NULL outside of all.
const struct region *region_at(const struct region_map *m, uint64_t address);
// The region that holds the offset of guest memory, which must be below its size.
const struct region *region_of_offset(const struct region_map *m, uint64_t offset);
