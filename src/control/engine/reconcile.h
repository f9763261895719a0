// SPDX-License-Identifier: Apache-2.0
// What follows from the difference between what the database wants, what the host reports and what
// the journal of operations says: a pure function, without clock, database or host. Who applies the
// actions checks that what each was judged by still holds (upkeep.c, marks.c).
//
// The order in which the inputs were read matters: rows and operations before the host was asked.
// Then what a row says was true before the report, and what the report lacks is missing.
#pragma once
#include "base/err.h"
#include "control/state/rows.h"

enum reconcile_kind {
	RECONCILE_NONE,
	RECONCILE_UNREACHABLE, // nothing is known of it now, and nothing is done
	RECONCILE_MARK_RUNNING,
	RECONCILE_MARK_PAUSED,
	RECONCILE_MARK_STOPPED,	    // with cause
	RECONCILE_FINISH_OPERATION, // op: asked again, or failed
	RECONCILE_REMOVE_UNKNOWN,   // id, of the host
	RECONCILE_REPORT_UNKNOWN,   // id, of the host; kept
	RECONCILE_DROP_SNAPSHOT,    // id, of the host
	RECONCILE_KIND_MAX,
};
const char *reconcile_kind_name(enum reconcile_kind k); // "mark_running"

struct reconcile_row {
	const char *id;
	enum row_state state;
	uint64_t generation;
	const char *cause; // of its end; NULL while it has not ended
};

struct reconcile_sandbox { // as the host reports it
	const char *id;
	enum sandbox_state state;
	uint64_t generation;
	const char *snapshot; // what it resumes from, "" or NULL: none
	const char *cause;
};

struct reconcile_snapshot {
	const char *id, *kind; // kind as in struct host_snapshot
};

enum reconcile_progress { RECONCILE_OP_OPEN, RECONCILE_OP_DONE, RECONCILE_OP_FAILED };

// An entry of the journal. A fork has one for its source and one for each of its children. Ended
// ones count only for what no row knows, and only the newest about an id.
struct reconcile_op {
	const char *id, *sandbox, *snapshot; // NULL or "": does not concern one
	enum reconcile_progress state;
	bool active;  // open, and a thread of this process is at it
	bool removes; // it ends or deletes what it concerns
	bool makes;   // what it concerns would exist by it: refused when failed
};

struct reconcile_input {
	bool reachable; // the host answers
	bool volume_ok; // its volume is there
	const struct reconcile_row *rows;
	size_t n_rows;
	const struct reconcile_sandbox *sandboxes; // stopped ones may be among them
	size_t n_sandboxes;
	const struct reconcile_snapshot *snapshots;
	size_t n_snapshots;
	const char *const *named; // snapshots that templates are made of
	size_t n_named;
	const struct reconcile_op *ops;
	size_t n_ops;
	bool explain; // RECONCILE_NONE too
};

struct reconcile_action {
	enum reconcile_kind kind;
	char id[64]; // of a sandbox or snapshot, "" where an operation alone is meant
	char op[UUID_SIZE];
	char cause[64];
	uint64_t generation; // as the host reports it
	size_t row;	     // of the input, where a row is to be marked
	char reason[160];
};

// The array is the caller's (free).
int reconcile(const struct reconcile_input *in, struct reconcile_action **ret, size_t *ret_n,
	struct err *e);
