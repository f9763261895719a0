// SPDX-License-Identifier: Apache-2.0
// Whether a block of a diff is a change at all: the image below it, its parent, may hold the same.
// What a VMM calls dirty is often more than what changed.
#pragma once
#include "snapshot/layer.h"

struct parent;

// The image of h in layers_fd; both stay the caller's and must outlive it. NULL: no memory.
struct parent *parent_new(const struct header *h, int layers_fd);
struct parent *parent_free(struct parent *p);
DEFINE_CLEANUP(struct parent *, parent_free)

// Is block (its number) of the image, byte for byte, what data has, whose sum is sum (layer_sum, or
// LAYER_SUM_ZERO for one of zeros)? The sums only save the reading: a guest can make two blocks
// with the same XXH3. False as well where the image cannot be read: who keeps the block then keeps
// too much, never too little. Cheapest in ascending order.
bool parent_has(struct parent *p, uint64_t block, const void *data, uint64_t sum);
