// SPDX-License-Identifier: Apache-2.0
// The first calls to the agent of a guest that was booted or loaded.
#pragma once
#include "sandbox/machine/plan.h"

// Until the agent answers; the end of the VMM is noticed at once.
int greet_wait_ready(struct host *h, struct sandbox *s, struct err *e);
// Gives it identity, time, entropy, environment, and lets its processes go.
int greet(struct host *h, struct sandbox *s, const struct machine_plan *p, struct err *e);
