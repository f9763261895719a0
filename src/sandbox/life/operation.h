// SPDX-License-Identifier: Apache-2.0
// One runner for all operations on a sandbox. An operation is a struct operation_kind: what it
// needs, its steps, what undoes them. The runner does what they have in common, in this order:
//
//	claim	 the sandbox is in a state that the kind may begin in, and nothing else has it; an
//		 operation that was done before has the same answer
//	turn	 a kind that starts a machine waits at the gate
//	prepare	 checks, chooses ids: nothing is made, a refusal leaves no trace
//	journal	 the operation, and the row with the state "during", are durable
//	steps	 all side effects; they fill in what the row becomes (next), and what changes with
// it 	commit	 row, snapshots, event and the end of the operation in one transaction
//	finish	 what is freed once that is durable
//	undo	 instead of commit and finish, where a step or the commit failed: next is what the
// row is 		 then; it is committed with the operation's failure 	release	 the claim
// ends
//
// A server that is killed in between leaves the journal's entry open; its next start calls recover
// (src/sandbox/watch/recover.c). A destroy sets sandbox.ending: an operation then ends without
// undo, for all of the sandbox goes.
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
