// SPDX-License-Identifier: Apache-2.0
// How a sandbox ends.
#pragma once
#include "sandbox/table/table.h"

// Frees all that a sandbox has on this machine: shim, jail, slot, disk. Undo of a create and end of
// a life alike; goes on past errors, logs each, returns the first. keep_log: the console stays (for
// a while, or until it is resumed).
int sandbox_free_resources(struct host *h, struct sandbox *s, bool keep_log);
// The shim ended by itself: judges why, frees, records. Called by the monitor.
void sandbox_ended(struct host *h, struct sandbox *s);
