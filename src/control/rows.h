// SPDX-License-Identifier: Apache-2.0
// The sandboxes users asked for: in memory, written through to the database before the host hears
// of them. What a sandbox does right now is the host's knowledge; kept here is what the host said
// last (running or paused, and its count of changes), to be compared with what it says next, and
// its last report once it has stopped.
//
// Functions that take a struct db_also write that in the same transaction, so that an operation and
// its effect are noted together or not at all.
#pragma once
#include <jansson.h>
#include <stdatomic.h>
#include "base/hash.h"
#include "base/db.h"
#include "hostagent/hostagent.h"

#define ROW_KEEP_NS (3600 * 1000000000ull) // stopped ones stay readable for an hour

enum row_state { ROW_CREATING, ROW_RUNNING, ROW_PAUSED, ROW_STOPPED };
const char *row_state_name(enum row_state s);

// Immutable but for the members behind "state"; read those through rows_ended and the atomics.
struct row {
	atomic_uint refs;
	struct row *next; // in its bucket
	struct row *older, *newer;
	bool linked; // in the table, as the pointers above under its lock
	char id[64], template[64];
	char token[SHA256_HEX_SIZE];
	json_t *metadata;
	enum on_timeout on_timeout;
	uint64_t timeout_sec, created_ns;
	// state
	_Atomic enum row_state now;
	_Atomic uint64_t generation;
	_Atomic uint64_t version; // of the two above, in this process
	_Atomic uint64_t
		ready_ns; // CLOCK_MONOTONIC when it began to run, 0 when before this process
	_Atomic uint64_t ended_ns;
	struct host_sandbox *ended; // set once, before ended_ns
};

struct rows;

struct row_new {
	const char *id, *template;
	json_t *metadata, *env; // borrowed
	enum on_timeout on_timeout;
	uint64_t timeout_sec;
};

// token_key: the agents' tokens are HMACs of the ids with it.
int rows_load(
	struct db *db, const void *token_key, size_t key_len, struct rows **ret, struct err *e);
struct rows *rows_free(struct rows *r);
DEFINE_CLEANUP(struct rows *, rows_free)

// All rows are durable, or none, and ROW_CREATING when this returns. All rows returned are
// references. now_ns: CLOCK_REALTIME.
int rows_add(struct rows *r, const struct row_new *n, size_t count, uint64_t now_ns,
	const struct db_also *also, struct row **ret, struct err *e);
// The host says that it lives, running or paused. What has ended stays so. Two answers may be
// noted in another order than they were given: an older generation changes nothing, unless a look
// at the host as it is now says so (backwards).
int rows_live(struct rows *r, struct row *row, enum row_state now, uint64_t generation,
	bool backwards, const struct db_also *also, struct err *e);
// For a create that failed, and what is forgotten at once. One that is gone already is success.
int rows_remove(struct rows *r, struct row *row, const struct db_also *also, struct err *e);
struct row *rows_get(struct rows *r, const char *id); // NULL when unknown
// Up to max rows older than created_ns (UINT64_MAX: all), newest first.
size_t rows_older(struct rows *r, uint64_t created_ns, struct row **ret, size_t max);
// Notes how it ended; only the first report counts.
int rows_end(struct rows *r, struct row *row, const struct host_sandbox *last,
	const struct db_also *also, struct err *e);
// The last report, or NULL while it has not ended.
static inline const struct host_sandbox *row_ended(const struct row *row)
{
	return row->ended_ns ? row->ended : NULL;
}
// Drops those that ended before the time.
int rows_expire(struct rows *r, uint64_t ended_before_ns, struct err *e);
size_t rows_count(struct rows *r);
// The map of strings it was made with. Owned by the caller.
int rows_env(struct rows *r, const char *id, json_t **ret, struct err *e);
// The agent's token of any id.
void rows_token(struct rows *r, const char *id, char out[SHA256_HEX_SIZE]);
struct row *row_unref(struct row *row);
DEFINE_CLEANUP(struct row *, row_unref)
