// SPDX-License-Identifier: Apache-2.0
// Whose a block is that several files have: a pure function over the places of their extents.
#pragma once
#include <stddef.h>
#include <stdint.h>

// An extent begins or ends. Two for each extent.
struct usage_edge {
	uint64_t where; // bytes, in the file system
	uint32_t owner; // index
	int32_t begins; // 1, or -1: it ends there
};

struct usage_owner {
	uint64_t bytes;	 // that it has, each block once however many files of it have it
	uint64_t unique; // that nobody else has
	uint64_t common; // that it has together with the target
	// while it is swept
	uint32_t active;
	uint64_t since, common_since;
};

// Sorts edges and adds to the owners, all of which start as zero. target: an owner, or n_owners for
// none. Returns how many bytes somebody has, each block once. Takes n log n.
uint64_t usage_sweep(struct usage_edge *edges, size_t n, struct usage_owner *owners,
	size_t n_owners, size_t target);
