// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include "base/db.h"
#include "base/file.h"
#include "base/proc.h"
#include "base/str.h"

static const char first[] = "CREATE TABLE t (a INTEGER) STRICT;";
static const struct embed migrations[] = {{"001", first, sizeof first - 1}, {0}};

static int read_count(void *ctx, sqlite3_stmt *row)
{
	*(int64_t *)ctx = sqlite3_column_int64(row, 0);
	return 0;
}

static int64_t count(const char *path)
{
	struct err e = {0};
	struct db *db = NULL;
	int64_t n = -1;
	if (db_open(path, migrations, &db, &e) < 0)
		return -1;
	DB_LOCKED(db, db_query(db, &e, read_count, &n, "SELECT count(*) FROM t", ""));
	db_close(db);
	return n;
}

// A reader (a backup, somebody's sqlite3) that comes and goes must not take the log away from the
// one that writes.
static void another_process_leaves_the_log_alone(void **state _unused_)
{
	char dir[] = "/tmp/db-test-XXXXXX", path[64];
	struct err e = {0};
	struct db *db = NULL;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/x.db", dir);
	assert_int_equal(db_open(path, migrations, &db, &e), 0);
	for (int i = 1; i <= 3; i++) {
		assert_int_equal(DB_LOCKED(db, db_exec(db, &e, "INSERT INTO t VALUES (1)", "")), 0);
		// A program of its own: a mere child would have SQLite's notes of our locks.
		const char *argv[] = {"/proc/self/exe", path, NULL};
		_cleanup_strbuf_ struct strbuf out = {0};
		char expected[16];
		snprintf(expected, sizeof expected, "%d\n", i);
		if (proc_run(argv, NULL, 0, 20000, &out, &e) < 0)
			fail_msg("%s", e.text);
		assert_string_equal(out.data, expected);
	}
	db_close(db);
	assert_int_equal(count(path), 3);
	assert_int_equal(file_rm_rf(AT_FDCWD, dir), 0);
}

int main(int argc, char **argv)
{
	if (argc == 2)
		return printf("%d\n", (int)count(argv[1])) < 0;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(another_process_leaves_the_log_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
