// SPDX-License-Identifier: Apache-2.0
// How a diff becomes a layer.
#pragma once
#include "snapshot/layer.h"

// Of a diff.
struct layer_stats {
	uint64_t data_bytes; // kept: the layer's
	uint64_t zero_bytes; // zeros where the parent has none: in .sum and header alone
	uint64_t same_bytes; // left out, since the parent has the same; 0 where a repeated call
			     // does not know it
};

// Makes a layer of the diff that a VMM wrote: a sparse file as long as the memory in which data
// extents are dirty, zeros included. The file is not trusted: it must be a regular file with one
// name and of the right length. A VMM that runs on and still holds it open could change it later;
// the sums are taken here, so that a change is found at the block's next use, never served. Moves
// it (never copies; it must lie on the file system of layers_fd) to layers/<id>, durably, and gives
// the header of the child image: parent overlaid with the diff. A freshly booted guest's parent is
// header_new_zero. Blocks of the diff that are byte for byte the parent's are left out: the child's
// header shows the parent's there.
//
// The journal names id before the call, so that a collection leaves it alone. On error, or after a
// crash, the call may be repeated with the same id and parent and gives the same result: before the
// diff's zeros are punched out, the .sum file that remembers them is durable. A diff is not to be
// read as a diff by anything else after the first call.
int layer_ingest(int dirfd, const char *diff, int layers_fd, const char *id,
	const struct header *parent, const char *image, struct header **ret,
	struct layer_stats *ret_stats, struct err *e);
// The same where diff is a clone of a file that was just written: the bytes are read from that one
// (source, a regular file), whose pages are in memory, while a clone has none and comes from the
// disk. Where its dirty ranges are is the clone's word. A writer that still holds source and
// changes it spoils its own snapshot alone: what was read then does not match the clone, and is
// told at the block's first use.
int layer_ingest_from(int dirfd, const char *diff, int source, int layers_fd, const char *id,
	const struct header *parent, const char *image, struct header **ret,
	struct layer_stats *ret_stats, struct err *e);
