// SPDX-License-Identifier: Apache-2.0
// Both databases forwards from every earlier version, with rows in them; and check, backup and
// restore of their files.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/db.h"
#include "base/dbfile.h"
#include "base/file.h"
#include "base/str.h"

extern const struct embed control_migrations[], host_migrations[];

#define MAX_VERSIONS 16

struct rows { // what a database of that version has in it
	unsigned version;
	const char *sql;
};

// Each is added when the database has that version; the later ones see the earlier ones' rows too.
static const struct rows control_rows[] = {
	{1, "INSERT INTO keys (id, name, sha256, prefix, created_ns, last_used_ns) VALUES ('key', "
	    "'admin', 'hash', 'e2b_1', 5, 0);"
	    "INSERT INTO sandboxes VALUES ('irun', 'base', '{\"a\":\"1\"}', '{\"E\":\"2\"}', "
	    "'kill', "
	    "300, 10, 1, NULL, NULL);"
	    "INSERT INTO sandboxes VALUES ('imaking', 'base', '{}', '{}', 'pause', 0, 11, 0, NULL, "
	    "NULL);"
	    "INSERT INTO sandboxes VALUES ('iended', 'base', '{}', '{}', 'kill', 0, 12, 1, 20, "
	    "'{\"state\":\"stopped\",\"cause\":\"killed\"}');"},
	{2, "INSERT INTO templates VALUES ('warm', 'snapshot', 'snap1', 'irun', 'base', 1, 512, "
	    "1024, 1, 1, 30);"
	    "INSERT INTO snapshot_operations VALUES ('snap2', 'create', 'new', 'irun', 'base', 0, "
	    "31);"},
	{3, "INSERT INTO hosts VALUES ('local', 'journal', 7);"
	    "INSERT INTO events (host, host_seq, at_ns, sandbox, kind, cause, data) "
	    "VALUES ('local', 7, 40, 'irun', 'running', '', '{}');"},
	{4, "INSERT INTO operations (id, kind, sandbox, snapshot, state, request, phases, "
	    "created_ns) "
	    "VALUES ('op', 'pause', 'irun', '', 'open', '{}', '[]', 50);"},
	{5, "UPDATE sandboxes SET api_key = 'key', name = 'web' WHERE id = 'irun';"
	    "INSERT INTO operations (id, kind, sandbox, snapshot, state, request, phases, "
	    "created_ns) VALUES ('fork', 'fork', 'irun', '', 'open', "
	    "'{\"children\":[{\"id\":\"ichild\",\"op\":\"x\"}]}', '[]', 60);"},
};

static const struct rows host_rows[] = {
	{1, "INSERT INTO sandboxes VALUES ('irun', 'base', 'running', 1, 512, 1024, 1, 2, 0, 0, 0, "
	    "3, "
	    "'t', '', '', '[]');"
	    "INSERT INTO operations VALUES ('op', 'create', 'irun', 'done', 1, 2);"
	    "INSERT INTO events (at_ns, sandbox, kind, cause, data) VALUES (1, 'irun', 'running', "
	    "'', '{}');"},
	{2, "INSERT INTO snapshots VALUES ('snap', 'pause', 'irun', 'base', '', '', 't', 1, 512, "
	    "1024, 1, 1, 9);"},
};

static unsigned count(const struct embed *m)
{
	unsigned n = 0;
	while (m[n].name)
		n++;
	return n;
}

static void open_at(const char *path, const struct embed *m, unsigned version, struct db **ret)
{
	struct embed some[MAX_VERSIONS + 1] = {0};
	struct err e = {0};
	memcpy(some, m, version * sizeof *some);
	if (db_open(path, some, ret, &e) < 0)
		fail_msg("version %u: %s", version, e.text);
}

static void exec(struct db *db, const char *sql)
{
	if (sqlite3_exec(db_handle(db), sql, NULL, NULL, NULL) != SQLITE_OK)
		fail_msg("%s: %s", sql, sqlite3_errmsg(db_handle(db)));
}

static int add_text(void *ctx, int n, char **values, char **names)
{
	for (int i = 0; i < n; i++)
		strbuf_addf(ctx, "%s|", values[i] ? values[i] : "NULL");
	strbuf_addc(ctx, '\n');
	return 0;
}

