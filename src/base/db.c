// SPDX-License-Identifier: Apache-2.0
#include "base/db.h"
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include "base/str.h"

struct cached {
	const char *sql;
	sqlite3_stmt *stmt;
};

struct db {
	sqlite3 *handle;
	char *path;
	pthread_mutex_t mutex;
	struct cached cache[128];
	size_t n_cached;
};

static int fail(struct db *db, int rc, const char *what, struct err *e)
{
	enum err_code code = ERR_INTERNAL;
	switch (rc & 0xff) {
	case SQLITE_CONSTRAINT:
		code = ERR_CONFLICT;
		break;
	case SQLITE_FULL:
		code = ERR_NO_SPACE;
		break;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_READONLY:
	case SQLITE_CANTOPEN:
		code = ERR_UNAVAILABLE;
		break;
	default:
		break;
	}
	const char *hint = "";
	switch (rc & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		hint = ": another program holds it";
		break;
	case SQLITE_READONLY:
		hint = ": is the volume mounted read-only?";
		break;
	case SQLITE_FULL:
		hint = ": make room on its volume";
		break;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		hint = ": see 'stasis db check'; a backup is put in its place with 'stasis db "
		       "restore', and host.db made anew with 'stasis db rebuild host'";
		break;
	default:
		break;
	}
	return err_set(e, code, "database %s: %s: %s%s", db->path, what,
		db->handle ? sqlite3_errmsg(db->handle) : sqlite3_errstr(rc), hint);
}

static int run(struct db *db, const char *sql, struct err *e)
{
	int rc = sqlite3_exec(db->handle, sql, NULL, NULL, NULL);
	return rc == SQLITE_OK ? 0 : fail(db, rc, "exec", e);
}

static int read_version(void *ctx, sqlite3_stmt *row)
{
	*(unsigned *)ctx = (unsigned)sqlite3_column_int(row, 0);
	return 0;
}

static int migrate(struct db *db, const struct embed *m, struct err *e)
{
	unsigned have = 0, n = 0;
	int rc = db_query(db, e, read_version, &have, "PRAGMA user_version", "");
	if (rc < 0)
		return rc;
	while (m[n].name)
		n++;
	if (have > n)
		return err_set(e, ERR_UNAVAILABLE,
			"database %s has version %u, this program knows %u: use the newer program",
			db->path, have, n);
	for (unsigned i = have; i < n; i++) {
		char set[48];
		snprintf(set, sizeof set, "PRAGMA user_version=%u", i + 1);
		if ((rc = db_begin(db, e)) < 0)
			return rc;
		if ((rc = run(db, m[i].data, e)) < 0 || (rc = run(db, set, e)) < 0 ||
			(rc = db_commit(db, e)) < 0) {
			db_rollback(db);
			return err_prefix(e, rc, "migration %s", m[i].name);
		}
	}
	return 0;
}

int db_open(const char *path, const struct embed *migrations, struct db **ret, struct err *e)
{
	_cleanup_(db_closep) struct db *db = calloc(1, sizeof *db);
	if (!db || !(db->path = strdup(path)))
		return err_errno(e, ENOMEM, "database %s", path);
	pthread_mutex_init(&db->mutex, NULL);
	// Made by us first, so that it never exists with wider rights. Closed before SQLite opens
	// it: the closing of any descriptor of a file drops all of the process's locks on it, and
	// another process that reads the database would take itself for the last one and remove the
	// log.
	bool memory = strcmp(path, ":memory:") == 0;
	int fd = memory ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 && !memory)
		return err_errno(e, errno, "database %s", path);
	safe_close(fd);
	int rc = sqlite3_open_v2(path, &db->handle,
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
	if (rc != SQLITE_OK)
		return fail(db, rc, "open", e);
	sqlite3_busy_timeout(db->handle, 5000);
	if ((rc = run(db,
		     "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
		     "PRAGMA trusted_schema=OFF; PRAGMA cache_size=-512;",
		     e)) < 0 ||
		(rc = migrate(db, migrations, e)) < 0)
		return rc;
	*ret = TAKE_PTR(db);
	return 0;
}

struct db *db_close(struct db *db)
{
	if (!db)
		return NULL;
	for (size_t i = 0; i < db->n_cached; i++)
		sqlite3_finalize(db->cache[i].stmt);
	if (db->handle)
		sqlite3_close(db->handle);
	pthread_mutex_destroy(&db->mutex);
	free(db->path);
	free(db);
	return NULL;
}

sqlite3 *db_handle(struct db *db)
{
	return db->handle;
}

void db_lock(struct db *db)
{
	pthread_mutex_lock(&db->mutex);
}

void db_unlock(struct db *db)
{
	pthread_mutex_unlock(&db->mutex);
}

static int prepare(
	struct db *db, const char *sql, sqlite3_stmt **ret, bool *ret_keep, struct err *e)
{
	for (size_t i = 0; i < db->n_cached; i++)
		if (db->cache[i].sql == sql) {
			*ret = db->cache[i].stmt;
			*ret_keep = true;
			return 0;
		}
	*ret_keep = db->n_cached < ARRAY_SIZE(db->cache);
	int rc = sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);
	if (rc != SQLITE_OK)
		return fail(db, rc, sql, e);
	if (*ret_keep)
		db->cache[db->n_cached++] = (struct cached){sql, *ret};
	return 0;
}

static int vquery(struct db *db, struct err *e, db_row_fn row, void *ctx, const char *sql,
	const char *format, va_list ap)
{
	sqlite3_stmt *s = NULL;
	bool keep = false;
	int rc = prepare(db, sql, &s, &keep, e);
	if (rc < 0)
		return rc;
	int at = 1;
	for (const char *f = format; *f; f++, at++) {
		if (*f == 's') {
			sqlite3_bind_text(s, at, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
		} else if (*f == 'i') {
			sqlite3_bind_int64(s, at, va_arg(ap, int64_t));
		} else if (*f == 'b') {
			const void *p = va_arg(ap, const void *);
			sqlite3_bind_blob64(s, at, p, va_arg(ap, size_t), SQLITE_TRANSIENT);
		} else {
			abort(); // a format is written by us
		}
	}
	int ret = 0;
	while ((rc = sqlite3_step(s)) == SQLITE_ROW)
		if (row && (ret = row(ctx, s)) != 0)
			break;
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		ret = fail(db, rc, sql, e);
	if (keep) {
		sqlite3_reset(s);
		sqlite3_clear_bindings(s);
	} else {
		sqlite3_finalize(s);
	}
	return ret;
}

int db_query(struct db *db, struct err *e, db_row_fn row, void *ctx, const char *sql,
	const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	int rc = vquery(db, e, row, ctx, sql, format, ap);
	va_end(ap);
	return rc;
}

int db_exec(struct db *db, struct err *e, const char *sql, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	int rc = vquery(db, e, NULL, NULL, sql, format, ap);
	va_end(ap);
	return rc;
}

int db_begin(struct db *db, struct err *e)
{
	return db_exec(db, e, "BEGIN IMMEDIATE", "");
}

int db_commit(struct db *db, struct err *e)
{
	int rc = db_exec(db, e, "COMMIT", "");
	if (rc < 0)
		db_rollback(db);
	return rc;
}

void db_rollback(struct db *db)
{
	if (!sqlite3_get_autocommit(db->handle))
		sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
}

int db_run_also(struct db *db, const struct db_also *also, struct err *e)
{
	return also ? also->write(also->ctx, db, e) : 0;
}

const char *db_text(sqlite3_stmt *row, int column)
{
	const char *s = (const char *)sqlite3_column_text(row, column);
	return s ? s : "";
}
