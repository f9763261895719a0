// SPDX-License-Identifier: Apache-2.0
// A guest that stands still: its VMM did not let it go on after a failed pause, fork or snapshot.
// The sandbox is in the state error, which says why, and is let go again until it runs.
#pragma once
#include "sandbox/table/table.h"

// What becomes of a sandbox that could not be let go on.
void still_note(struct host_sandbox *next, const struct err *why);
// At the end of the claim, host.lock held: tries on in the background, now or after a moment. Also
// of one that is held (hold.h) and has time again.
void still_retry(struct host *h, const struct sandbox *s, bool now);