static void dump(struct db *db, const char *sql, struct strbuf *out)
{
	if (sqlite3_exec(db_handle(db), sql, add_text, out, NULL) != SQLITE_OK)
		fail_msg("%s: %s", sql, sqlite3_errmsg(db_handle(db)));
}

static void is(struct db *db, const char *sql, const char *want)
{
	_cleanup_strbuf_ struct strbuf got = {0};
	dump(db, sql, &got);
	if (!str_eq(got.data ? got.data : "", want))
		fail_msg("%s: '%s', not '%s'", sql, got.data ? got.data : "", want);
}

static int setup(void **state)
{
	char *dir = strdup("/tmp/migrate.XXXXXX");
	assert_non_null(mkdtemp(dir));
	*state = dir;
	return 0;
}

static int teardown(void **state)
{
	file_rm_rf(AT_FDCWD, *state);
	free(*state);
	return 0;
}

// A database made version by version, with the rows of each, has the schema of a new one.
static void upgrade(const char *dir, const struct embed *m, const struct rows *rows, size_t n_rows,
	unsigned from, struct db **ret)
{
	char path[100];
	snprintf(path, sizeof path, "%s/%u.db", dir, from);
	for (unsigned v = 1; v <= from; v++) {
		struct db *db;
		open_at(path, m, v, &db);
		for (size_t i = 0; i < n_rows; i++)
			if (rows[i].version == v)
				exec(db, rows[i].sql);
		db_close(db);
	}
	open_at(path, m, count(m), ret);
	is(*ret, "PRAGMA foreign_key_check", "");
	is(*ret, "PRAGMA integrity_check", "ok|\n");
	char version[16];
	snprintf(version, sizeof version, "%u|\n", count(m));
	is(*ret, "PRAGMA user_version", version);

	struct db *fresh;
	_cleanup_strbuf_ struct strbuf a = {0}, b = {0};
	static const char schema[] = "SELECT type, name, tbl_name, sql FROM sqlite_master "
				     "WHERE name NOT LIKE 'sqlite_%' ORDER BY name";
	snprintf(path, sizeof path, "%s/fresh%u.db", dir, from);
	open_at(path, m, count(m), &fresh);
	dump(fresh, schema, &a);
	dump(*ret, schema, &b);
	assert_string_equal(a.data, b.data);
	db_close(fresh);
}

static void test_control_from_every_version(void **state)
{
	for (unsigned v = 0; v <= count(control_migrations); v++) {
		struct db *db;
		upgrade(*state, control_migrations, control_rows, ARRAY_SIZE(control_rows), v, &db);
		if (v == 0) {
			db_close(db);
			continue;
		}
		is(db, "SELECT id, name FROM keys", "key|admin|\n");
		// Those that are added at version 1 only: later ones have other columns.
		is(db,
			"SELECT id, host, template, metadata, env, on_timeout, timeout_sec, "
			"created_ns, state, ended_ns FROM sandboxes ORDER BY created_ns",
			"irun|local|base|{\"a\":\"1\"}|{\"E\":\"2\"}|kill|300|10|running|NULL|\n"
			"imaking|local|base|{}|{}|pause|0|11|creating|NULL|\n"
			"iended|local|base|{}|{}|kill|0|12|stopped|20|\n");
		is(db, "SELECT ended FROM sandboxes WHERE id = 'iended'",
			"{\"state\":\"stopped\",\"cause\":\"killed\"}|\n");
		// Rows from before are nobody's, and have no name.
		is(db, "SELECT id, api_key, name FROM sandboxes ORDER BY created_ns",
			v >= 5 ? "irun|key|web|\nimaking||NULL|\niended||NULL|\n"
			       : "irun||NULL|\nimaking||NULL|\niended||NULL|\n");
		is(db, "SELECT name, snapshot_id FROM templates", v >= 2 ? "warm|snap1|\n" : "");
		is(db, "SELECT name, journal, cursor, applied FROM hosts",
			v >= 3 ? "local|journal|7|0|\n" : "local||0|0|\n");
		is(db, "SELECT host_seq, sandbox FROM events", v >= 3 ? "7|irun|\n" : "");
		// A snapshot that was being made by an older version is an open operation.
		is(db,
			"SELECT kind, sandbox, snapshot, state, request, created_ns FROM "
			"operations "
			"WHERE kind = 'snapshot'",
			v < 2 ? ""
			      : "snapshot|irun|snap2|open|{\"name\":\"new\",\"parent\":"
				"\"base\",\"overwrite\":false}|31|\n");
		is(db, "SELECT id, state FROM operations WHERE id = 'op'",
			v >= 4 ? "op|open|\n" : "");
		is(db, "SELECT sandbox, made FROM operation_subjects WHERE operation = 'op'",
			v >= 4 ? "irun|0|\n" : "");
		is(db,
			"SELECT sandbox, made FROM operation_subjects WHERE operation = 'fork' "
			"ORDER BY "
			"sandbox",
			v >= 5 ? "ichild|1|\nirun|0|\n" : "");
		db_close(db);
	}
}

