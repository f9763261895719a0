// SPDX-License-Identifier: Apache-2.0
// Named fault points, so that tests can fail, kill or delay each step of an operation in the real
// product:
//
//	STASIS_FAULT=create.after_slot:fail		the step returns -EIO
//	STASIS_FAULT=create.after_slot:kill		SIGKILL to this process: nothing is undone
//	STASIS_FAULT=create.after_slot:sleep=500	milliseconds
//	STASIS_FAULT=a.b:fail,c.d:sleep=10@2		several; "@N": only the Nth time
//
// Points are named room.step; the list stands in docs/fault-points.md and tests go through it.
#pragma once
#include "base/err.h"

// Call at the named step; 0, or -EIO with the error set when the point is told to fail.
int fault_hit(const char *name, struct err *e);
// Reads STASIS_FAULT once at start; an unknown syntax is an error that names the entry.
int fault_setup(const char *spec, struct err *e);
