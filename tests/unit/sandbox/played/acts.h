// SPDX-License-Identifier: Apache-2.0
// The operations as a table: what each needs, does, and leaves behind. For the tests of faults.
#pragma once
#include "played/play.h"

enum { SUBJECT, OTHER, NEW, CHILD = 3, AGAIN = 5, DUE = 7, PAUSED = 8, ENDS = 9 };

// One run of an operation, in memory that all processes share.
struct run {
	struct play before, after, middle; // middle: allowed where it failed on the way
	char op[UUID_SIZE];
	int rc;
	struct err e;
	bool returned;
};

struct act {
	const char *name;
	void (*prepare)(struct host *h, struct play *p); // may be NULL
	// again: asked after a failure, with an operation id of its own (op NULL).
	int (*run)(struct host *h, struct run *r, const char *op, bool again, struct err *e);
	void (*then)(struct play *p, bool again);
	void (*middle)(struct play *p); // may be NULL: there is nothing between
	bool timed;			// not asked for by a call
	bool gone_is_fine;		// a failure may be told although it was done (a destroy)
};
extern const struct act acts[];
extern const size_t n_acts;

struct run *act_prepare(const struct act *a);
// The sandboxes and the snapshot that every case has, and what the act needs; others: those too
// that users do something to meanwhile. The host is idle.
void act_prepare_in(struct host *h, const struct act *a, struct run *r, bool others);
// Runs it and keeps what became of it in r.
void act_run(struct host *h, const struct act *a, struct run *r);
