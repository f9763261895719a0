// SPDX-License-Identifier: Apache-2.0
// What is said to people of an end, and of an operation that failed: one row for each, so that none
// is without an advice (tests/unit/control/test_causes.c).
#pragma once
#include "base/err.h"
#include "sandbox/types.h"

struct cause_text {
	const char *by;	    // who brought it about: "api", "timeout", "guest", "host", "server"
	const char *what;   // a sentence about the sandbox
	const char *advice; // what to do, one or more sentences
};
// NULL for a name that is not known.
const struct cause_text *causes_of_end(const char *cause);
// What to do about an operation that failed with this code.
const char *causes_advice(enum err_code code);
// What to do about kills in a guest that goes on. in_cgroup: a cgroup's limit was reached.
const char *causes_oom_advice(bool in_cgroup);