static void test_host_from_every_version(void **state)
{
	for (unsigned v = 0; v <= count(host_migrations); v++) {
		struct db *db;
		upgrade(*state, host_migrations, host_rows, ARRAY_SIZE(host_rows), v, &db);
		is(db, "SELECT count(*) FROM journal WHERE length(id) = 32", "1|\n");
		if (v >= 1) {
			is(db,
				"SELECT id, state, slot, snapshot, generation, lineage FROM "
				"sandboxes",
				"irun|running|3||0|0|\n");
			is(db, "SELECT op_id, state, data FROM operations", "op|done|{}|\n");
			is(db, "SELECT seq, kind FROM events", "1|running|\n");
		}
		is(db, "SELECT id, kind FROM snapshots", v >= 2 ? "snap|pause|\n" : "");
		db_close(db);
	}
}

static void refused_sql(struct db *db, const char *sql)
{
	if (sqlite3_exec(db_handle(db), sql, NULL, NULL, NULL) == SQLITE_OK)
		fail_msg("taken: %s", sql);
}

static void test_constraints_hold(void **state)
{
	char path[100];
	struct db *db;
	snprintf(path, sizeof path, "%s/c.db", (char *)*state);
	open_at(path, control_migrations, count(control_migrations), &db);
#define COLUMNS                                                                                    \
	"(id, host, template, metadata, env, on_timeout, timeout_sec, created_ns, state, "         \
	"generation, ended_ns, ended, api_key, name) "
#define BOX "INSERT INTO sandboxes " COLUMNS "VALUES ('i1', "
#define BARE ", '', NULL)"
	// What is refused below is refused for what is wrong with it: this one is taken.
	exec(db, BOX "'local', 'b', '{}', '{}', 'kill', 0, 9, 'running', 0, NULL, NULL" BARE
		     "; DELETE FROM sandboxes");
	refused_sql(db,
		BOX "'elsewhere', 'b', '{}', '{}', 'kill', 0, 1, 'running', 0, NULL, NULL" BARE);
	refused_sql(db, BOX "'local', 'b', '{}', '{}', 'kill', 0, 1, 'lost', 0, NULL, NULL" BARE);
	refused_sql(
		db, BOX "'local', 'b', '{}', '{}', 'kill', 0, 1, 'stopped', 0, NULL, NULL" BARE);
	refused_sql(db, BOX "'local', 'b', '{}', '{}', 'kill', 0, 1, 'running', 0, 5, '{}'" BARE);
	refused_sql(
		db, BOX "'local', 'b', '{}', '{}', 'kill', 0, 1, 'running', -1, NULL, NULL" BARE);
	// Names: of a key, and one each, until the end of who has it.
	refused_sql(db,
		BOX "'local', 'b', '{}', '{}', 'kill', 0, 1, 'running', 0, NULL, NULL, '', 'web')");
#define NAMED(id, at, end)                                                                         \
	"INSERT INTO sandboxes " COLUMNS "VALUES ('" id                                            \
	"', 'local', 'b', '{}', '{}', 'kill', 0, " at ", " end ", 'k', 'web');"
	exec(db, NAMED("i1", "1", "'stopped', 0, 5, '{}'"));
	exec(db, NAMED("i2", "2", "'running', 0, NULL, NULL"));
	refused_sql(db, NAMED("i3", "3", "'running', 0, NULL, NULL"));
	exec(db, "DELETE FROM sandboxes");
#define OP                                                                                         \
	"INSERT INTO operations (id, kind, sandbox, snapshot, state, error_code, error, request, " \
	"phases, api_key, idempotency_key, request_hash, status, answer, created_ns, ended_ns) "   \
	"VALUES ('o', "
	refused_sql(db,
		OP "'dance', '', '', 'open', NULL, NULL, '{}', '[]', NULL, NULL, NULL, NULL, "
		   "NULL, 1, NULL)");
	refused_sql(db,
		OP "'pause', '', '', 'done', NULL, NULL, '{}', '[]', NULL, NULL, NULL, NULL, "
		   "NULL, 1, NULL)");
	refused_sql(db, OP "'pause', '', '', 'failed', NULL, NULL, '{}', '[]', NULL, NULL, NULL, "
			   "NULL, NULL, 1, 2)");
	refused_sql(db, OP "'pause', '', '', 'open', NULL, NULL, '{}', '[]', 'nokey', 'k', 'h', "
			   "NULL, NULL, 1, NULL)");
	refused_sql(db,
		OP "'pause', '', '', 'open', NULL, NULL, '{}', '[]', NULL, 'k', NULL, NULL, "
		   "NULL, 1, NULL)");
	// A key that is revoked takes its operations' keys along, not them.
	exec(db, "INSERT INTO keys (id, name, sha256, prefix, created_ns, last_used_ns) VALUES "
		 "('key', 'n', 'h', 'p', 1, 0);" OP
		 "'pause', '', '', 'open', NULL, NULL, '{}', '[]', 'key', 'k', 'h', NULL, NULL, 1, "
		 "NULL); DELETE FROM keys");
	is(db, "SELECT id, api_key FROM operations", "o|NULL|\n");
	db_close(db);
}

