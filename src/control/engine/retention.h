// SPDX-License-Identifier: Apache-2.0
// Retention: paused sandboxes and named snapshots that go by rules of the operator's. Without a
// rule nothing goes. What a rule takes is warned of (event retention_due); when the rule's grace is
// over and it was not used since, it is removed by an ordinary operation (event retention_removed,
// cause retention).
//
// Time is that of clocks that nobody sets (sql/control/007_retention.sql): a day of grace is a day
// in which a server was there to be asked. A use is a change of the sandbox's generation, an
// operation on it, a sandbox made from the snapshot: it begins anew then.
#pragma once
#include "control/engine/engine.h"
#include "control/engine/retention_judge.h"
#include "control/state/event_log.h"
#include "control/state/feed.h"

enum retention_action {
	RETENTION_WARN,	  // now
	RETENTION_WAIT,	  // was warned; left_sec of its grace
	RETENTION_REMOVE, // now
	RETENTION_LATER,  // there were enough removals for one pass
	RETENTION_BUSY,	  // an operation is under way on it
	RETENTION_FAILED, // e says why; it is tried again
};
const char *retention_action_name(enum retention_action a); // "warn"

struct retention_outcome {
	struct retention_subject subject;
	char rule[64];
	enum retention_action action;
	uint64_t left_sec;
	struct err e;
};

#define RETENTION_PER_PASS 10u // removals, and as many that fail

// One pass; those that a rule takes. dry_run: what would be done now, and nothing is. feed may be
// NULL. *ret is the caller's (free).
int engine_retention(struct engine *en, struct feed *feed, bool dry_run,
	struct retention_outcome **ret, size_t *ret_n, struct err *e);
// mono_ns: since the last time; first: of this process, where what it was away counts for ages, at
// most a week of it.
void retention_advance(struct retention_clock *c, uint64_t mono_ns, uint64_t wall_ns, bool first);
