// SPDX-License-Identifier: Apache-2.0
// How a machine comes up.
#pragma once
#include "net/resolvers.h"
#include "sandbox/machine/plan.h"

// Everything from the slot to the ready guest, in order; phases are noted in s->info. The caller
// has claimed s and is its only writer. On error what was made is left for sandbox_free
// (life/free.h).
int machine_up(struct host *h, struct sandbox *s, const struct machine_plan *p, uint64_t *since,
	struct err *e);
// Those that a guest gets which was not given its own: of the setting, else this machine's as they
// are now.
int machine_resolvers(const struct host *h, struct resolvers *ret, struct err *e);
// Checks a request for a new machine against what this host has.
int machine_check_size(const struct host *h, const struct host_sandbox *i, struct err *e);
