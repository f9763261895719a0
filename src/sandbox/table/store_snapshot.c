// SPDX-License-Identifier: Apache-2.0
// Rows of snapshots. They are added together with the sandbox that changes by it
// (store_apply).
#include "base/clock.h"
#include "sandbox/table/store.h"

#define COLUMNS                                                                                    \
	"SELECT id, kind, sandbox, template, parent, image_key, token, vcpus, memory_mb, "         \
	"disk_mb, "                                                                                \
	"memory_bytes, disk_bytes, created_ns FROM snapshots "

struct rows {
	struct store_snapshot *list;
	size_t n, cap;
};

static int read_row(void *ctx, sqlite3_stmt *row)
{
	struct rows *r = ctx;
	if (r->n == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 16;
		struct store_snapshot *p = reallocarray(r->list, cap, sizeof *p);
		if (!p)
			return -ENOMEM;
		r->list = p;
		r->cap = cap;
	}
	struct store_snapshot *s = &r->list[r->n++];
	struct host_snapshot *i = &s->info;
	*s = (struct store_snapshot){0};
	snprintf(i->id, sizeof i->id, "%s", db_text(row, 0));
	snprintf(i->kind, sizeof i->kind, "%s", db_text(row, 1));
	snprintf(i->sandbox, sizeof i->sandbox, "%s", db_text(row, 2));
	snprintf(i->template, sizeof i->template, "%s", db_text(row, 3));
	snprintf(i->parent, sizeof i->parent, "%s", db_text(row, 4));
	snprintf(s->image_key, sizeof s->image_key, "%s", db_text(row, 5));
	snprintf(s->token, sizeof s->token, "%s", db_text(row, 6));
	i->vcpus = (unsigned)sqlite3_column_int64(row, 7);
	i->memory_mb = (unsigned)sqlite3_column_int64(row, 8);
	i->disk_mb = (uint64_t)sqlite3_column_int64(row, 9);
	i->memory_bytes = (uint64_t)sqlite3_column_int64(row, 10);
	i->disk_bytes = (uint64_t)sqlite3_column_int64(row, 11);
	i->created_ns = (uint64_t)sqlite3_column_int64(row, 12);
	return 0;
}

int store_list_snapshots(struct host *h, const char *kind, const char *sandbox,
	const char *image_key, struct store_snapshot **ret, size_t *ret_n, struct err *e)
{
	struct rows r = {0};
	int rc = DB_LOCKED(h->db,
		db_query(h->db, e, read_row, &r,
			COLUMNS
			"WHERE dropped = 0 AND kind = ifnull(?1, kind) AND "
			"sandbox = ifnull(?2, sandbox) AND image_key = ifnull(?3, image_key) "
			"ORDER BY created_ns DESC, id",
			"sss", kind, sandbox, image_key));
	if (rc < 0) {
		free(r.list);
		return rc == -ENOMEM ? err_errno(e, ENOMEM, "list of snapshots") : rc;
	}
	*ret = r.list;
	*ret_n = r.n;
	return 0;
}

int store_get_snapshot(struct host *h, const char *id, struct store_snapshot *ret, struct err *e)
{
	struct rows r = {0};
	int rc = DB_LOCKED(h->db,
		db_query(h->db, e, read_row, &r, COLUMNS "WHERE dropped = 0 AND id = ?", "s", id));
	if (rc == 0 && r.n == 0)
		rc = err_set(e, ERR_NOT_FOUND, "no snapshot '%.36s' on this host", id);
	if (rc == 0)
		*ret = r.list[0];
	free(r.list);
	return rc;
}

int store_snapshot_gone(struct host *h, const char *id, struct err *e)
{
	return DB_LOCKED(h->db,
		db_exec(h->db, e, "DELETE FROM snapshots WHERE id = ? AND dropped = 1", "s", id));
}

int store_layer_add(struct host *h, const char *id, struct err *e)
{
	return DB_LOCKED(
		h->db, db_exec(h->db, e, "INSERT OR IGNORE INTO layers (id) VALUES (?)", "s", id));
}

int store_layers_gone(struct host *h, const char (*ids)[UUID_SIZE], size_t n, struct err *e)
{
	db_lock(h->db);
	int rc = db_begin(h->db, e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = db_exec(h->db, e, "DELETE FROM layers WHERE id = ?", "s", ids[i]);
	if (rc == 0)
		rc = db_commit(h->db, e);
	else
		db_rollback(h->db);
	db_unlock(h->db);
	return rc;
}

static int read_one(void *ctx, sqlite3_stmt *row)
{
	*(bool *)ctx = true;
	return 0;
}

int store_layer_is_known(struct host *h, const char *id, bool *ret, struct err *e)
{
	*ret = false;
	return DB_LOCKED(h->db,
		db_query(h->db, e, read_one, ret, "SELECT 1 FROM layers WHERE id = ?", "s", id));
}

struct each {
	struct host *h;
	void (*f)(struct host *h, const char *id);
};

static int read_id(void *ctx, sqlite3_stmt *row)
{
	struct each *c = ctx;
	c->f(c->h, db_text(row, 0));
	return 0;
}

int store_dropped(struct host *h, void (*f)(struct host *h, const char *id), struct err *e)
{
	return DB_LOCKED(h->db, db_query(h->db, e, read_id, &(struct each){h, f},
					"SELECT id FROM snapshots WHERE dropped = 1", ""));
}

static int read_epoch(void *ctx, sqlite3_stmt *row)
{
	((struct host *)ctx)->epoch = (uint64_t)sqlite3_column_int64(row, 0);
	return 0;
}

int store_raise_epoch(struct host *h, struct err *e)
{
	return DB_LOCKED(
		h->db, db_query(h->db, e, read_epoch, h,
			       "UPDATE journal SET epoch = max(epoch, ?) + 1 RETURNING epoch", "i",
			       (int64_t)h->epoch));
}
