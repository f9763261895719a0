// SPDX-License-Identifier: Apache-2.0
// What the control plane does with an operation, apart from HTTP: over a database, a host, a clock
// and a source of ids that are given, so that the simulation runs the very same code.
//
// An operation goes through engine_begin (it and what it makes are durable), engine_ask (the host
// is told, by the operation's id), engine_finish (its effect and its end are durable, together).
// Where the host's answer was lost, or the end could not be written, it stays open as an orphan; so
// does what a server leaves that is killed. engine_adopt takes an orphan up: it is asked and
// finished as before, and the host, which knows the id, does nothing twice.
#pragma once
#include <stdatomic.h>
#include "control/state/keys.h"
#include "control/state/operations.h"
#include "control/engine/reconcile.h"
#include "control/state/rows.h"
#include "control/state/templates.h"

// A host forgets operations after a day: older orphans are not asked again.
#define ENGINE_ASK_AGAIN_NS (12 * 3600 * 1000000000ull)

enum engine_reach { ENGINE_REACHED, ENGINE_SILENT, ENGINE_NO_VOLUME };

struct engine {
	struct db *db;
	struct rows *rows;
	struct templates *templates;
	struct operations *operations;
	struct keys *keys; // NULL: no key is ever deleted by an operation
	struct hostagent host;
	uint64_t (*now_ns)(void *ctx); // CLOCK_REALTIME; increases with each operation
	void (*new_uuid)(void *ctx, char out[UUID_SIZE]);
	// Brings the host's events into the table; NULL: they come by themselves.
	int (*bring_events)(void *ctx, struct err *e);
	void *ctx;
	_Atomic enum engine_reach reach;  // as of the last look at the host
	struct engine_reported *reported; // what was logged as unknown; its lock
	// For tests that must fail: as reconcile.h; the host is asked again with a new id; a lost
	// answer is taken for a refusal; actions are applied to what has changed meanwhile.
	bool wrong_judge_open, wrong_remove_all, wrong_silence, wrong_new_id, wrong_lost,
		wrong_stale;
};
int engine_init(struct engine *en, struct err *e); // the members above are set already
void engine_done(struct engine *en);

struct task_child {
	struct row *row;
	struct host_sandbox info;
	bool decided, alive, told;
	struct err e; // when not alive
};

// An operation under way in this thread.
struct task {
	struct operation op;
	struct row *row; // of op.sandbox; NULL when there is none (any more)
	bool begun, adopted;
	bool said; // the failure is our own decision, not the host's word
	// outcome
	int rc;
	struct err e;
	bool lost;		  // rc is an error, but it may have been done
	struct host_sandbox info; // the host's word on op.sandbox
	bool has_info;
	// snapshot
	struct template_op name;
	bool named; // name is with templates_begin
	struct host_snapshot snapshot;
	struct template template;
	// fork
	struct task_child *children;
	size_t n_children, n_alive;
	void (*child_done)(void *ctx, size_t i); // as each is decided, may be NULL
	void *ctx;
	const struct host_fork_child *asked; // while the host is at it
};
void task_done(struct engine *en, struct task *t);

// op.kind, op.sandbox, op.request and what belongs to a key are set by the caller; new is what a
// create or a fork makes, n rows. The requests, by kind:
//	create		{vcpus, memory_mb, disk_mb, ends_at, on_timeout, cold, from}
//	pause		{}
//	resume, rollback {from, disk_only, ends_at}
//	fork		{ends_at, on_timeout, children: [{id, op}]}
//	snapshot	{name, parent, overwrite}; op.snapshot is set
//	snapshot_delete	{name}
//	destroy		{cause, forget}
//	set_timeout	{ends_at}
//	key_delete	{key}
//	update		{name, metadata, on_timeout}: what is to change, as struct row_change has it
// Times are nanoseconds. ERR_UNAVAILABLE when an orphan on the same sandbox cannot be finished.
int engine_begin(
	struct engine *en, struct task *t, const struct row_new *new, size_t n, struct err *e);
void engine_ask(struct engine *en, struct task *t);
// t->rc, t->e and t->lost are the outcome for the user.
void engine_finish(struct engine *en, struct task *t);
// An open change of a row keeps others away from it, and from its new name, in whosever hands it
// is: those of the orphans. engine_init does that.
int engine_claim_rows(struct engine *en, struct err *e);
// 1: t is an orphan's. 0: it is no orphan (any more).
int engine_adopt(struct engine *en, const char *op_id, struct task *t, struct err *e);
// Adopts, asks, finishes. 0 when it has ended now or had before; ERR_UNAVAILABLE when it is still
// open.
int engine_settle(struct engine *en, const char *op_id, struct err *e);
// Waits while it is under way in another thread, settles it otherwise.
int engine_settle_on(struct engine *en, const char *sandbox, struct err *e);

// Has the host delete what is noted as to be deleted; a failure leaves it to the next time.
void engine_delete_noted(struct engine *en, const char *snapshot);

// --- the reconciler: a look, and what follows from it. Between the two anything may happen.
struct look;
int engine_look(struct engine *en, bool explain, struct look **ret, struct err *e);
// The same for one sandbox.
int engine_look_at(struct engine *en, const char *id, struct look **ret, struct err *e);
const struct reconcile_action *look_actions(const struct look *l, size_t *ret_n);
void engine_apply(struct engine *en, struct look *l);
struct look *look_free(struct look *l);
DEFINE_CLEANUP(struct look *, look_free)
// Applies the events of control.db that were not applied yet, each in the transaction that says so.
// Those other than of an end only name who is to be looked at. Returns how many, or -errno.
int engine_apply_events(struct engine *en, size_t max, struct err *e);
// Brings and applies all there are: before something is said to be lost.
int engine_catch_up(struct engine *en, struct err *e);
// Drops what is old.
void engine_expire(struct engine *en);
