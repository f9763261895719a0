// SPDX-License-Identifier: Apache-2.0
// The header of a memory image (memory.hdr, base.hdr): which layer holds each range of guest
// memory, and which ranges are zero. A range lies in its layer at the offset it has in memory.
//
// A header is never changed once it is made; it may be read from several threads.
#pragma once
#include "base/err.h"
#include "base/id.h"
#include "base/str.h"

#define SNAPSHOT_BLOCK 4096u
#define HEADER_MAX_SIZE (1ull << 40) // logical size, bytes
#define HEADER_MAX_LAYERS 4096u	     // a chain is merged long before
#define HEADER_MAX_MAPS (1u << 24)
#define HEADER_ZERO UINT32_MAX

struct header_map {
	uint64_t offset;
	uint32_t blocks; // length / SNAPSHOT_BLOCK, never 0
	uint32_t layer;	 // index in header.layers, or HEADER_ZERO
};

struct header {
	uint64_t size;	     // bytes, a multiple of SNAPSHOT_BLOCK
	uint64_t generation; // 0 for an empty image, parent's + 1 for each diff
	char image[UUID_SIZE];
	char base[UUID_SIZE]; // the image its lineage began with
	uint32_t n_layers;
	char (*layers)[UUID_SIZE]; // each is used by a mapping
	size_t n_maps;
	struct header_map *maps; // sorted, without gaps from 0 to size, no two neighbours alike
};

// One dirty range of a diff. Ranges are sorted, not empty, aligned to blocks, apart.
struct header_range {
	uint64_t offset, length;
	bool zero; // dirty, and all zeros
};

// All zeros: the parent of what a freshly booted guest wrote.
int header_new_zero(uint64_t size, const char *image, struct header **ret, struct err *e);
// The child's header: parent overlaid with ranges, which are zero or in the layer. Neighbours are
// joined, layers no longer used are left out. The parent is not touched.
int header_overlay(const struct header *parent, const char *image, const char *layer,
	const struct header_range *ranges, size_t n, struct header **ret, struct err *e);
struct header *header_free(struct header *h);
DEFINE_CLEANUP(struct header *, header_free)

// The mapping that holds the byte at offset, which must be below size. O(log n_maps).
const struct header_map *header_find(const struct header *h, uint64_t offset);
// Bytes held by layers (the rest is zero).
uint64_t header_data_bytes(const struct header *h);
static inline uint64_t header_map_end(const struct header_map *m)
{
	return m->offset + (uint64_t)m->blocks * SNAPSHOT_BLOCK;
}

// Appends the file's bytes. 0 or -ENOMEM.
int header_encode(const struct header *h, struct strbuf *out);
// The checksum at the end of the file. 0 or -ENOMEM.
int header_digest(const struct header *h, uint64_t *ret);
// Strict: whatever header_encode would not write is refused with the reason.
int header_decode(const void *data, size_t len, struct header **ret, struct err *e);
// Errors begin with the file's name. header_write is durable (file_write_atomic).
int header_read(int dirfd, const char *path, struct header **ret, struct err *e);
int header_write(int dirfd, const char *path, const struct header *h, struct err *e);
