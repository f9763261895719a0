// SPDX-License-Identifier: Apache-2.0
// A snapshot of a sandbox that runs on: what fork and snapshot have in common. The guest stands
// still from the freeze to the thaw; what has to reach the disk does so while it runs again.
#pragma once
#include "sandbox/capture/capture.h"
#include "sandbox/life/operation.h"

// The first member of the work of an operation whose prepare, steps and undo these are.
struct checkpoint {
	const char *kind;     // of the snapshot's row
	const char *snapshot; // its id; NULL: a new one
	struct capture capture;
	bool settled;
};
int checkpoint_prepare(struct operation *o, struct err *e);
int checkpoint_steps(struct operation *o, struct err *e); // event and data are the caller's to add
void checkpoint_undo(struct operation *o, const struct err *why);
void checkpoint_done(struct operation *o);
