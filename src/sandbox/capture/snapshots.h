// SPDX-License-Identifier: Apache-2.0
// Snapshots as files: copied, and discarded where their row could not be written.
#pragma once
#include "sandbox/machine/source.h"

// Puts into a snapshot's file what its row has; info->id is set. The token is sealed.
int snapshot_put_row(const struct host *h, const struct store_snapshot *row,
	struct snapshot_info *info, struct err *e);
// A copy of a snapshot under a new id and kind; shares all blocks. Durable.
int snapshot_copy(struct host *h, const struct source *src, const char *id, enum snapshot_kind kind,
	struct err *e);
// One that has no row: files and what it holds.
void snapshot_discard(struct host *h, const char *id);
