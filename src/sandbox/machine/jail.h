// SPDX-License-Identifier: Apache-2.0
// What a sandbox's jail holds, and the start of its shim.
#pragma once
#include "sandbox/machine/plan.h"

int jail_start(struct host *h, struct sandbox *s, const struct machine_plan *p, struct err *e);
