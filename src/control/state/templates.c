// SPDX-License-Identifier: Apache-2.0
#include "control/state/templates.h"
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "control/state/operations.h"

#define COLUMNS                                                                                    \
	"name, snapshot_id, sandbox_id, parent, vcpus, memory_mb, disk_mb, memory_bytes, "         \
	"disk_bytes, created_ns, api_key, owner, public"

static void read_template(sqlite3_stmt *st, struct template *ret)
{
	snprintf(ret->name, sizeof ret->name, "%s", db_text(st, 0));
	snprintf(ret->snapshot, sizeof ret->snapshot, "%s", db_text(st, 1));
	snprintf(ret->sandbox, sizeof ret->sandbox, "%s", db_text(st, 2));
	snprintf(ret->parent, sizeof ret->parent, "%s", db_text(st, 3));
	ret->vcpus = (unsigned)sqlite3_column_int64(st, 4);
	ret->memory_mb = (unsigned)sqlite3_column_int64(st, 5);
	ret->disk_mb = (uint64_t)sqlite3_column_int64(st, 6);
	ret->memory_bytes = (uint64_t)sqlite3_column_int64(st, 7);
	ret->disk_bytes = (uint64_t)sqlite3_column_int64(st, 8);
	ret->created_ns = (uint64_t)sqlite3_column_int64(st, 9);
	snprintf(ret->api_key, sizeof ret->api_key, "%s", db_text(st, 10));
	snprintf(ret->owner, sizeof ret->owner, "%s", db_text(st, 11));
	ret->public = sqlite3_column_int64(st, 12) != 0;
}

static int take_one(void *ctx, sqlite3_stmt *st)
{
	read_template(st, ctx);
	return 1;
}

// With the database locked. 1: found.
static int find(struct db *db, const char *name, struct template *ret, struct err *e)
{
	return db_query(db, e, take_one, ret,
		"SELECT " COLUMNS " FROM templates WHERE name = ? AND kind = 'snapshot'", "s",
		name);
}

int templates_none(const char *name, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, "no snapshot '%.63s'", name);
}

int templates_get(struct db *db, const char *name, struct template *ret, struct err *e)
{
	int r = DB_LOCKED(db, find(db, name, ret, e));
	if (r < 0)
		return r;
	return r == 1 ? 0 : templates_none(name, e);
}

struct list {
	struct template *items;
	size_t n;
};

static int take_template(void *ctx, sqlite3_stmt *st)
{
	struct list *l = ctx;
	struct template *p = reallocarray(l->items, l->n + 1, sizeof *p);
	if (!p)
		return -ENOMEM;
	l->items = p;
	read_template(st, &p[l->n++]);
	return 0;
}

int templates_list(struct db *db, struct template **ret, size_t *ret_n, struct err *e)
{
	struct list l = {0};
	int r = DB_LOCKED(db, db_query(db, e, take_template, &l,
				      "SELECT " COLUMNS " FROM templates WHERE kind = 'snapshot' "
				      "ORDER BY created_ns DESC, name",
				      ""));
	if (r < 0) {
		free(l.items);
		return err_prefix(e, r, "templates in control.db");
	}
	*ret = l.items;
	*ret_n = l.n;
	return 0;
}

static int yes(void *ctx, sqlite3_stmt *st)
{
	return 1;
}

int templates_has_snapshot(struct db *db, const char *snapshot, struct err *e)
{
	return DB_LOCKED(
		db, db_query(db, e, yes, NULL, "SELECT 1 FROM templates WHERE snapshot_id = ?", "s",
			    snapshot));
}

// --- writing, each in one transaction

static int start(struct db *db, struct err *e)
{
	db_lock(db);
	return db_begin(db, e);
}

static int finish(struct db *db, int r, const struct db_also *also, struct err *e)
{
	if (r == 0)
		r = db_run_also(db, also, e);
	if (r == 0)
		r = db_commit(db, e);
	else
		db_rollback(db);
	db_unlock(db);
	return r;
}

static int name_taken(const struct template *old, const char *owner, struct err *e)
{
	const char *name = old->name;
	if (!str_eq(old->owner, owner))
		return err_set(e, ERR_CONFLICT,
			"name: '%s' is taken, by another owner's snapshot: choose another one",
			name);
	return err_set(e, ERR_CONFLICT,
		"name: there is a snapshot '%s' already; set overwrite to replace it", name);
}

int templates_begin(struct db *db, const char *name, const char *owner, bool overwrite,
	const struct db_also *also, struct err *e)
{
	struct template old;
	int r = start(db, e);
	if (r == 0)
		r = find(db, name, &old, e);
	if (r == 1 && (!overwrite || !str_eq(old.owner, owner)))
		r = name_taken(&old, owner, e);
	if (r >= 0)
		r = operations_makes_snapshot(db, name, e);
	if (r == 1)
		r = err_set(e, ERR_CONFLICT, "name: a snapshot '%s' is being made right now", name);
	return finish(db, r, also, e);
}

static int replace(struct db *db, const struct template *new, bool overwrite,
	char ret_old[UUID_SIZE], struct err *e)
{
	struct template old = {0};
	int r = find(db, new->name, &old, e);
	if (r == 1 && (!overwrite || !str_eq(old.owner, new->owner)))
		return name_taken(&old, new->owner, e);
	if (r == 1)
		r = db_exec(db, e, "DELETE FROM templates WHERE name = ?", "s", new->name);
	if (r == 0)
		r = db_exec(db, e,
			"INSERT INTO templates (" COLUMNS
			", kind) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'snapshot')",
			"ssssiiiiiissi", new->name, new->snapshot, new->sandbox, new->parent,
			(int64_t) new->vcpus, (int64_t) new->memory_mb, (int64_t) new->disk_mb,
			(int64_t) new->memory_bytes, (int64_t) new->disk_bytes,
			(int64_t) new->created_ns, new->api_key, new->owner,
			(int64_t)(new->public || old.public));
	memcpy(ret_old, old.snapshot, UUID_SIZE);
	return r;
}

int templates_commit(struct db *db, const struct template *new, bool overwrite,
	char ret_old[UUID_SIZE], const struct db_also *also, struct err *e)
{
	int r = start(db, e);
	if (r == 0)
		r = replace(db, new, overwrite, ret_old, e);
	return finish(db, r, also, e);
}

int templates_publish(struct db *db, const char *name, bool public, struct err *e)
{
	struct template t;
	int r = start(db, e);
	if (r == 0)
		r = find(db, name, &t, e);
	if (r == 0)
		r = templates_none(name, e);
	else if (r == 1)
		r = db_exec(db, e, "UPDATE templates SET public = ? WHERE name = ?", "is",
			(int64_t) public, name);
	return finish(db, r, NULL, e);
}

int templates_remove(struct db *db, const char *name, char ret_snapshot[UUID_SIZE],
	const struct db_also *also, struct err *e)
{
	struct template old = {0};
	int r = start(db, e);
	if (r == 0)
		r = find(db, name, &old, e);
	if (r == 0)
		r = templates_none(name, e);
	else if (r == 1)
		r = db_exec(db, e, "DELETE FROM templates WHERE name = ?", "s", name);
	if (r == 0)
		memcpy(ret_snapshot, old.snapshot, UUID_SIZE);
	return finish(db, r, also, e);
}
