// SPDX-License-Identifier: Apache-2.0
// The journal of what was asked for: each operation is a row before the host hears of it, and is
// ended in the transaction that notes its effect. Whom it concerns is in operation_subjects: the
// sandbox, and the children of a fork.
#pragma once
#include <jansson.h>
#include "base/db.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/id.h"
#include "base/macro.h"
#include "base/request_id.h"
#include "control/state/keys.h"

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
	char sandbox[64];	    // "": none
	char snapshot[UUID_SIZE];   // "": none
	char owner[KEY_OWNER_SIZE]; // for whom; "": the operator
	enum operation_state state;
	struct err failed; // of a failed one
	json_t *request;   // what is needed to ask the host again; an object
	json_t *phases;	   // array, NULL: none
	char api_key[UUID_SIZE], key[OPERATION_KEY_MAX + 1]; // "": without
	char hash[SHA256_HEX_SIZE]; // of the request that came with the key
	int status;		    // of the answer
	char *answer;		    // its body; NULL: none is kept
	uint64_t created_ns, ended_ns;
	char request_id[REQUEST_ID_SIZE]; // "": the server asked by itself
};
void operation_done(struct operation *op);
#define _cleanup_operation_ _cleanup_(operation_done)

// Which kinds make or remove what they concern, of whom the journal is asked.
bool operation_kind_makes(enum operation_kind k);
bool operation_kind_removes(enum operation_kind k);

// --- in a transaction, with the database locked
int operations_insert(struct db *db, const struct operation *op, struct err *e);
// Ends it. Without op->key its key is free again.
int operations_end(struct db *db, const struct operation *op, struct err *e);
// 1: a snapshot of that name is being made.
int operations_makes_snapshot(struct db *db, const char *name, struct err *e);

// --- reading. Found ones are freed with operation_done.
// 1 found, 0 not.
int operations_get(struct db *db, const char *id, struct operation *ret, struct err *e);
int operations_find_key(struct db *db, const char *api_key, const char *key, uint64_t now_ns,
	struct operation *ret, struct err *e);
// Oldest first, until take returns other than 0.
int operations_each_open(struct db *db, int (*take)(void *ctx, const struct operation *op),
	void *ctx, struct err *e);
// Newest first, of one sandbox (also as child of a fork) or all, of one owner or all (NULL),
// created before the time.
int operations_list(struct db *db, const char *sandbox, const char *owner, uint64_t before_ns,
	size_t max, struct operation **ret, size_t *ret_n, struct err *e);
// The last word of the journal about what no row knows: 1 found, 0 not.
enum operation_about { OPERATION_ABOUT_SANDBOX, OPERATION_ABOUT_SNAPSHOT };
struct operation_word {
	char id[UUID_SIZE];
	enum operation_state state;
	bool makes, removes; // the operation is what brings it into being, or ends it
};
int operations_last_word(struct db *db, enum operation_about about, const char *id,
	struct operation_word *ret, struct err *e);
// Forgets keys after a day and ended operations after a week.
int operations_expire(struct db *db, uint64_t now_ns, struct err *e);
