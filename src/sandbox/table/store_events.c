// SPDX-License-Identifier: Apache-2.0
// Events, and what is forgotten with time.
#include "base/clock.h"
#include "base/log.h"
#include "sandbox/table/store.h"

#define DAY_NS (86400ull * NSEC_PER_SEC)

static int read_u64(void *ctx, sqlite3_stmt *row)
{
	*(uint64_t *)ctx = (uint64_t)sqlite3_column_int64(row, 0);
	return 0;
}

struct events {
	struct host_event *list;
	size_t n, max;
};

static int read_event(void *ctx, sqlite3_stmt *row)
{
	struct events *l = ctx;
	if (l->n == l->max)
		return 1;
	struct host_event *ev = &l->list[l->n++];
	ev->seq = (uint64_t)sqlite3_column_int64(row, 0);
	ev->at_ns = (uint64_t)sqlite3_column_int64(row, 1);
	snprintf(ev->sandbox, sizeof ev->sandbox, "%s", db_text(row, 2));
	snprintf(ev->kind, sizeof ev->kind, "%s", db_text(row, 3));
	snprintf(ev->cause, sizeof ev->cause, "%s", db_text(row, 4));
	ev->data = json_loads(db_text(row, 5), 0, NULL);
	return 0;
}

int store_events(struct host *h, uint64_t after, size_t max, struct host_event **ret, size_t *ret_n,
	struct err *e)
{
	struct events l = {.list = calloc(max, sizeof *l.list), .max = max};
	if (!l.list)
		return err_errno(e, ENOMEM, "events");
	db_lock(h->db);
	int rc = db_query(h->db, e, read_event, &l,
		"SELECT seq, at_ns, sandbox, kind, cause, data FROM events WHERE seq > ? "
		"ORDER BY seq LIMIT ?",
		"ii", (int64_t)after, (int64_t)max);
	db_unlock(h->db);
	if (rc < 0) {
		for (size_t i = 0; i < l.n; i++)
			host_event_done(&l.list[i]);
		free(l.list);
		return rc;
	}
	*ret = l.list;
	*ret_n = l.n;
	return 0;
}

int store_ack(struct host *h, uint64_t upto, struct err *e)
{
	return DB_LOCKED(
		h->db, db_exec(h->db, e, "DELETE FROM events WHERE seq <= ?", "i", (int64_t)upto));
}

// With the lock held, in a transaction. Whoever reads on finds the gap told of in its place.
static int bound_events(struct host *h, struct err *e)
{
	uint64_t n = 0, first = 0, last = 0;
	int rc = db_query(h->db, e, read_u64, &n, "SELECT count(*) FROM events", "");
	if (rc < 0 || n <= STORE_MAX_EVENTS)
		return rc;
	rc = db_query(h->db, e, read_u64, &first,
		"SELECT CASE kind WHEN 'events_lost' THEN json_extract(data, '$.first') ELSE seq "
		"END FROM events ORDER BY seq LIMIT 1",
		"");
	if (rc == 0)
		rc = db_query(h->db, e, read_u64, &last,
			"SELECT seq FROM events ORDER BY seq LIMIT 1 OFFSET ?", "i",
			(int64_t)(n - STORE_MAX_EVENTS));
	if (rc == 0)
		rc = db_exec(h->db, e, "DELETE FROM events WHERE seq < ?", "i", (int64_t)last);
	if (rc == 0)
		rc = db_exec(h->db, e,
			"UPDATE events SET sandbox = '', kind = 'events_lost', cause = "
			"'journal_full', data = json_object('first', ?, 'last', ?) WHERE seq = ?",
			"iii", (int64_t)first, (int64_t)last, (int64_t)last);
	if (rc == 0)
		log_error(
			"events nobody acknowledged are lost first=%lu last=%lu: no control plane "
			"reads them",
			first, last);
	return rc;
}

int store_purge(struct host *h, uint64_t ended_before_ns, struct err *e)
{
	db_lock(h->db);
	int rc = db_begin(h->db, e);
	if (rc == 0)
		rc = db_exec(h->db, e,
			"DELETE FROM sandboxes WHERE state = 'stopped' AND stopped_ns < ?", "i",
			(int64_t)ended_before_ns);
	if (rc == 0)
		rc = db_exec(h->db, e,
			"DELETE FROM operations WHERE state = 'done' AND ended_ns < ?", "i",
			(int64_t)(clock_realtime_ns() - DAY_NS));
	if (rc == 0)
		rc = bound_events(h, e);
	if (rc == 0)
		rc = db_commit(h->db, e);
	else
		db_rollback(h->db);
	db_unlock(h->db);
	return rc;
}
