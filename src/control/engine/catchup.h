// SPDX-License-Identifier: Apache-2.0
// The host's events become what the rows say: each in the transaction that says so.
#pragma once
#include "control/engine/look.h"

// Applies the events of control.db that were not applied yet. Those other than of an end only name
// who is to be looked at. Returns how many, or -errno.
int engine_apply_events(struct engine *en, size_t max, struct err *e);
// Brings and applies all there are: before something is said to be lost.
int engine_catch_up(struct engine *en, struct err *e);
// A whole look. How one ended that the host has forgotten is among its events: they come first.
int engine_look(struct engine *en, bool explain, struct look **ret, struct err *e);
// Looks at one sandbox, and corrects its row.
int engine_correct(struct engine *en, const char *id, struct err *e);
