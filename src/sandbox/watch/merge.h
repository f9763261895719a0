// SPDX-License-Identifier: Apache-2.0
// Chains of layers become one layer: a template's, so that its sandboxes can map it and share it; a
// sandbox's when it grows long.
#pragma once
#include "sandbox/table/table.h"

// -EAGAIN: not now.
int merge_snapshot(struct host *h, const char *id, struct err *e);
// base.hdr of a running sandbox, where its chain is long.
void merge_base(struct host *h, const char *id);
