// SPDX-License-Identifier: Apache-2.0
// Rows of sandboxes in control.db: one statement a function, with the database locked.
#pragma once
#include "base/db.h"
#include "control/state/row.h"

// Oldest first. What a row is made of (row_store_key), and then all the rest of it.
int row_store_load(struct db *db, db_row_fn take, void *ctx, struct err *e);
struct row_key {
	const char *id, *template, *api_key, *name; // valid until take returns
};
struct row_key row_store_key(sqlite3_stmt *st);
int row_store_read(sqlite3_stmt *st, struct sandbox_row *row);
int row_store_insert(
	struct db *db, const struct sandbox_row *row, const struct row_new *n, struct err *e);
// State and generation of one that lives.
int row_store_live(
	struct db *db, const char *id, enum row_state now, uint64_t generation, struct err *e);
int row_store_end(struct db *db, const char *id, uint64_t at_ns, const char *ended, struct err *e);
// What a user may change.
int row_store_looks(struct db *db, const struct sandbox_row *row, struct err *e);
int row_store_token(struct db *db, const char *id, uint64_t epoch, uint64_t told, struct err *e);
// Of one that may be forgotten; "": the operator's.
int row_store_owner(struct db *db, const char *id, char ret[KEY_OWNER_SIZE], struct err *e);
int row_store_expire_owners(struct db *db, struct err *e);
int row_store_port_epoch(struct db *db, const char *id, uint64_t epoch, struct err *e);
int row_store_delete(struct db *db, const char *id, struct err *e);
// All that ended before the time.
int row_store_expire(struct db *db, uint64_t ended_before_ns, struct err *e);
// Text of the map it was made with, owned by the caller; ERR_NOT_FOUND.
int row_store_env(struct db *db, const char *id, char **ret, struct err *e);
