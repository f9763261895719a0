// SPDX-License-Identifier: Apache-2.0
#include "control/state/retention_store.h"
#include <string.h>
#include "base/str.h"

static const char *const kind_names[] = {"sandbox", "snapshot"};
static const char *const what_names[] = {"paused", "snapshots"};
static const char *const per_names[] = {"all", "key", "template"};

const char *retention_kind_name(enum retention_kind k)
{
	return kind_names[k];
}

const char *retention_per_name(enum retention_per p)
{
	return per_names[p];
}

static enum retention_kind kind_of(const char *text)
{
	return str_eq(text, "snapshot") || str_eq(text, "snapshots") ? RETENTION_SNAPSHOT
								     : RETENTION_SANDBOX;
}

// A growing array of rows.
struct list {
	char *items;
	size_t n, size; // size: of one
	void (*read)(sqlite3_stmt *st, void *item);
};

static int take(void *ctx, sqlite3_stmt *st)
{
	struct list *l = ctx;
	char *more = reallocarray(l->items, l->n + 1, l->size);
	if (!more)
		return -ENOMEM;
	l->items = more;
	memset(more + l->n * l->size, 0, l->size);
	l->read(st, more + l->n++ * l->size);
	return 0;
}

static int give(struct list *l, int rc, void *ret, size_t *ret_n, struct err *e)
{
	if (rc < 0) {
		free(l->items);
		return err_prefix(e, rc, "retention in control.db");
	}
	*(char **)ret = l->items;
	*ret_n = l->n;
	return 0;
}

// --- rules

static bool read_limit(sqlite3_stmt *st, int column, uint64_t *ret)
{
	*ret = (uint64_t)sqlite3_column_int64(st, column);
	return sqlite3_column_type(st, column) != SQLITE_NULL;
}

static void read_rule(sqlite3_stmt *st, void *item)
{
	struct retention_rule *r = item;
	snprintf(r->name, sizeof r->name, "%s", db_text(st, 0));
	r->kind = kind_of(db_text(st, 1));
	r->has_age = read_limit(st, 2, &r->max_age_sec);
	r->has_newest = read_limit(st, 3, &r->keep_newest);
	r->has_bytes = read_limit(st, 4, &r->max_bytes);
	snprintf(r->api_key, sizeof r->api_key, "%s", db_text(st, 5));
	snprintf(r->template, sizeof r->template, "%s", db_text(st, 6));
	for (unsigned p = 0; p < RETENTION_PER_MAX; p++)
		if (str_eq(per_names[p], db_text(st, 7)))
			r->per = (enum retention_per)p;
	r->grace_sec = (uint64_t)sqlite3_column_int64(st, 8);
	r->created_ns = (uint64_t)sqlite3_column_int64(st, 9);
}

int retention_rules(struct db *db, struct retention_rule **ret, size_t *ret_n, struct err *e)
{
	struct list l = {.size = sizeof **ret, .read = read_rule};
	int rc = DB_LOCKED(
		db, db_query(db, e, take, &l,
			    "SELECT name, what, max_age_sec, keep_newest, max_bytes, api_key, "
			    "template, "
			    "per, grace_sec, created_ns FROM retention_rules ORDER BY name",
			    ""));
	return give(&l, rc, ret, ret_n, e);
}

