// SPDX-License-Identifier: Apache-2.0
// The thread that notices ends and time-outs.
#pragma once
#include "sandbox/table/table.h"

int monitor_start(struct host *h, struct err *e);
void monitor_stop(struct host *h);