static void test_check_backup_restore(void **state)
{
	const char *dir = *state;
	char path[100], copy[100], other[100];
	struct err e = {0};
	struct db *db;
	unsigned version = 0;
	snprintf(path, sizeof path, "%s/control.db", dir);
	snprintf(copy, sizeof copy, "%s/copy.db", dir);
	snprintf(other, sizeof other, "%s/other.db", dir);
	open_at(path, control_migrations, count(control_migrations), &db);
	exec(db, "INSERT INTO keys (id, name, sha256, prefix, created_ns, last_used_ns) VALUES "
		 "('one', 'n', 'h', 'p', 1, 0)");
	// While it is open and its last rows are in the -wal only.
	assert_int_equal(dbfile_check(path, control_migrations, &version, NULL, &e), 0);
	assert_int_equal(version, count(control_migrations));
	if (dbfile_backup(path, control_migrations, copy, &e) < 0)
		fail_msg("%s", e.text);
	struct stat st;
	assert_int_equal(stat(copy, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true(dbfile_backup(path, control_migrations, copy, &e) < 0);
	assert_int_equal(e.code, ERR_CONFLICT);
	exec(db, "INSERT INTO keys (id, name, sha256, prefix, created_ns, last_used_ns) VALUES "
		 "('two', 'n', 'h2', 'p', 1, 0)");
	// Also in the middle of another's transaction.
	exec(db, "BEGIN IMMEDIATE; INSERT INTO keys (id, name, sha256, prefix, created_ns, "
		 "last_used_ns) VALUES ('three', 'n', 'h3', 'p', 1, 0)");
	if (dbfile_backup(path, control_migrations, other, &e) < 0)
		fail_msg("%s", e.text);
	exec(db, "COMMIT");
	db_close(db);

	// Its owner stays what it was: the server need not be root.
	bool root = geteuid() == 0;
	if (root)
		assert_int_equal(chown(path, 1234, 1234), 0);
	if (dbfile_restore(path, control_migrations, copy, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_uid, root ? 1234 : geteuid());
	open_at(path, control_migrations, count(control_migrations), &db);
	is(db, "SELECT id FROM keys", "one|\n");
	db_close(db);
	char old[140];
	snprintf(old, sizeof old, "%s.before-restore", path);
	open_at(old, control_migrations, count(control_migrations), &db);
	is(db, "SELECT count(*) FROM keys", "3|\n");
	db_close(db);
	open_at(other, control_migrations, count(control_migrations), &db);
	is(db, "SELECT count(*) FROM keys", "2|\n");
	db_close(db);
	// An older version's copy is taken, and migrated at the next start.
	unlink(other);
	open_at(other, control_migrations, 1, &db);
	db_close(db);
	assert_int_equal(dbfile_restore(path, control_migrations, other, &e), 0);
	open_at(path, control_migrations, count(control_migrations), &db);
	db_close(db);
}

static void refuse_restore(const char *path, const char *from, enum err_code code, const char *part)
{
	struct err e = {0};
	assert_true(dbfile_restore(path, control_migrations, from, &e) < 0);
	if (e.code != code || !strstr(e.text, part))
		fail_msg("%s", e.text);
}

static void test_what_is_not_restored(void **state)
{
	const char *dir = *state;
	char path[100], bad[100];
	struct err e = {0};
	struct db *db;
	snprintf(path, sizeof path, "%s/control.db", dir);
	snprintf(bad, sizeof bad, "%s/bad.db", dir);
	open_at(path, control_migrations, count(control_migrations), &db);
	exec(db, "INSERT INTO keys (id, name, sha256, prefix, created_ns, last_used_ns) VALUES "
		 "('one', 'n', 'h', 'p', 1, 0)");
	db_close(db);
	refuse_restore(path, bad, ERR_NOT_FOUND, "does not exist");
	open_at(bad, control_migrations, count(control_migrations), &db);
	exec(db, "PRAGMA user_version = 99");
	db_close(db);
	refuse_restore(path, bad, ERR_UNAVAILABLE, "version 99");
	assert_int_equal(unlink(bad), 0);
	assert_int_equal(
		file_write_atomic(AT_FDCWD, bad, "not a database, but some text", 29, 0600), 0);
	refuse_restore(path, bad, ERR_INTERNAL, "is damaged");
	assert_int_equal(file_write_atomic(AT_FDCWD, bad, "", 0, 0600), 0);
	refuse_restore(path, bad, ERR_INVALID, "no database of Stasis");
	// A row without the one it names, and a page that is overwritten.
	unlink(bad);
	open_at(bad, control_migrations, count(control_migrations), &db);
	exec(db, "PRAGMA foreign_keys = OFF; INSERT INTO events (host, host_seq, at_ns, sandbox, "
		 "kind, cause, data) VALUES ('gone', 1, 1, '', '', '', '')");
	db_close(db);
	_cleanup_strbuf_ struct strbuf problems = {0};
	assert_true(dbfile_check(bad, control_migrations, NULL, &problems, &e) < 0);
	assert_non_null(strstr(problems.data, "of events names a row of hosts"));
	refuse_restore(path, bad, ERR_INTERNAL, "is damaged");
	int fd = open(bad, O_RDWR);
	static const char junk[600] = {7};
	assert_int_equal(pwrite(fd, junk, sizeof junk, 4096 * 3), sizeof junk);
	close(fd);
	refuse_restore(path, bad, ERR_INTERNAL, "is damaged");
	// And nothing of it has touched what is there.
	open_at(path, control_migrations, count(control_migrations), &db);
	is(db, "SELECT id FROM keys", "one|\n");
	db_close(db);
}

// As 24c09c7 left it, with a pause under way: the row that an orphan is made of.
static void test_a_journal_of_an_older_server_is_read(void **state)
{
	_cleanup_strbuf_ struct strbuf file = {0};
	_cleanup_free_ char *path = str_printf("%s/control.db", (char *)*state);
	struct db *db = NULL;
	assert_int_equal(file_read(AT_FDCWD, FIXTURES "/24c09c7/control.db", 1 << 20, &file), 0);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, file.data, file.len, 0600), 0);
	open_at(path, control_migrations, count(control_migrations), &db);
	is(db, "SELECT id, kind, sandbox, state FROM operations",
		"aaaaaaaa-0000-4000-8000-000000000002|pause|ipausing|open|\n");
	is(db, "SELECT id, state, generation FROM sandboxes ORDER BY id",
		"ipaused|paused|2|\nipausing|running|1|\n");
	db_close(db);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_control_from_every_version),
		T(test_host_from_every_version),
		T(test_a_journal_of_an_older_server_is_read),
		T(test_constraints_hold),
		T(test_check_backup_restore),
		T(test_what_is_not_restored),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