int retention_put_rule(struct db *db, const struct retention_rule *r, struct err *e)
{
	db_lock(db);
	int rc = db_begin(db, e);
	if (rc == 0)
		rc = db_exec(db, e,
			"INSERT OR REPLACE INTO retention_rules (name, what, max_age_sec, "
			"keep_newest, max_bytes, api_key, template, per, grace_sec, created_ns) "
			"VALUES (?, ?, iif(?, ?, NULL), iif(?, ?, NULL), iif(?, ?, NULL), ?, ?, ?, "
			"?, ?)",
			"ssiiiiiisssii", r->name, what_names[r->kind], (int64_t)r->has_age,
			(int64_t)r->max_age_sec, (int64_t)r->has_newest, (int64_t)r->keep_newest,
			(int64_t)r->has_bytes, (int64_t)r->max_bytes, r->api_key, r->template,
			per_names[r->per], (int64_t)r->grace_sec, (int64_t)r->created_ns);
	// What it warned by other words is warned again.
	if (rc == 0)
		rc = db_exec(db, e,
			"UPDATE retention_items SET rule = NULL, warned_ns = NULL WHERE rule = ?",
			"s", r->name);
	if (rc == 0)
		rc = db_commit(db, e);
	else
		db_rollback(db);
	db_unlock(db);
	return rc;
}

int retention_remove_rule(struct db *db, const char *name, struct err *e)
{
	db_lock(db);
	int rc = db_exec(db, e, "DELETE FROM retention_rules WHERE name = ?", "s", name);
	if (rc == 0 && sqlite3_changes(db_handle(db)) == 0)
		rc = err_set(e, ERR_NOT_FOUND, "no rule '%.63s'", name);
	db_unlock(db);
	return rc;
}

// --- items

static void read_item(sqlite3_stmt *st, void *item)
{
	struct retention_item *i = item;
	i->kind = kind_of(db_text(st, 0));
	snprintf(i->id, sizeof i->id, "%s", db_text(st, 1));
	snprintf(i->stamp, sizeof i->stamp, "%s", db_text(st, 2));
	i->since_ns = (uint64_t)sqlite3_column_int64(st, 3);
	snprintf(i->rule, sizeof i->rule, "%s", db_text(st, 4));
	i->warned_ns = (uint64_t)sqlite3_column_int64(st, 5);
}

int retention_items(struct db *db, struct retention_item **ret, size_t *ret_n, struct err *e)
{
	struct list l = {.size = sizeof **ret, .read = read_item};
	int rc = DB_LOCKED(db,
		db_query(db, e, take, &l,
			"SELECT kind, id, stamp, since_ns, rule, warned_ns FROM retention_items "
			"ORDER BY kind, id",
			""));
	return give(&l, rc, ret, ret_n, e);
}

int retention_put_item(
	struct db *db, const struct retention_item *i, const struct db_also *also, struct err *e)
{
	bool warned = i->rule[0] != '\0';
	db_lock(db);
	int rc = db_begin(db, e);
	if (rc == 0)
		rc = db_exec(db, e,
			"INSERT OR REPLACE INTO retention_items (kind, id, stamp, since_ns, rule, "
			"warned_ns) VALUES (?, ?, ?, ?, ?, iif(?, ?, NULL))",
			"sssisii", kind_names[i->kind], i->id, i->stamp, (int64_t)i->since_ns,
			warned ? i->rule : NULL, (int64_t)warned, (int64_t)i->warned_ns);
	if (rc == 0)
		rc = db_run_also(db, also, e);
	if (rc == 0)
		rc = db_commit(db, e);
	else
		db_rollback(db);
	db_unlock(db);
	return rc;
}

int retention_drop_item(struct db *db, enum retention_kind kind, const char *id, struct err *e)
{
	return DB_LOCKED(db, db_exec(db, e, "DELETE FROM retention_items WHERE kind = ? AND id = ?",
				     "ss", kind_names[kind], id));
}

// --- what is kept

int retention_keep(struct db *db, enum retention_kind kind, const char *id, bool on, struct err *e)
{
	db_lock(db);
	int rc =
		on ? db_exec(db, e, "INSERT OR IGNORE INTO retention_kept (kind, id) VALUES (?, ?)",
			     "ss", kind_names[kind], id)
		   : db_exec(db, e, "DELETE FROM retention_kept WHERE kind = ? AND id = ?", "ss",
			     kind_names[kind], id);
	if (rc == 0)
		rc = sqlite3_changes(db_handle(db)) > 0;
	db_unlock(db);
	return rc;
}

