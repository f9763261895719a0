// SPDX-License-Identifier: Apache-2.0
// What the control plane does with an operation, apart from HTTP: over a database, a host, a clock
// and a source of ids that are given, so that the simulation runs the very same code.
//
// Upwards the engine knows the functions of this struct alone. control.c and the simulation set
// them.
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include "control/engine/reconcile.h"
#include "control/state/keys.h"
#include "control/state/underway.h"
#include "hostagent/hostagent.h"

// A host forgets operations after a day: older orphans are not asked again.
#define ENGINE_ASK_AGAIN_NS (12 * 3600 * 1000000000ull)
#define ENGINE_REPORTED_MAX 256

enum engine_reach { ENGINE_REACHED, ENGINE_SILENT, ENGINE_NO_VOLUME };

struct engine;
struct task;
struct timings;

// What is judged, and what is looked at again before an action is applied. The simulation weakens
// them, and must find what goes wrong then.
struct engine_guards {
	int (*judge)(const struct reconcile_input *in, struct reconcile_action **ret, size_t *ret_n,
		struct err *e);
	// The row is still what the action was judged by.
	bool (*unchanged)(struct engine *en, const struct sandbox_row *row, uint64_t version);
	// A sandbox of the host's list was made after the rows were read.
	bool (*made_since)(struct engine *en, const char *id);
	// The host's sandbox is nobody's still.
	bool (*unwanted)(struct engine *en, const char *id);
	// A user's DELETE of its sandbox came before the end of an operation.
	bool (*overtaken)(const struct task *t);
};

// Who waits for the children of a fork.
struct task_watch {
	void (*child_done)(void *ctx, size_t i); // as each is decided, may be NULL
	void *ctx;
};

struct engine {
	struct db *db;
	struct rows *rows;
	struct underway *underway;
	struct timings *timings; // NULL: none are kept
	struct keys *keys;	 // NULL: no key is ever deleted by an operation
	struct hostagent host;
	// --- upwards
	uint64_t (*now_ns)(void *ctx); // CLOCK_REALTIME; increases with each operation
	void (*new_uuid)(void *ctx, char out[UUID_SIZE]);
	// Brings the host's events into the table; NULL: they come by themselves.
	int (*bring_events)(void *ctx, struct err *e);
	// The answer that is kept for a request's key: its body, NULL for none, and its status. A
	// function of the task alone. NULL: none is kept.
	json_t *(*answer)(const struct task *t, int *ret_status);
	void *ctx;			    // of the first three
	const struct engine_guards *guards; // NULL: engine_guards
	// --- its own
	_Atomic enum engine_reach reach;	// as of the last look at the host
	pthread_mutex_t events;			// one applies them at a time
	pthread_mutex_t retention;		// one pass at a time, but for dry runs
	_Atomic uint64_t retention_seen_ns;	// CLOCK_MONOTONIC of the last pass, 0: none yet
	_Atomic size_t retention_first;		// where the next pass begins
	pthread_mutex_t lock;			// of what follows
	char reported[ENGINE_REPORTED_MAX][64]; // ids that were logged as unknown
	size_t next_reported;
};
