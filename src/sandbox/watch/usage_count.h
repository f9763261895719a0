// SPDX-License-Identifier: Apache-2.0
// Files and whose they are, added up. Not for several threads.
#pragma once
#include <sys/stat.h>
#include "sandbox/types.h"
#include "sandbox/watch/usage_sweep.h"

struct usage_part {
	char kind[16]; // "": not an item (the host's own, a layer of several)
	char id[64];
	uint64_t plain;	   // blocks that no other file has
	uint64_t left_out; // shared, and too many to find out with whom
	uint64_t memory;   // of layers; own_layers: that it alone needs
	uint64_t own_layers, layers;
	uint64_t bytes, unique, common; // after usage_count_end
};

struct usage_count {
	const struct host_usage_ask *ask;
	uint64_t deadline_ns;
	struct usage_part *parts;
	size_t n, size;
	struct usage_edge *edges;
	size_t n_edges, edges_size;
	bool no_extents; // the file system does not tell them
	bool estimated;	 // there were too many
};

void usage_count_done(struct usage_count *u);
// Index of a new part, or -ENOMEM.
int usage_add_part(struct usage_count *u, const char *kind, const char *id);
// Adds a file's blocks to a part. What goes away meanwhile counts as nothing. -ECANCELED,
// -ETIMEDOUT, -ENOMEM. *ret_bytes (may be NULL): blocks in use.
int usage_add_file(
	struct usage_count *u, int dirfd, const char *name, size_t part, uint64_t *ret_bytes);
// All below it.
int usage_add_tree(struct usage_count *u, int dirfd, const char *name, size_t part);
// Fills in what follows of all; common with target (SIZE_MAX: none). *ret_once: all blocks, each
// once.
int usage_count_end(struct usage_count *u, size_t target, uint64_t *ret_once);
