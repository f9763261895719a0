// SPDX-License-Identifier: Apache-2.0
// The thread that does what may wait.
#pragma once
#include "sandbox/table/table.h"

int upkeep_start(struct host *h, struct err *e);
void upkeep_stop(struct host *h);
