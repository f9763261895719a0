// SPDX-License-Identifier: Apache-2.0
// The journal of what was asked for: each operation is a row before the host hears of it, and is
// ended in the transaction that notes its effect. Which of the open ones a thread of this process
// is at (active), and which an earlier one left (orphans), is known in memory.
#pragma once
#include <jansson.h>
#include "base/db.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/id.h"
#include "base/macro.h"

#define OPERATION_KEY_MAX 255			     // bytes of an Idempotency-Key
#define OPERATION_KEY_NS (24 * 3600 * 1000000000ull) // how long a key is remembered
#define OPERATION_KEEP_NS (7 * 24 * 3600 * 1000000000ull)

enum operation_kind {
	OPERATION_CREATE,
	OPERATION_PAUSE,
	OPERATION_RESUME,
	OPERATION_ROLLBACK,
	OPERATION_FORK,
	OPERATION_SNAPSHOT,
	OPERATION_SNAPSHOT_DELETE,
	OPERATION_DESTROY,
	OPERATION_SET_TIMEOUT,
	OPERATION_KEY_DELETE,
	OPERATION_UPDATE, // of name, metadata, on_timeout
	OPERATION_KIND_MAX,
};
const char *operation_kind_name(enum operation_kind k);

enum operation_state { OPERATION_OPEN, OPERATION_DONE, OPERATION_FAILED };
const char *operation_state_name(enum operation_state s);

struct operation {
	char id[UUID_SIZE];
	enum operation_kind kind;
	char sandbox[64];	  // "": none
	char snapshot[UUID_SIZE]; // "": none
	enum operation_state state;
	struct err failed; // of a failed one
	json_t *request;   // what is needed to ask the host again; an object
	json_t *phases;	   // array, NULL: none
	char api_key[UUID_SIZE], key[OPERATION_KEY_MAX + 1]; // "": without
	char hash[SHA256_HEX_SIZE]; // of the request that came with the key
	int status;		    // of the answer
	char *answer;		    // its body; NULL: none is kept
	uint64_t created_ns, ended_ns;
};
void operation_done(struct operation *op);
#define _cleanup_operation_ _cleanup_(operation_done)

struct operations;
// Those that are open in the database are orphans.
int operations_open(struct db *db, struct operations **ret, struct err *e);
struct operations *operations_free(struct operations *o);
DEFINE_CLEANUP(struct operations *, operations_free)

// --- one operation, in this order: activate; insert in a transaction; update in a transaction that
// ends it (both with the database locked); then ended. What fails to be inserted: ended as well.
// What cannot be ended now: orphan.
int operations_activate(struct operations *o, const struct operation *op, struct err *e);
int operations_insert(struct operations *o, const struct operation *op, struct err *e);
int operations_update(struct operations *o, const struct operation *op, struct err *e);
void operations_ended(struct operations *o, const char *id);
void operations_orphan(struct operations *o, const char *id);
// Makes an orphan active: false when it is not one (any more).
bool operations_adopt(struct operations *o, const char *id);

// --- what is open
struct operation_ref {
	char id[UUID_SIZE], sandbox[64], snapshot[UUID_SIZE];
	enum operation_kind kind;
	bool active;
	char (*children)[64]; // of a fork; owned by the table, or by the copy
	size_t n_children;
};
// Copies, oldest first; free with operations_refs_free.
int operations_list_open(
	struct operations *o, struct operation_ref **ret, size_t *ret_n, struct err *e);
void operations_refs_free(struct operation_ref *list, size_t n);
// An orphan that concerns the sandbox, as subject or as child of a fork: its id in out.
bool operations_orphan_on(struct operations *o, const char *sandbox, char out[UUID_SIZE]);
// Any open one that does.
bool operations_open_on(struct operations *o, const char *sandbox);
bool operations_snapshot_open(struct operations *o, const char *snapshot);
// Waits up to wait_ms for the end of it: true when it is not open (any more).
bool operations_wait(struct operations *o, const char *id, int wait_ms);

// --- the table. Found ones are freed with operation_done.
// 1 found, 0 not.
int operations_get(struct operations *o, const char *id, struct operation *ret, struct err *e);
int operations_find_key(struct operations *o, const char *api_key, const char *key, uint64_t now_ns,
	struct operation *ret, struct err *e);
// Newest first, of one sandbox (also as child of a fork) or all, created before the time.
int operations_list(struct operations *o, const char *sandbox, uint64_t before_ns, size_t max,
	struct operation **ret, size_t *ret_n, struct err *e);
// The last word of the journal about what no row knows: 1 found, 0 not.
enum operation_about { OPERATION_ABOUT_SANDBOX, OPERATION_ABOUT_SNAPSHOT };
struct operation_word {
	char id[UUID_SIZE];
	enum operation_state state;
	bool makes, removes; // the operation is what brings it into being, or ends it
};
int operations_last_word(struct operations *o, enum operation_about about, const char *id,
	struct operation_word *ret, struct err *e);
// Forgets keys after a day and ended operations after a week.
int operations_expire(struct operations *o, uint64_t now_ns, struct err *e);
