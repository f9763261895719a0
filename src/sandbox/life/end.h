// SPDX-License-Identifier: Apache-2.0
// How a sandbox ends by itself; host_destroy is the end by a call or a time-out.
#pragma once
#include "sandbox/table/table.h"

// The shim ended by itself: judges why, records it, frees the rest. The sandbox is claimed, in the
// state stopping; the claim ends.
void sandbox_ended(struct host *h, struct sandbox *s);
