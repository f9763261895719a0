// SPDX-License-Identifier: Apache-2.0
#include "base/dbfile.h"
#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"

#define MAX_PROBLEMS 100
#define BUSY_MS 5000

static void closep_db(sqlite3 **db)
{
	sqlite3_close(*db);
}

static int failed(sqlite3 *db, const char *path, const char *what, struct err *e)
{
	int rc = sqlite3_errcode(db) & 0xff;
	enum err_code code = rc == SQLITE_BUSY || rc == SQLITE_READONLY || rc == SQLITE_CANTOPEN
				     ? ERR_UNAVAILABLE
			     : rc == SQLITE_FULL ? ERR_NO_SPACE
						 : ERR_INTERNAL;
	return err_set(e, code, "database %s: %s: %s", path, what, sqlite3_errmsg(db));
}

// Not read-only: a file in WAL mode without its -shm needs that made.
static int open_db(const char *path, int flags, sqlite3 **ret, struct err *e)
{
	if (!(flags & SQLITE_OPEN_CREATE) && !file_exists(AT_FDCWD, path))
		return err_set(e, ERR_NOT_FOUND, "database %s: does not exist", path);
	if (sqlite3_open_v2(path, ret, flags | SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
		SQLITE_OK)
		return failed(*ret, path, "open", e);
	sqlite3_busy_timeout(*ret, BUSY_MS);
	return 0;
}

struct check {
	struct strbuf *out;
	unsigned n;
};

static void problem(struct check *c, const char *text)
{
	if (c->n++ < MAX_PROBLEMS && c->out)
		strbuf_addf(c->out, "%s\n", text);
}

static int on_integrity(void *ctx, int n, char **values, char **names)
{
	if (values[0] && strcmp(values[0], "ok") != 0)
		problem(ctx, values[0]);
	return 0;
}

static int on_foreign_key(void *ctx, int n, char **values, char **names)
{
	char text[200];
	snprintf(text, sizeof text, "row %s of %s names a row of %s that is not there",
		values[1] ? values[1] : "?", values[0], values[2]);
	problem(ctx, text);
	return 0;
}

static int on_version(void *ctx, int n, char **values, char **names)
{
	*(unsigned *)ctx = (unsigned)strtoul(values[0], NULL, 10);
	return 0;
}

int dbfile_check(const char *path, const struct embed *migrations, unsigned *ret_version,
	struct strbuf *problems, struct err *e)
{
	_cleanup_(closep_db) sqlite3 *db = NULL;
	struct check c = {.out = problems};
	unsigned version = 0, known = 0;
	int rc = open_db(path, 0, &db, e);
	if (rc < 0)
		return rc;
	while (migrations[known].name)
		known++;
	if (sqlite3_exec(db, "PRAGMA user_version", on_version, &version, NULL) != SQLITE_OK ||
		sqlite3_exec(db, "PRAGMA integrity_check", on_integrity, &c, NULL) != SQLITE_OK ||
		sqlite3_exec(db, "PRAGMA foreign_key_check", on_foreign_key, &c, NULL) != SQLITE_OK)
		problem(&c, sqlite3_errmsg(db));
	if (c.n)
		return err_set(e, ERR_INTERNAL,
			"database %s is damaged (%u problems): restore a backup with 'stasis db "
			"restore'",
			path, c.n);
	if (ret_version)
		*ret_version = version;
	if (version > known)
		return err_set(e, ERR_UNAVAILABLE,
			"database %s has version %u, this program knows %u: use the newer program",
			path, version, known);
	// An empty file is a sound database too, but not one of ours.
	return version == 0 ? err_set(e, ERR_INVALID, "%s is no database of Stasis", path) : 0;
}

static int copy(const char *path, const char *to, struct err *e)
{
	_cleanup_(closep_db) sqlite3 *from = NULL, *db = NULL;
	int rc = open_db(path, 0, &from, e);
	if (rc == 0)
		rc = open_db(to, SQLITE_OPEN_CREATE, &db, e);
	if (rc < 0)
		return rc;
	sqlite3_backup *b = sqlite3_backup_init(db, "main", from, "main");
	if (!b)
		return failed(db, to, "backup", e);
	// What is written meanwhile makes it start over; in one step no writer comes in between.
	int step = SQLITE_OK;
	for (int tries = 0; tries < 50 && step != SQLITE_DONE; tries++) {
		step = sqlite3_backup_step(b, -1);
		if (step != SQLITE_BUSY && step != SQLITE_LOCKED)
			break;
		sqlite3_sleep(100);
	}
	sqlite3_backup_finish(b);
	if (step != SQLITE_DONE)
		return failed(db, to, "backup", e);
	// One file, without a -wal beside it.
	if (sqlite3_exec(db, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL) != SQLITE_OK)
		return failed(db, to, "backup", e);
	return 0;
}

static int sync_file(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int sync_parent(const char *path)
{
	_cleanup_free_ char *dir = strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;
	if (!dir)
		return -ENOMEM;
	if (slash)
		slash[slash == dir] = '\0';
	return file_fsync_dir(AT_FDCWD, slash ? dir : ".");
}

// A checked and durable copy under a temporary name, owned by the caller and removed by it.
static int make_copy(
	const char *from, const struct embed *migrations, const char *to, char **ret, struct err *e)
{
	_cleanup_free_ char *tmp = str_printf("%s.tmp", to);
	if (!tmp)
		return err_errno(e, ENOMEM, "%s", to);
	unlink(tmp);
	int fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600); // never with wider rights
	if (fd < 0)
		return err_errno(e, errno, "%s", tmp);
	close(fd);
	int rc = copy(from, tmp, e);
	if (rc == 0)
		rc = dbfile_check(tmp, migrations, NULL, NULL, e);
	if (rc == 0 && (rc = sync_file(tmp)) < 0)
		err_errno(e, rc, "%s", tmp);
	if (rc < 0)
		unlink(tmp);
	else
		*ret = TAKE_PTR(tmp);
	return rc;
}

int dbfile_backup(const char *path, const struct embed *migrations, const char *to, struct err *e)
{
	_cleanup_free_ char *tmp = NULL;
	if (file_exists(AT_FDCWD, to))
		return err_set(e, ERR_CONFLICT, "%s exists: choose another name", to);
	int rc = make_copy(path, migrations, to, &tmp, e);
	if (rc < 0)
		return rc;
	// link, not rename: it never replaces anything.
	rc = link(tmp, to) < 0 ? err_errno(e, errno, "%s", to) : 0;
	unlink(tmp);
	if (rc == 0 && (rc = sync_parent(to)) < 0)
		err_errno(e, rc, "%s", to);
	return rc;
}

// The server that opens it need not be root.
static int give_owner(const char *tmp, const char *path, struct err *e)
{
	_cleanup_free_ char *dir = strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;
	struct stat st;
	if (!dir)
		return err_errno(e, ENOMEM, "%s", path);
	if (slash)
		slash[slash == dir] = '\0';
	if (stat(path, &st) < 0 && stat(slash ? dir : ".", &st) < 0)
		return err_errno(e, errno, "%s", path);
	if (st.st_uid == geteuid() && st.st_gid == getegid())
		return 0;
	return chown(tmp, st.st_uid, st.st_gid) < 0 ? err_errno(e, errno, "%s", tmp) : 0;
}

static int set_aside(const char *path, const char *as, const char *suffix, struct err *e)
{
	_cleanup_free_ char *from = str_printf("%s%s", path, suffix);
	_cleanup_free_ char *to = str_printf("%s.%s%s", path, as, suffix);
	if (!from || !to)
		return err_errno(e, ENOMEM, "%s", path);
	unlink(to);
	return rename(from, to) < 0 && errno != ENOENT ? err_errno(e, errno, "%s", from) : 0;
}

int dbfile_replace(const char *path, const char *with, const char *as, struct err *e)
{
	// The log first: the new file must never be taken together with the old one's.
	static const char *const parts[] = {"-wal", "-shm", ""};
	int rc = give_owner(with, path, e);
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(parts); i++)
		rc = set_aside(path, as, parts[i], e);
	if (rc == 0 && rename(with, path) < 0)
		rc = err_errno(e, errno, "%s", path);
	if (rc == 0 && (rc = sync_parent(path)) < 0)
		err_errno(e, rc, "%s", path);
	return rc;
}

int dbfile_restore(
	const char *path, const struct embed *migrations, const char *from, struct err *e)
{
	_cleanup_free_ char *tmp = NULL;
	int rc = dbfile_check(from, migrations, NULL, NULL, e);
	if (rc == 0)
		rc = make_copy(from, migrations, path, &tmp, e);
	if (rc == 0)
		rc = dbfile_replace(path, tmp, "before-restore", e);
	if (rc < 0 && tmp)
		unlink(tmp);
	return rc;
}
