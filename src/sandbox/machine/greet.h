// SPDX-License-Identifier: Apache-2.0
// The first calls to the agent of a guest that was booted or loaded.
#pragma once
#include "sandbox/machine/plan.h"

// Until the agent answers; the end of the VMM is noticed at once.
int greet_wait_ready(struct host *h, struct sandbox *s, struct err *e);
// Gives it identity, time, entropy, environment, and lets its processes go; s->token is what it
// knows then. Of a guest whose snapshot was taken without its agent 0 also where that is silent:
// s->owed says what it was not told.
int greet(struct host *h, struct sandbox *s, const struct machine_plan *p, struct err *e);
// What is owed (s->owed.init), on a machine that runs, once its agent answers again. Does not wait
// for one that is silent.
int greet_late(struct host *h, struct sandbox *s, struct err *e);
