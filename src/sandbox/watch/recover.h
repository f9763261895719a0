// SPDX-License-Identifier: Apache-2.0
// The start of a server: what an earlier one left is loaded and adopted.
#pragma once
#include "sandbox/table/table.h"

// Loads what an earlier server left. When it returns the host can be used: what is whole is as it
// was, the rest is claimed and settled in the background (settle.h).
int host_recover(struct host *h, const struct host_config *cfg, struct err *e);
