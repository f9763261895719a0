// SPDX-License-Identifier: Apache-2.0
// The sandboxes users asked for: in memory, written through to the database before the host hears
// of them. What a sandbox does right now is the host's knowledge; kept here is what the host said
// last (running or paused, and its count of changes), to be compared with what it says next, and
// its last report once it has stopped.
//
// Functions that take a struct db_also write that in the same transaction, so that an operation and
// its effect are noted together or not at all.
#pragma once
#include "base/db.h"
#include "control/state/row.h"

#define ROW_KEEP_NS (3600 * 1000000000ull) // stopped ones stay readable for an hour
#define ROW_MAX_METADATA (16u << 10)	   // bytes as JSON
#define ROW_URL_SIZE 400

struct rows;

// token_key: the agents' tokens are HMACs of the ids with it.
int rows_load(
	struct db *db, const void *token_key, size_t key_len, struct rows **ret, struct err *e);
struct rows *rows_free(struct rows *r);
DEFINE_CLEANUP(struct rows *, rows_free)

// All rows are durable, or none, and ROW_CREATING when this returns. All rows returned are
// references. now_ns: CLOCK_REALTIME. ERR_CONFLICT when a name is taken, ERR_LIMIT when it is more
// than the payer of the first one may have.
int rows_add(struct rows *r, const struct row_new *n, size_t count, uint64_t now_ns,
	const struct db_also *also, struct sandbox_row **ret, struct err *e);
// The host says that it lives, running or paused. What has ended stays so. Two answers may be
// noted in another order than they were given: an older generation changes nothing, unless a look
// at the host as it is now says so (backwards).
int rows_live(struct rows *r, struct sandbox_row *row, enum row_state now, uint64_t generation,
	bool backwards, const struct db_also *also, struct err *e);
// What gave access to its ports until now (port_access.h) does not any more.
int rows_next_port_epoch(struct rows *r, struct sandbox_row *row, struct err *e);
// Forgets it at once. One that is gone already is success.
int rows_remove(struct rows *r, struct sandbox_row *row, const struct db_also *also, struct err *e);
// For a create that failed: removes it, unless it has ended, which was told then.
int rows_unmake(struct rows *r, struct sandbox_row *row, const struct db_also *also, struct err *e);
struct sandbox_row *rows_get(struct rows *r, const char *id); // NULL when unknown
// By the name that a key gave it: the one that has not ended, else the newest; NULL when unknown.
struct sandbox_row *rows_named(struct rows *r, const char *api_key, const char *name);
// Up to max rows older than created_ns (UINT64_MAX: all), newest first.
size_t rows_older(struct rows *r, uint64_t created_ns, struct sandbox_row **ret, size_t max);
// Notes how it ended; only the first report counts.
int rows_end(struct rows *r, struct sandbox_row *row, const struct host_sandbox *last,
	const struct db_also *also, struct err *e);

// --- what a user may change: a claim, then the change, and rows_unclaim at the end of either

// From here on nobody else changes this row, or takes the name it is to have. -EAGAIN (and
// ERR_CONFLICT) while another change is under way; ERR_CONFLICT when the name is taken; ERR_INVALID
// for metadata that would be too large, and for a name of a row without a key.
int rows_claim(struct rows *r, struct sandbox_row *row, const struct row_change *change,
	const struct db_also *also, struct err *e);
void rows_unclaim(struct rows *r, struct sandbox_row *row);
// What the map is after the patch, owned by the caller; NULL when out of memory. map may be NULL.
json_t *rows_merge(json_t *map, json_t *patch);
// While also is run the row has its new values already: an answer is made of them.
int rows_change(struct rows *r, struct sandbox_row *row, const struct row_change *change,
	const struct db_also *also, struct err *e);
// As they are now; the map is a reference.
json_t *row_metadata(const struct sandbox_row *row);
void row_get_name(const struct sandbox_row *row, char out[64]);

// Where ports of sandboxes are reached: ".<domain>:<port>"; before the first request, or never
// (""). scheme: "http" or "https", a constant.
void rows_set_place(struct rows *r, const char *scheme, const char *place);
// "<scheme>://{port}-<id>.<domain>:<port>", the first braces literal; "" without a place.
void row_url(const struct sandbox_row *row, char out[ROW_URL_SIZE]);

// Drops those that ended before the time; their readers are not kept waiting for the disk.
int rows_expire(struct rows *r, uint64_t ended_before_ns, struct err *e);
size_t rows_count(struct rows *r);
// The map of strings it was made with. Owned by the caller.
int rows_env(struct rows *r, const char *id, json_t **ret, struct err *e);

// --- whose, and how much

// Whose a sandbox is, or was for as long as anything is told of it; "": the operator's, or
// nobody's.
int rows_owner(struct rows *r, const char *id, char ret[KEY_OWNER_SIZE], struct err *e);
// Forgets whose those were of which nothing is told any more.
int rows_expire_owners(struct rows *r, struct err *e);
// What the sandboxes that have not ended were promised: of a key's owner, or, where it has none, of
// the key alone. Paused ones have their disk, and neither processors nor memory.
struct rows_usage {
	uint64_t sandboxes, vcpus, memory_mb, disk_mb;
};
struct rows_usage rows_usage(struct rows *r, const struct key_info *key);
struct row_size row_get_size(const struct sandbox_row *row);
// Of those that are older than the columns: the host knows.
void rows_learn_sizes(struct rows *r, const struct host_sandbox *list, size_t n);
// From here on a paused one counts as one that runs, until rows_end_resume or rows_live. ERR_LIMIT
// when that is too much for the payer (NULL: nobody asks).
int rows_begin_resume(
	struct rows *r, struct sandbox_row *row, const struct key_info *payer, struct err *e);
void rows_end_resume(struct rows *r, struct sandbox_row *row);

// --- tokens of the agents

// Of any id; of one without a row the first one.
void rows_token(struct rows *r, const char *id, char out[SHA256_HEX_SIZE]);
void row_get_token(const struct sandbox_row *row, char out[SHA256_HEX_SIZE]);
// Makes another one, durably. The agent is not told.
int rows_rotate(struct rows *r, struct sandbox_row *row, struct err *e);
// The agent has that one. An older one than is noted changes nothing.
int rows_token_told(struct rows *r, struct sandbox_row *row, uint64_t epoch, struct err *e);
// HMAC of "<label> <text>" with the key of the tokens. label: without a space, and no id
// (they begin with "i"), so that none is an agent's token; both
// together below 255 bytes.
void rows_mac(struct rows *r, const char *label, const char *text, char out[SHA256_HEX_SIZE]);
