// SPDX-License-Identifier: Apache-2.0
// Layers against their sums.
#pragma once
#include "snapshot/layer.h"

// Compares a block with the entry of the .sum file (sums_read). *ret_sum (may be NULL): its sum.
int layer_check_block(const struct layer *l, uint64_t block, const void *data, uint64_t stored,
	uint64_t *ret_sum, struct err *e);
// Reads all data, compares all sums; blocks without data must read as zeros.
int layer_verify(const struct layer *l, struct err *e);
// layer_verify of a layer that is about to be mapped by a VMM (which checks nothing), at most once
// in the boot of the host: record_dir (made if absent; below the run directory) remembers it, until
// one of the two files changes. What cannot be recorded is verified again next time. Costs a few
// system calls when it is known. Of several callers at the same time one reads the layer; the
// others wait, and read it themselves only if it was found damaged. No lock of anybody else's is
// needed.
int layer_verify_once(
	int layers_fd, const char *id, uint64_t size, const char *record_dir, struct err *e);
