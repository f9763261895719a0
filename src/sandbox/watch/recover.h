// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "sandbox/table/table.h"

int host_recover(struct host *h, const struct host_config *cfg, struct err *e);
// Of a host_recover that failed before it settled anything: the rows stay as they are, and nobody
// waits for their operations.
void host_recover_abandon(struct host *h);
