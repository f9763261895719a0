// SPDX-License-Identifier: Apache-2.0
// Snapshots as files and rows: removed and copied.
#pragma once
#include "sandbox/machine/source.h"

// Files first (snapshot.json before all), then the row. Wakes the upkeep for the layers.
int snapshot_drop(struct host *h, const char *op_id, const char *id, const struct store_event *ev,
	struct err *e);
// A copy of a snapshot under a new id and kind; shares all blocks. Durable.
int snapshot_copy(struct host *h, const struct source *src, const char *id, enum snapshot_kind kind,
	struct err *e);

// Deletes the snapshots of its pauses, rows and all, when it ends; others made from it stay.
void sandbox_drop_pauses(struct host *h, const char *id);
