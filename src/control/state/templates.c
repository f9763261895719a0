// SPDX-License-Identifier: Apache-2.0
#include "control/state/templates.h"
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"

struct templates {
	struct db *db;
	pthread_mutex_t lock;
	struct template_op *active; // under lock
};

int templates_open(struct db *db, struct templates **ret, struct err *e)
{
	struct templates *t = calloc(1, sizeof *t);
	if (!t)
		return err_errno(e, ENOMEM, "templates");
	t->db = db;
	pthread_mutex_init(&t->lock, NULL);
	*ret = t;
	return 0;
}

struct templates *templates_free(struct templates *t)
{
	if (t)
		pthread_mutex_destroy(&t->lock);
	free(t);
	return NULL;
}

// --- reading

#define COLUMNS                                                                                    \
	"name, snapshot_id, sandbox_id, parent, vcpus, memory_mb, disk_mb, memory_bytes, "         \
	"disk_bytes, created_ns"

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
}

static int take_one(void *ctx, sqlite3_stmt *st)
{
	read_template(st, ctx);
	return 1;
}

// With the database locked. 1: found.
static int find(struct templates *t, const char *name, struct template *ret, struct err *e)
{
	return db_query(t->db, e, take_one, ret,
		"SELECT " COLUMNS " FROM templates WHERE name = ? AND kind = 'snapshot'", "s",
		name);
}

static int no_snapshot(const char *name, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, "no snapshot '%.63s'", name);
}

int templates_get(struct templates *t, const char *name, struct template *ret, struct err *e)
{
	int r = DB_LOCKED(t->db, find(t, name, ret, e));
	if (r < 0)
		return r;
	return r == 1 ? 0 : no_snapshot(name, e);
}

struct list {
	void *items;
	size_t n, size;
};

static void *add_item(struct list *l)
{
	void *p = reallocarray(l->items, l->n + 1, l->size);
	if (!p)
		return NULL;
	l->items = p;
	p = (char *)l->items + l->n++ * l->size;
	memset(p, 0, l->size);
	return p;
}

static int take_template(void *ctx, sqlite3_stmt *st)
{
	struct template *t = add_item(ctx);
	if (!t)
		return -ENOMEM;
	read_template(st, t);
	return 0;
}

static int take_op(void *ctx, sqlite3_stmt *st)
{
	struct template_op *op = add_item(ctx);
	if (!op)
		return -ENOMEM;
	snprintf(op->snapshot, sizeof op->snapshot, "%s", db_text(st, 0));
	op->deletes = str_eq(db_text(st, 1), "delete");
	snprintf(op->name, sizeof op->name, "%s", db_text(st, 2));
	snprintf(op->sandbox, sizeof op->sandbox, "%s", db_text(st, 3));
	snprintf(op->parent, sizeof op->parent, "%s", db_text(st, 4));
	op->overwrite = sqlite3_column_int(st, 5) != 0;
	return 0;
}

static int list_locked(struct templates *t, struct list *l, struct err *e)
{
	return db_query(t->db, e, take_template, l,
		"SELECT " COLUMNS " FROM templates WHERE kind = 'snapshot' "
		"ORDER BY created_ns DESC, name",
		"");
}

int templates_list(struct templates *t, struct template **ret, size_t *ret_n, struct err *e)
{
	struct list l = {.size = sizeof(struct template)};
	int r = DB_LOCKED(t->db, list_locked(t, &l, e));
	if (r < 0) {
		free(l.items);
		return err_prefix(e, r, "templates in control.db");
	}
	*ret = l.items;
	*ret_n = l.n;
	return 0;
}