static void read_kept(sqlite3_stmt *st, void *item)
{
	struct retention_kept *k = item;
	k->kind = kind_of(db_text(st, 0));
	snprintf(k->id, sizeof k->id, "%s", db_text(st, 1));
}

int retention_kept(struct db *db, struct retention_kept **ret, size_t *ret_n, struct err *e)
{
	struct list l = {.size = sizeof **ret, .read = read_kept};
	int rc =
		DB_LOCKED(db, db_query(db, e, take, &l,
				      "SELECT kind, id FROM retention_kept ORDER BY kind, id", ""));
	return give(&l, rc, ret, ret_n, e);
}

// --- the clock

static int read_clock(void *ctx, sqlite3_stmt *st)
{
	struct retention_clock *c = ctx;
	c->served_ns = (uint64_t)sqlite3_column_int64(st, 0);
	c->age_ns = (uint64_t)sqlite3_column_int64(st, 1);
	c->wall_ns = (uint64_t)sqlite3_column_int64(st, 2);
	return 1;
}

int retention_get_clock(struct db *db, struct retention_clock *ret, struct err *e)
{
	*ret = (struct retention_clock){0};
	int rc = DB_LOCKED(
		db, db_query(db, e, read_clock, ret,
			    "SELECT served_ns, age_ns, wall_ns FROM retention_clock", ""));
	return MIN(rc, 0);
}

int retention_put_clock(struct db *db, const struct retention_clock *c, struct err *e)
{
	return DB_LOCKED(db,
		db_exec(db, e, "UPDATE retention_clock SET served_ns = ?, age_ns = ?, wall_ns = ?",
			"iii", (int64_t)c->served_ns, (int64_t)c->age_ns, (int64_t)c->wall_ns));
}

static int read_u64(void *ctx, sqlite3_stmt *st)
{
	*(uint64_t *)ctx = (uint64_t)sqlite3_column_int64(st, 0);
	return 1;
}

static int last_operation(struct db *db, const char *sandbox, uint64_t *ret, struct err *e)
{
	return db_query(db, e, read_u64, ret,
		"SELECT coalesce(max(s.created_ns), 0) FROM operation_subjects s JOIN operations o "
		"ON o.id = s.operation WHERE s.sandbox = ? AND o.kind <> 'destroy'",
		"s", sandbox);
}

int retention_last_operation(struct db *db, const char *sandbox, uint64_t *ret, struct err *e)
{
	*ret = 0;
	int rc = DB_LOCKED(db, last_operation(db, sandbox, ret, e));
	return MIN(rc, 0);
}

// --- the last look

int retention_still_due(struct db *db, const struct retention_due *d, struct err *e)
{
	uint64_t kept = 0, rule = 0, used = 0;
	int rc = db_query(db, e, read_u64, &kept,
		"SELECT count(*) FROM retention_kept WHERE kind = ? AND id = ?", "ss",
		kind_names[d->kind], d->id);
	if (rc >= 0)
		rc = db_query(db, e, read_u64, &rule,
			"SELECT created_ns FROM retention_rules WHERE name = ?", "s", d->rule);
	if (rc >= 0)
		rc = d->kind == RETENTION_SANDBOX
			     ? last_operation(db, d->id, &used, e)
			     : db_query(db, e, read_u64, &used,
				       "SELECT coalesce(max(created_ns), 0) FROM sandboxes "
				       "WHERE template = ?",
				       "s", d->id);
	if (rc < 0)
		return rc;
	const char *what = kind_names[d->kind];
	if (kept)
		return err_set(e, ERR_CONFLICT, "%s '%s' is kept since", what, d->id);
	if (rule != d->rule_created_ns)
		return err_set(e, ERR_CONFLICT, "rule '%s' was changed meanwhile", d->rule);
	if (used > d->used_ns)
		return err_set(e, ERR_CONFLICT, "%s '%s' was used meanwhile", what, d->id);
	return 0;
}
