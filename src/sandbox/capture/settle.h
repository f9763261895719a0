// SPDX-License-Identifier: Apache-2.0
// After any end of a capture that left the sandbox running: the diff becomes part of its lineage
// (base.hdr), or s->full_next is set. Removes what is left over. The caller commits the row.
#pragma once
#include "sandbox/capture/capture.h"

void capture_settle(struct host *h, struct sandbox *s, struct capture *c);
