// SPDX-License-Identifier: Apache-2.0
#include "control/state/event_log.h"
#include <string.h>
#include "base/json.h"

#define MAX_EVENTS 100000

struct page {
	struct host_event *list;
	size_t n;
};

static int read_event(void *ctx, sqlite3_stmt *st)
{
	struct page *p = ctx;
	struct host_event *ev = &p->list[p->n++];
	ev->seq = (uint64_t)sqlite3_column_int64(st, 0);
	ev->at_ns = (uint64_t)sqlite3_column_int64(st, 1);
	snprintf(ev->sandbox, sizeof ev->sandbox, "%s", db_text(st, 2));
	snprintf(ev->kind, sizeof ev->kind, "%s", db_text(st, 3));
	snprintf(ev->cause, sizeof ev->cause, "%s", db_text(st, 4));
	ev->data = json_loads(db_text(st, 5), 0, NULL);
	return 0;
}

static int give(const struct page *p, int rc, int (*take)(void *ctx, const struct host_event *ev),
	void *ctx)
{
	for (size_t i = 0; i < p->n; i++) {
		if (rc == 0)
			rc = take(ctx, &p->list[i]);
		host_event_done(&p->list[i]);
	}
	return rc;
}

int event_log_read(struct db *db, uint64_t after, uint64_t since_ns, const char *sandbox,
	size_t max, int (*take)(void *ctx, const struct host_event *ev), void *ctx, struct err *e)
{
	int64_t from = (int64_t)MIN(after, (uint64_t)INT64_MAX);
	int64_t since = (int64_t)MIN(since_ns, (uint64_t)INT64_MAX);
	_cleanup_free_ struct host_event *list = calloc(MAX(max, 1u), sizeof *list);
	struct page p = {.list = list};
	if (!list)
		return err_errno(e, ENOMEM, "events");
	db_lock(db);
	int rc = sandbox ? db_query(db, e, read_event, &p,
				   "SELECT seq, at_ns, sandbox, kind, cause, data FROM events "
				   "WHERE sandbox = ? AND seq > ? AND at_ns >= ? ORDER BY seq "
				   "LIMIT ?",
				   "siii", sandbox, from, since, (int64_t)max)
			 : db_query(db, e, read_event, &p,
				   "SELECT seq, at_ns, sandbox, kind, cause, data FROM events "
				   "WHERE seq > ? AND at_ns >= ? ORDER BY seq LIMIT ?",
				   "iii", from, since, (int64_t)max);
	db_unlock(db);
	return give(&p, rc, take, ctx);
}

int event_log_read_of(struct db *db, uint64_t after, uint64_t since_ns, const char *owner,
	size_t max, int (*take)(void *ctx, const struct host_event *ev), void *ctx, struct err *e)
{
	int64_t from = (int64_t)MIN(after, (uint64_t)INT64_MAX);
	int64_t since = (int64_t)MIN(since_ns, (uint64_t)INT64_MAX);
	_cleanup_free_ struct host_event *list = calloc(MAX(max, 1u), sizeof *list);
	struct page p = {.list = list};
	if (!list)
		return err_errno(e, ENOMEM, "events");
	int rc = DB_LOCKED(db, db_query(db, e, read_event, &p,
				       "SELECT seq, at_ns, sandbox, kind, cause, data FROM events "
				       "WHERE sandbox IN (SELECT sandbox FROM sandbox_owners WHERE "
				       "owner = ?) AND seq > ? AND at_ns >= ? ORDER BY seq LIMIT ?",
				       "siii", owner, from, since, (int64_t)max));
	return give(&p, rc, take, ctx);
}

int event_log_newest(struct db *db, const char *sandbox, size_t max,
	int (*take)(void *ctx, const struct host_event *ev), void *ctx, struct err *e)
{
	_cleanup_free_ struct host_event *list = calloc(MAX(max, 1u), sizeof *list);
	struct page p = {.list = list};
	if (!list)
		return err_errno(e, ENOMEM, "events");
	int rc = DB_LOCKED(db, db_query(db, e, read_event, &p,
				       "SELECT seq, at_ns, sandbox, kind, cause, data FROM events "
				       "WHERE sandbox = ? "
				       "ORDER BY seq DESC LIMIT ?",
				       "si", sandbox, (int64_t)max));
	return give(&p, rc, take, ctx);
}

static int read_count(void *ctx, sqlite3_stmt *st)
{
	*(uint64_t *)ctx = (uint64_t)sqlite3_column_int64(st, 0);
	return 0;
}

int event_log_kills(struct db *db, const char *sandbox, uint64_t *ret, struct err *e)
{
	*ret = 0;
	return DB_LOCKED(db,
		db_query(db, e, read_count, ret,
			"SELECT coalesce(sum(json_extract(data, '$.count')), 0) FROM events WHERE "
			"sandbox = ? AND kind = 'oom'",
			"s", sandbox));
}

static int read_range(void *ctx, sqlite3_stmt *st)
{
	struct event_log_range *r = ctx;
	snprintf(r->epoch, sizeof r->epoch, "%s", db_text(st, 0));
	r->last = (uint64_t)sqlite3_column_int64(st, 1);
	r->first = sqlite3_column_type(st, 2) == SQLITE_NULL
			   ? r->last + 1
			   : (uint64_t)sqlite3_column_int64(st, 2);
	return 1;
}

int event_log_range(struct db *db, struct event_log_range *ret, struct err *e)
{
	*ret = (struct event_log_range){0};
	int rc = DB_LOCKED(
		db, db_query(db, e, read_range, ret,
			    "SELECT epoch, coalesce((SELECT seq FROM sqlite_sequence WHERE name = "
			    "'events'), 0), (SELECT min(seq) FROM events) FROM feed",
			    ""));
	return MIN(rc, 0);
}

int event_log_add(struct db *db, const struct host_event *ev, uint64_t *ret_seq, struct err *e)
{
	_cleanup_free_ char *data = ev->data ? json_compact(ev->data) : strdup("{}");
	int rc = data ? db_exec(db, e,
				"INSERT INTO events (host, host_seq, at_ns, sandbox, kind, cause, "
				"data) "
				"VALUES ('local', 0, ?, ?, ?, ?, ?)",
				"issss", (int64_t)ev->at_ns, ev->sandbox, ev->kind, ev->cause, data)
		      : err_errno(e, ENOMEM, "event");
	*ret_seq = (uint64_t)sqlite3_last_insert_rowid(db_handle(db));
	return rc;
}

int event_log_expire(struct db *db, struct err *e)
{
	return DB_LOCKED(db,
		db_exec(db, e, "DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?",
			"i", (int64_t)MAX_EVENTS));
}
