// SPDX-License-Identifier: Apache-2.0
// Layers: what one snapshot added to its parent. layers/<uuid> is a sparse file as long as the
// memory, each block at its own offset; layers/<uuid>.sum says which blocks are the layer's and
// keeps 32 bits of XXH3 of each. Neither is changed once layers/<uuid> exists under that name.
//
// A hole of a layer means nothing by itself: headers say which ranges come from which layer.
#pragma once
#include "snapshot/header.h"

// Entries of a .sum file.
#define LAYER_SUM_ABSENT 0u // the block is not the layer's
#define LAYER_SUM_ZERO 1u   // the snapshot found the block written, and all zeros

struct layer {
	char id[UUID_SIZE];
	uint64_t size;	      // of the memory
	uint64_t data_blocks; // blocks with data; zero_blocks: of LAYER_SUM_ZERO
	uint64_t zero_blocks;
	int data_fd, sums_fd; // -1 once mapped
	const uint8_t *data;  // NULL until mapped
	const uint32_t *sums; // little-endian, one per block; NULL until mapped
};

struct layer_stats {
	uint64_t data_bytes, zero_bytes;
};

// Never LAYER_SUM_ABSENT or LAYER_SUM_ZERO.
uint32_t layer_sum(const void *block);
bool layer_block_is_zero(const void *block);

// Makes a layer of the diff that a VMM wrote: a sparse file as long as the memory in which data
// extents are dirty, zeros included. The file is not trusted: it must be a regular file with one
// name and of the right length. A VMM that runs on and still holds it open could change it later;
// the sums are taken here, so that a change is found at the block's next use, never served. Moves
// it (never copies; it must lie on the file system of layers_fd) to layers/<id>, durably, and gives
// the header of the child image: parent overlaid with the diff. A freshly booted guest's parent is
// header_new_zero.
//
// The journal names id before the call, so that a collection leaves it alone. On error, or after a
// crash, the call may be repeated with the same id and parent and gives the same result: before the
// diff's zeros are punched out, the .sum file that remembers them is durable. A diff is not to be
// read as a diff by anything else after the first call.
int layer_ingest(int dirfd, const char *diff, int layers_fd, const char *id,
	const struct header *parent, const char *image, struct header **ret,
	struct layer_stats *ret_stats, struct err *e);

// Merges the layers of an image into the new layer id and gives the header of the same image (same
// ids, same generation) with that one layer, or none if all is zero. Every block is checked on the
// way; its sum is taken along. Shares blocks (FICLONERANGE) where the file system can. The old
// layers stay. May be repeated with the same id after a crash.
int layer_merge(
	const struct header *h, int layers_fd, const char *id, struct header **ret, struct err *e);

// Writes the whole image into an empty file, sparse; every block is checked on the way. Not
// fsynced.
int layer_materialise(const struct header *h, int layers_fd, int out_fd, struct err *e);

// Can the image be mapped as it lies in its single layer (holes and all)? True for a layer made
// from a booted guest or by a merge. *ret_layer is the index in h->layers.
int layer_is_flat(const struct header *h, int layers_fd, bool *ret, struct err *e);

// Opens for reading; both files must be whole and fit size.
int layer_open(int layers_fd, const char *id, uint64_t size, struct layer *ret, struct err *e);
void layer_close(struct layer *l); // unmaps too; a zeroed or closed layer is fine
// Maps data and sums read-only and closes the descriptors: a later truncation is SIGBUS.
int layer_map(struct layer *l, struct err *e);
// Reads len bytes at offset (both multiples of SNAPSHOT_BLOCK) into buf and checks each block: one
// that is not the layer's, or does not match its sum, is an error that names layer and offset.
int layer_read(const struct layer *l, uint64_t offset, uint64_t len, void *buf, struct err *e);
// Reads all data, compares all sums; blocks without data must read as zeros.
int layer_verify(const struct layer *l, struct err *e);
// layer_verify of a layer that is about to be mapped by a VMM (which checks nothing), at most once
// in the boot of the host: record_dir (made if absent; below the run directory) remembers it, until
// one of the two files changes. What cannot be recorded is verified again next time. Costs a few
// system calls when it is known; callers at the same time may both verify.
int layer_verify_once(
	int layers_fd, const char *id, uint64_t size, const char *record_dir, struct err *e);
// Removes both files; missing ones are fine. data first: what is left after a crash is collected.
int layer_remove(int layers_fd, const char *id);
