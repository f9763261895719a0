// SPDX-License-Identifier: Apache-2.0
// Copies of whole images: into one layer, or into one file.
#pragma once
#include "snapshot/layer.h"

// Merges the layers of an image into the new layer id and gives the header of the same image (same
// ids, same generation) with that one layer, or none if all is zero. Every block is checked on the
// way; its sum is taken along, one of version 1 becomes one of version 2. Shares blocks
// (FICLONERANGE) where the file system can. The old layers stay. May be repeated with the same id
// after a crash.
int layer_merge(
	const struct header *h, int layers_fd, const char *id, struct header **ret, struct err *e);

// Writes the whole image into an empty file, sparse; every block is checked on the way. Not
// fsynced.
int layer_materialise(const struct header *h, int layers_fd, int out_fd, struct err *e);
