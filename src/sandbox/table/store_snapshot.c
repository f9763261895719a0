// SPDX-License-Identifier: Apache-2.0
// Rows of snapshots. They are added together with the sandbox that changes by it
// (store_commit_snapshot).
#include "base/clock.h"
#include "sandbox/table/store.h"

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
			"SELECT * FROM snapshots WHERE kind = ifnull(?1, kind) AND "
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
		db_query(h->db, e, read_row, &r, "SELECT * FROM snapshots WHERE id = ?", "s", id));
	if (rc == 0 && r.n == 0)
		rc = err_set(e, ERR_NOT_FOUND, "no snapshot '%.36s' on this host", id);
	if (rc == 0)
		*ret = r.list[0];
	free(r.list);
	return rc;
}
