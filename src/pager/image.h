// SPDX-License-Identifier: Apache-2.0
// A memory image ready to be served: its header and all its layers, mapped.
#pragma once
#include "snapshot/layer.h"

struct image {
	struct header *header;
	struct layer *layers; // header->n_layers, mapped
};

// Everything is opened here; later no file is looked up again.
int image_open(const char *header_path, const char *layers_dir, struct image *ret, struct err *e);
void image_close(struct image *img);

// The run of blocks from offset on that lie together, at most max bytes: its length in *ret_len,
// and where it is in memory, NULL for zeros. The blocks are checked against their sums; one that
// does not match is an error that names layer and offset.
int image_run(const struct image *img, uint64_t offset, uint64_t max, uint64_t *ret_len,
	const uint8_t **ret_data, struct err *e);

// From now on a layer that is cut short while it is read ends the process with status 1 and one
// line on stderr (SIGBUS has no other remedy: the page asked for does not exist).
void image_catch_sigbus(void);
