// SPDX-License-Identifier: Apache-2.0
// Snapshots as files: copied, and discarded where their row could not be written.
#pragma once
#include "sandbox/machine/source.h"

// A copy of a snapshot under a new id and kind; shares all blocks. Durable.
int snapshot_copy(struct host *h, const struct source *src, const char *id, enum snapshot_kind kind,
	struct err *e);
// One that has no row: files and what it holds.
void snapshot_discard(struct host *h, const char *id);
