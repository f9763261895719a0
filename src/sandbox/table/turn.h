// SPDX-License-Identifier: Apache-2.0
// The turn of a start: it waits at the host's gate (gate.h) before it makes anything.
#pragma once
#include "sandbox/table/table.h"

// Of a claimed sandbox that nothing was made for yet; host.lock held. Does not block. True: it may
// begin; false: turn_wait must be called.
bool turn_join(struct host *h, struct sandbox *s);
// Blocks until it may begin. The wait is the phase "queue", the first
// one of the operation.
int turn_wait(struct host *h, struct sandbox *s, struct err *e);
// The end of a sandbox that runs from now on. It was asked for when CLOCK_MONOTONIC was asked_ns,
// with an end (CLOCK_REALTIME; 0: never) as if it ran at once.
uint64_t turn_ends_at(uint64_t ends_at_ns, uint64_t asked_ns);