int templates_state(struct templates *t, struct template **ret, size_t *ret_n,
	struct template_op **ret_ops, size_t *ret_n_ops, struct err *e)
{
	struct list l = {.size = sizeof(struct template)},
		    ops = {.size = sizeof(struct template_op)};
	db_lock(t->db);
	int r = list_locked(t, &l, e);
	if (r == 0)
		r = db_query(t->db, e, take_op, &ops,
			"SELECT snapshot_id, action, name, sandbox_id, parent, overwrite "
			"FROM snapshot_operations ORDER BY started_ns",
			"");
	db_unlock(t->db);
	if (r < 0) {
		free(l.items);
		free(ops.items);
		return err_prefix(e, r, "templates in control.db");
	}
	*ret = l.items;
	*ret_n = l.n;
	*ret_ops = ops.items;
	*ret_n_ops = ops.n;
	return 0;
}

// --- which operations this process works on

static void activate(struct templates *t, struct template_op *op)
{
	pthread_mutex_lock(&t->lock);
	op->next = t->active;
	t->active = op;
	pthread_mutex_unlock(&t->lock);
}

void templates_end(struct templates *t, struct template_op *op)
{
	pthread_mutex_lock(&t->lock);
	for (struct template_op **p = &t->active; *p; p = &(*p)->next)
		if (*p == op) {
			*p = op->next;
			break;
		}
	pthread_mutex_unlock(&t->lock);
}

bool templates_is_active(struct templates *t, const char *snapshot)
{
	pthread_mutex_lock(&t->lock);
	struct template_op *op = t->active;
	while (op && !str_eq(op->snapshot, snapshot))
		op = op->next;
	pthread_mutex_unlock(&t->lock);
	return op != NULL;
}

// --- writing, each in one transaction

static int finish(struct templates *t, int r, const struct db_also *also, struct err *e)
{
	if (r == 0)
		r = db_run_also(t->db, also, e);
	if (r == 0)
		r = db_commit(t->db, e);
	else
		db_rollback(t->db);
	db_unlock(t->db);
	return r;
}

static int start(struct templates *t, struct err *e)
{
	db_lock(t->db);
	return db_begin(t->db, e);
}

static int name_taken(const char *name, struct err *e)
{
	return err_set(e, ERR_CONFLICT,
		"name: there is a snapshot '%s' already; set overwrite to replace it", name);
}

static int yes(void *ctx, sqlite3_stmt *st)
{
	return 1;
}

int templates_has_snapshot(struct templates *t, const char *snapshot, struct err *e)
{
	return DB_LOCKED(
		t->db, db_query(t->db, e, yes, NULL,
			       "SELECT 1 FROM templates WHERE snapshot_id = ?", "s", snapshot));
}

static int check_name(struct templates *t, const struct template_op *op, struct err *e)
{
	struct template old;
	int r = find(t, op->name, &old, e);
	if (r == 1 && !op->overwrite)
		return name_taken(op->name, e);
	if (r >= 0)
		r = db_query(t->db, e, yes, NULL,
			"SELECT 1 FROM snapshot_operations WHERE name = ?", "s", op->name);
	return r == 1 ? err_set(e, ERR_CONFLICT, "name: a snapshot '%s' is being made right now",
				op->name)
		      : r;
}

int templates_begin(
	struct templates *t, struct template_op *op, const struct db_also *also, struct err *e)
{
	activate(t, op);
	int r = start(t, e);
	if (r == 0)
		r = check_name(t, op, e);
	if (r == 0)
		r = db_exec(t->db, e,
			"INSERT INTO snapshot_operations (snapshot_id, action, name, sandbox_id, "
			"parent, overwrite, started_ns) VALUES (?, 'create', ?, ?, ?, ?, ?)",
			"ssssii", op->snapshot, op->name, op->sandbox, op->parent,
			(int64_t)op->overwrite, (int64_t)clock_realtime_ns());
	return finish(t, r, also, e);
}

static int note_deletion(struct templates *t, const char *snapshot, struct err *e)
{
	return db_exec(t->db, e,
		"INSERT OR REPLACE INTO snapshot_operations (snapshot_id, action, name, "
		"sandbox_id, parent, overwrite, started_ns) VALUES (?, 'delete', NULL, '', '', 0, "
		"?)",
		"si", snapshot, (int64_t)clock_realtime_ns());
}

