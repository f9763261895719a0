// SPDX-License-Identifier: Apache-2.0
// base.hdr of a running sandbox: with the VMM's dirty tracking it is all of the guest's memory.
#pragma once
#include "sandbox/table/table.h"
#include "snapshot/header.h"

#define LINEAGE_FILE "base.hdr" // in the sandbox's directory

// Replaces it. Not synced: it means nothing once the machine that runs the guest is gone.
int lineage_write(struct host *h, const struct sandbox *s, const struct header *hd, struct err *e);
