// SPDX-License-Identifier: Apache-2.0
// The parts of a snapshot before it is published. What the VMM and the pager write is in the jail's
// directory, snap/ of the sandbox's, and is taken from there by sharing blocks; everything else is
// named by the snapshot or the layer that it becomes, beside those. Nothing is linked or renamed
// out of a sandbox's directory.
#pragma once
#include "sandbox/table/table.h"

#define SNAP_MEM "snap/mem"
#define SNAP_STATE "snap/vmstate"

// Below the data directory.
struct stage {
	char mem[64], state[64], disk[64], working_set[64];
};
void stage_names(const char *snapshot, const char *layer, struct stage *ret);
// Out of the jail; what it still holds of the file is of no account from then on. dir: the
// sandbox's.
int stage_take(
	struct host *h, int dir, const char *from, const char *to, uint64_t max, struct err *e);
// What is not published. A missing file is nothing to remove.
void stage_drop(struct host *h, int dir, const struct stage *g);
