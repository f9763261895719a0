// SPDX-License-Identifier: Apache-2.0
// Bells: what lower wings ring to wake the loops of src/sandbox/watch (the monitor, the upkeep).
#pragma once
#include "sandbox/table/host.h"

void monitor_watch(struct host *h, struct sandbox *s);	 // host.lock held
void monitor_unwatch(struct host *h, struct sandbox *s); // host.lock held
void monitor_wake(struct host *h);			 // a time-out changed
void upkeep_wake(struct host *h);
void upkeep_note(struct host *h, const char *snapshot); // it is new, or has many layers
// The next noted one.
bool upkeep_take(struct host *h, char ret_snapshot[UUID_SIZE]);
