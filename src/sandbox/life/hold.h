// SPDX-License-Identifier: Apache-2.0
// One whose time is over and that is to be paused, and the pause has failed (the volume is full, a
// disk is broken): its code runs no longer than its time all the same. Its processors are stopped,
// its state is pausing, its detail says why, and the monitor tries the pause again. It is frozen
// before where its agent does that, so that the pause can still be a quiesced one. More time
// (set_timeout) lets it go on (still.h). A server that starts lets it go on too, and its time is
// over at once.
#pragma once
#include "sandbox/table/table.h"

// After a pause that failed for this reason. Nothing is done where the sandbox is not running any
// more, or something else has it.
int host_hold(struct host *h, const char *id, const struct err *why, struct err *e);
// What it looks like.
void hold_note(struct host_sandbox *next, const struct err *why);
