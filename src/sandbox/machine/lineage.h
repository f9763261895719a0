// SPDX-License-Identifier: Apache-2.0
// base.hdr of a running sandbox: with the VMM's dirty tracking it is all of the guest's memory.
#pragma once
#include "sandbox/table/table.h"
#include "snapshot/header.h"

#define LINEAGE_FILE "base.hdr" // in the sandbox's directory

// Replaces it. Not synced: it means nothing once the machine that runs the guest is gone. Holds its
// layers (refs.h) in place of those of the one before.
int lineage_write(struct host *h, struct sandbox *s, const struct header *hd, struct err *e);
int lineage_read(struct host *h, const struct sandbox *s, struct header **ret, struct err *e);
// After a start of the server: holds the layers of the one that is there.
int lineage_adopt(struct host *h, struct sandbox *s, struct err *e);
// Before it is removed.
void lineage_forget(struct host *h, struct sandbox *s);
