// SPDX-License-Identifier: Apache-2.0
// One sandbox that a user asked for, in memory; rows.h has the table of them.
#pragma once
#include <jansson.h>
#include <stdatomic.h>
#include "base/hash.h"
#include "base/id.h"
#include "control/state/keys.h"
#include "sandbox/types.h"

enum row_state { ROW_CREATING, ROW_RUNNING, ROW_PAUSED, ROW_STOPPED };
const char *row_state_name(enum row_state s);

struct row_size {
	unsigned vcpus, memory_mb;
	uint64_t disk_mb;
};

struct name_entry;
struct rows;

// Immutable but for the members behind "state"; read those through row_ended and the atomics, and
// what a user may change through row_metadata and row_get_name.
struct sandbox_row {
	atomic_uint refs;
	struct rows *table;	  // outlives its rows
	struct sandbox_row *next; // in its bucket
	struct sandbox_row *older, *newer;
	bool linked; // in the table, as the pointers above under its lock
	char id[64], template[64];
	char api_key[UUID_SIZE];    // that asked for it; "": not known
	char owner[KEY_OWNER_SIZE]; // whose it is; "": the operator's
	bool is_private;	    // its ports want a token
	uint64_t timeout_sec, created_ns;
	// what a user may change
	json_t *metadata;
	char name[64];		  // "": none
	struct name_entry *named; // in the index of names, as claim under the table's lock
	struct name_entry *claim; // what a change under way will call it
	bool changing;		  // one is under way; as claim
	_Atomic enum on_timeout on_timeout;
	// What it was promised, 0: not known yet. Under the table's lock.
	struct row_size size;
	bool resuming; // it counts as one that runs; under the table's lock
	// The token that its agent has, or is to have: row_get_token.
	char token[SHA256_HEX_SIZE];
	_Atomic uint64_t token_epoch; // how often it was made anew
	_Atomic uint64_t token_told;  // the last one that the agent is known to have
	_Atomic uint64_t port_epoch;  // what port_access.h derives is of this one alone
	// state
	_Atomic enum row_state now;
	_Atomic uint64_t generation;
	_Atomic uint64_t version; // of the two above, in this process
	_Atomic uint64_t
		ready_ns; // CLOCK_MONOTONIC when it began to run, 0 when before this process
	_Atomic uint64_t ended_ns;
	struct host_sandbox *ended; // set once, before ended_ns
	atomic_uint execs;	    // calls under way
	atomic_bool deleted;	    // by a user's DELETE, whatever it ended of; of this process
};

struct row_new {
	const char *id, *template;
	const char *name, *api_key; // NULL: none. A name needs a key
	const char *owner;	    // NULL or "": the operator
	struct row_size size;
	const struct key_info *payer; // whose quota counts, borrowed; NULL: nobody's
	json_t *metadata, *env;	      // borrowed
	enum on_timeout on_timeout;
	uint64_t timeout_sec;
	bool is_private;
};

struct row_change {
	bool has_name, has_metadata, has_on_timeout;
	const char *name; // NULL: none
	json_t *metadata; // a merge patch: strings are set, null removes; null itself clears
	enum on_timeout on_timeout;
};

struct sandbox_row *row_unref(struct sandbox_row *row);
DEFINE_CLEANUP(struct sandbox_row *, row_unref)
// A user's DELETE was acknowledged, which is the last word about it.
bool row_is_deleted(const struct sandbox_row *row);
// The last report, or NULL while it has not ended.
static inline const struct host_sandbox *row_ended(const struct sandbox_row *row)
{
	return row->ended_ns ? row->ended : NULL;
}
