// SPDX-License-Identifier: Apache-2.0
#include "played/lost.h"
#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>
#include "base/file.h"
#include "played/cases.h"

static void each_part(const char *from, const char *to, bool copy)
{
	static const char *const parts[] = {"host.db", "host.db-wal", "host.db-shm"};
	char a[256], b[256];
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		_cleanup_strbuf_ struct strbuf text = {0};
		snprintf(a, sizeof a, "%s/%s%s", *from ? world.dir : world.data, from, parts[i]);
		snprintf(b, sizeof b, "%s/%s%s", *to ? world.dir : world.data, to, parts[i]);
		unlink(b);
		if (!copy)
			rename(a, b);
		else if (file_read(AT_FDCWD, a, 16 << 20, &text) == 0)
			file_write_atomic(AT_FDCWD, b, text.data, text.len, 0600);
	}
}

void database_move(const char *from, const char *to)
{
	each_part(from, to, false);
}

void database_copy(const char *from, const char *to)
{
	each_part(from, to, true);
}

void database_sql(const char *text)
{
	char path[256];
	sqlite3 *db = NULL;
	snprintf(path, sizeof path, "%s/host.db", world.data);
	check(sqlite3_open(path, &db) == SQLITE_OK &&
			sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK,
		"%s", text);
	sqlite3_close(db);
}

void database_of_another(void)
{
	database_sql("UPDATE journal SET id = 'another', epoch = epoch + 1000");
}

static void open_refused(void *arg)
{
	struct host *h = NULL;
	struct err e = {0};
	check(world_try_open(&h, &e) < 0, "it starts");
	check(e.code == ERR_CONFLICT && strstr(e.text, "stasis db rebuild host") &&
			strstr(e.text, "--forget"),
		"the refusal does not name the ways out: %s", e.text);
}

void must_refuse(void)
{
	check(served(open_refused, NULL), "killed");
}

static void rebuild_now(void *arg)
{
	struct host_rebuilt r;
	struct err e = {0};
	check(host_rebuild(world.data, world.run, *(const bool *)arg, &r, &e) == 0, "rebuild: %s",
		e.text);
	if (getenv("PLAYED_TRACE"))
		fprintf(stderr, "%s", r.text.data ? r.text.data : "");
	strbuf_done(&r.text);
}

void rebuild(bool forget)
{
	check(served(rebuild_now, &forget), "killed");
}
