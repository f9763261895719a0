// SPDX-License-Identifier: Apache-2.0
// One runner for the operations on a sandbox. (A destroy is not one of them: it waits for nobody,
// see end.c. Nor is a time-out, which is a setting, see timeout.c.) An operation is a struct
// operation_kind: what it needs, its steps, and what undoes them. The runner does what all kinds
// have in common:
//
// 1. claim: the sandbox is in a state in which the kind may begin, and no other operation has it.
//    An operation that was done before gets the same answer again, and nothing is done.
// 2. turn: a kind that starts a machine waits at the gate (create.c, resume.c; the runner does
//    not).
// 3. prepare: checks, and chooses ids. Nothing is made: a refusal leaves no trace.
// 4. journal: the operation and the ids, and the row with the state "during", are durable.
// 5. steps: all side effects. They fill in "next", which the row becomes, and "change".
// 6. commit: row, snapshots, event and the end of the operation, in one transaction.
// 7. finish: frees what is free once that is durable.
// 8. release: the claim ends. This is the caller's (operation_release), or operation_run's.
//
// Where a step or the commit fails, undo takes the place of 6 and 7: it frees what the steps made
// and fills in what the row is then. The runner commits that as the operation's failure. If this
// commit fails too, the sandbox in memory is as undo left it, the journal's entry stays open, and
// the next start settles it.
//
// Two things end an operation from outside. A server that is killed leaves the journal's entry
// open: the next start finishes or undoes the operation (src/sandbox/watch/settle.c). A destroy
// sets sandbox.ending or sandbox.removed: the operation ends without undo, since all of the sandbox
// goes.
//
// Fault points: <name>.after_journal and <name>.before_commit, and those of the steps.
#pragma once
#include "sandbox/table/store.h"

struct operation;

struct operation_kind {
	const char *name;	   // in the journal, and in "pause is under way"
	unsigned from;		   // bits 1 << state that it may begin in
	enum sandbox_state during; // SANDBOX_STATE_MAX: the state stays
	const char *failed;	   // kind of the event of a failure
	// All but steps may be NULL.
	int (*prepare)(struct operation *o, struct err *e);
	int (*steps)(struct operation *o, struct err *e);
	void (*undo)(struct operation *o, const struct err *why);
	void (*finish)(struct operation *o);
	void (*done)(struct operation *o); // of work, whatever became of it
};

struct operation {
	struct host *h;
	const struct operation_kind *kind;
	struct sandbox *s; // claimed
	char id[UUID_SIZE];
	void *work;			    // the kind's own
	uint64_t asked_ns, began_ns, at_ns; // CLOCK_MONOTONIC: asked for, begun, last phase
	// prepare: ids of what will be made, for the journal; "" without. layer is held until the
	// end.
	char journal[200], layer[UUID_SIZE];
	bool full_next; // what the row says of the lineage while it is under way
	// steps and undo
	struct sandbox next;
	struct store_change change; // row, op_id and event are the runner's
	const char *event, *cause;  // kind of the event of success
	json_t *data;		    // of the event; owned
	bool succeeded;		    // the steps are committed
};

// Claims. 1 with *ret filled: done before. The runner's caller releases.
int operation_claim(struct operation *o, struct host *h, const struct operation_kind *kind,
	const char *op_id, const char *id, struct host_sandbox *ret, struct err *e);
// From prepare to finish, of a claimed sandbox.
int operation_do(struct operation *o, void *work, struct err *e);
// Fills in *ret (may be NULL), watches what runs, ends the claim.
void operation_release(struct operation *o, struct host_sandbox *ret);
// Claim, do, release. 0 also where it was done before.
int operation_run(struct host *h, const struct operation_kind *kind, const char *op_id,
	const char *id, void *work, struct host_sandbox *ret, struct err *e);
// Of a failed step, for the event: {"error": ...}.
json_t *operation_error(const struct err *why);
// The next phase of the operation ends now.
void operation_phase(struct operation *o, const char *name);
