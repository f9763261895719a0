// SPDX-License-Identifier: Apache-2.0
// Layers: what one snapshot added to its parent. layers/<uuid> is a sparse file as long as the
// memory, each block at its own offset; layers/<uuid>.sum says which blocks are the layer's and
// keeps the XXH3 of each. Neither is changed once layers/<uuid> exists under that name.
//
// A hole of a layer means nothing by itself: headers say which ranges come from which layer.
#pragma once
#include "snapshot/block.h"
#include "snapshot/header.h"

// Can the image be mapped as it lies in its single layer (holes and all)? True for a layer made
// from a booted guest or by a merge. *ret_layer is the index in h->layers.
int layer_is_flat(const struct header *h, int layers_fd, bool *ret, struct err *e);

// Opens for reading; both files must be whole and fit size.
int layer_open(int layers_fd, const char *id, uint64_t size, struct layer *ret, struct err *e);
void layer_close(struct layer *l); // unmaps too; a zeroed or closed layer is fine
// Maps data and sums read-only and closes the descriptors: a later truncation is SIGBUS.
int layer_map(struct layer *l, struct err *e);
// One digest over the sums of all layers of an image: their ids and the checksums of their entries,
// in the header's order. 0: not known, where a layer has sums of version 1, or there is none. Opens
// each layer, as layer_open does.
int layers_digest(const struct header *h, int layers_fd, uint64_t *ret, struct err *e);
// Removes both files; missing ones are fine. data first: what is left after a crash is collected.
int layer_remove(int layers_fd, const char *id);