static int commit(struct templates *t, const struct template_op *op, const struct template *new,
	char old_snapshot[UUID_SIZE], struct err *e)
{
	struct template old = {0};
	int r = db_exec(t->db, e,
		"DELETE FROM snapshot_operations WHERE snapshot_id = ? AND action = 'create'", "s",
		op->snapshot);
	if (r == 0 && sqlite3_changes(db_handle(t->db)) != 1)
		return err_set(e, ERR_CONFLICT, "the snapshot '%s' was given up", op->name);
	if (r == 0)
		r = find(t, op->name, &old, e);
	if (r == 1 && !op->overwrite)
		return name_taken(op->name, e);
	if (r == 1)
		r = db_exec(t->db, e, "DELETE FROM templates WHERE name = ?", "s", op->name);
	if (r == 0 && old.snapshot[0])
		r = note_deletion(t, old.snapshot, e);
	if (r == 0)
		r = db_exec(t->db, e,
			"INSERT INTO templates (" COLUMNS
			", kind) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'snapshot')",
			"ssssiiiiii", new->name, new->snapshot, new->sandbox, new->parent,
			(int64_t) new->vcpus, (int64_t) new->memory_mb, (int64_t) new->disk_mb,
			(int64_t) new->memory_bytes, (int64_t) new->disk_bytes,
			(int64_t) new->created_ns);
	memcpy(old_snapshot, old.snapshot, UUID_SIZE);
	return r;
}

int templates_commit(struct templates *t, const struct template_op *op,
	const struct host_snapshot *s, char ret_old[UUID_SIZE], struct template *ret,
	const struct db_also *also, struct err *e)
{
	struct template new = {.vcpus = s->vcpus,
		.memory_mb = s->memory_mb,
		.disk_mb = s->disk_mb,
		.memory_bytes = s->memory_bytes,
		.disk_bytes = s->disk_bytes,
		.created_ns = s->created_ns ? s->created_ns : clock_realtime_ns()};
	snprintf(new.name, sizeof new.name, "%s", op->name);
	snprintf(new.snapshot, sizeof new.snapshot, "%s", op->snapshot);
	snprintf(new.sandbox, sizeof new.sandbox, "%s", op->sandbox);
	snprintf(new.parent, sizeof new.parent, "%s", op->parent);
	int r = start(t, e);
	if (r == 0)
		r = commit(t, op, &new, ret_old, e);
	*ret = new; // for what is written besides
	return finish(t, r, also, e);
}

int templates_abandon(
	struct templates *t, const char *snapshot, const struct db_also *also, struct err *e)
{
	int r = start(t, e);
	if (r == 0)
		r = db_exec(t->db, e,
			"UPDATE snapshot_operations SET action = 'delete', name = NULL "
			"WHERE snapshot_id = ? AND action = 'create'",
			"s", snapshot);
	if (r == 0 && sqlite3_changes(db_handle(t->db)) == 0)
		r = err_set(e, ERR_NOT_FOUND, "snapshot %s is not being made", snapshot);
	return finish(t, r, also, e);
}

int templates_remove(struct templates *t, const char *name, char ret_snapshot[UUID_SIZE],
	const struct db_also *also, struct err *e)
{
	struct template old = {0};
	int r = start(t, e);
	if (r == 0)
		r = find(t, name, &old, e);
	if (r == 0)
		r = no_snapshot(name, e);
	else if (r == 1)
		r = db_exec(t->db, e, "DELETE FROM templates WHERE name = ?", "s", name);
	if (r == 0)
		r = note_deletion(t, old.snapshot, e);
	if (r == 0)
		memcpy(ret_snapshot, old.snapshot, UUID_SIZE);
	return finish(t, r, also, e);
}

int templates_deleted(
	struct templates *t, const char *snapshot, const struct db_also *also, struct err *e)
{
	int r = start(t, e);
	if (r == 0)
		r = db_exec(t->db, e,
			"DELETE FROM snapshot_operations WHERE snapshot_id = ? AND action = "
			"'delete'",
			"s", snapshot);
	return finish(t, r, also, e);
}
