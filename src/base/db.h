// SPDX-License-Identifier: Apache-2.0
// SQLite databases: WAL, synchronous=FULL, foreign keys, numbered migrations, statements prepared
// once. A struct db has one connection behind one mutex: db_lock ... db_unlock around each
// transaction.
#pragma once
#include <sqlite3.h>
#include "base/embed.h"
#include "base/err.h"

struct db;

// Opens (makes, 0600) the database and applies what is missing of the migrations (closed by an
// entry without a name; the first one makes version 1), each in one transaction with its number
// (PRAGMA user_version). A newer database than known is refused by name and number. ":memory:" is
// one without a file.
int db_open(const char *path, const struct embed *migrations, struct db **ret, struct err *e);
struct db *db_close(struct db *db);
DEFINE_CLEANUP(struct db *, db_close)
sqlite3 *db_handle(struct db *db);

void db_lock(struct db *db);
void db_unlock(struct db *db);

// All below: with the lock held. sql must be a string literal (statements are kept by its address).
// Parameters by a format: s text (NULL is NULL), i int64_t, b (const void *, size_t). The statement
// is stepped to its end; -errno with SQLite's message on error (ERR_CONFLICT for a violated
// constraint, ERR_NO_SPACE when full).
int db_exec(struct db *db, struct err *e, const char *sql, const char *format, ...);
// Same, and calls row for each row of the result; a non-zero return ends it and is returned.
typedef int (*db_row_fn)(void *ctx, sqlite3_stmt *row);
int db_query(struct db *db, struct err *e, db_row_fn row, void *ctx, const char *sql,
	const char *format, ...);
int db_begin(struct db *db, struct err *e);  // BEGIN IMMEDIATE
int db_commit(struct db *db, struct err *e); // durable when it returns 0; rolled back otherwise
void db_rollback(struct db *db);	     // harmless outside a transaction
// What a function that makes a transaction of its own writes in it besides; called with the lock
// held, last before the commit. May be NULL where a function takes one.
struct db_also {
	int (*write)(void *ctx, struct db *db, struct err *e);
	void *ctx;
};
int db_run_also(struct db *db, const struct db_also *also, struct err *e);
// "" for NULL
const char *db_text(sqlite3_stmt *row, int column);
// One call of the above outside a transaction: r = DB_LOCKED(db, db_exec(db, e, ...)).
#define DB_LOCKED(db, call)                                                                        \
	({                                                                                         \
		db_lock(db);                                                                       \
		int _r = (call);                                                                   \
		db_unlock(db);                                                                     \
		_r;                                                                                \
	})
