// SPDX-License-Identifier: Apache-2.0
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "http/json.h"
#include "sandbox/table/store.h"

extern const struct embed host_migrations[]; // sql/host, by tools/embed.py

#define DAY_NS (86400ull * NSEC_PER_SEC)

static int read_u64(void *ctx, sqlite3_stmt *row)
{
	*(uint64_t *)ctx = (uint64_t)sqlite3_column_int64(row, 0);
	return 0;
}

static int read_journal_id(void *ctx, sqlite3_stmt *row)
{
	snprintf(ctx, sizeof((struct host *)0)->journal_id, "%s", db_text(row, 0));
	return 0;
}

int store_open(struct host *h, struct err *e)
{
	_cleanup_free_ char *path = str_printf("%s/host.db", h->data_dir);
	if (!path)
		return err_errno(e, ENOMEM, "host.db");
	int rc = db_open(path, host_migrations, &h->db, e);
	if (rc < 0)
		return rc;
	db_lock(h->db);
	// The last number given out, so that waiters know what is new; its event may be gone.
	rc = db_query(h->db, e, read_u64, &h->last_event,
		"SELECT seq FROM sqlite_sequence WHERE name = 'events'", "");
	if (rc == 0)
		rc = db_query(
			h->db, e, read_journal_id, h->journal_id, "SELECT id FROM journal", "");
	db_unlock(h->db);
	return rc;
}

static char *phases_text(const struct host_sandbox *s)
{
	_cleanup_json_ json_t *a = json_array();
	for (unsigned i = 0; a && i < s->n_phases; i++)
		json_array_append_new(
			a, json_pack("[s, I]", s->phases[i].name, (json_int_t)s->phases[i].us));
	return a ? json_compact(a) : NULL;
}

static void phases_read(struct host_sandbox *s, const char *text)
{
	_cleanup_json_ json_t *a = json_loads(text, 0, NULL);
	size_t i;
	json_t *p;
	json_array_foreach (a, i, p) {
		const char *name = json_string_value(json_array_get(p, 0));
		if (!name || s->n_phases == HOST_MAX_PHASES)
			continue;
		struct host_phase *ph = &s->phases[s->n_phases++];
		snprintf(ph->name, sizeof ph->name, "%s", name);
		ph->us = (uint64_t)json_integer_value(json_array_get(p, 1));
	}
}

static int add_event(struct host *h, const char *id, const struct store_event *ev, struct err *e)
{
	if (!ev)
		return 0;
	_cleanup_free_ char *data = ev->data ? json_compact(ev->data) : strdup("{}");
	if (!data)
		return err_errno(e, ENOMEM, "event");
	return db_exec(h->db, e,
		"INSERT INTO events (at_ns, sandbox, kind, cause, data) VALUES (?, ?, ?, ?, ?)",
		"issss", (int64_t)clock_realtime_ns(), id, ev->kind, ev->cause ? ev->cause : "",
		data);
}

static int put_sandbox(struct host *h, const struct sandbox *s, struct err *e)
{
	const struct host_sandbox *i = &s->info;
	_cleanup_free_ char *phases = phases_text(i);
	if (!phases)
		return err_errno(e, ENOMEM, "sandbox row");
	return db_exec(h->db, e,
		"INSERT OR REPLACE INTO sandboxes VALUES "
		"(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
		"sssiiiiiiiiissssssiiss", i->id, i->template, sandbox_state_name(i->state),
		(int64_t)i->vcpus, (int64_t)i->memory_mb, (int64_t)i->disk_mb,
		(int64_t)i->created_ns, (int64_t)i->started_ns, (int64_t)i->stopped_ns,
		(int64_t)i->ends_at_ns, (int64_t)i->on_timeout,
		s->has_slot ? (int64_t)s->slot.index : (int64_t)-1, s->token, i->cause, i->detail,
		phases, i->snapshot, i->backend, (int64_t)i->generation, (int64_t)s->full_next,
		s->kernel_id, s->parent);
}

// Ends a transaction begun by db_begin with the lock held: commits when rc is 0, and tells the
// waiters. An event is always the last row put in.
static int finish(struct host *h, int rc, const struct store_event *ev, struct err *e)
{
	uint64_t last = 0;
	if (rc == 0) {
		if (ev)
			last = (uint64_t)sqlite3_last_insert_rowid(db_handle(h->db));
		rc = db_commit(h->db, e);
	}
	if (rc < 0)
		db_rollback(h->db);
	db_unlock(h->db);
	if (rc == 0) {
		pthread_mutex_lock(&h->event_lock);
		h->last_event = MAX(h->last_event, last);
		pthread_cond_broadcast(&h->event_added);
		pthread_mutex_unlock(&h->event_lock);
	}
	return rc;
}

int store_op_begin(struct host *h, const char *op_id, const char *kind, const struct sandbox *s,
	const char *data, struct err *e)
{
	db_lock(h->db);
	int rc = db_begin(h->db, e);
	if (rc == 0)
		rc = db_exec(h->db, e, "INSERT INTO operations VALUES (?, ?, ?, 'open', ?, 0, ?)",
			"sssis", op_id, kind, s->info.id, (int64_t)clock_realtime_ns(),
			data ? data : "{}");
	if (rc == 0)
		rc = put_sandbox(h, s, e);
	if (rc == 0)
		rc = db_commit(h->db, e);
	else
		db_rollback(h->db);
	db_unlock(h->db);
	return rc;
}

static int put_snapshot(struct host *h, const struct store_snapshot *s, struct err *e)
{
	const struct host_snapshot *i = &s->info;
	return db_exec(h->db, e,
		"INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		"sssssssiiiiii", i->id, i->kind, i->sandbox, i->template, i->parent, s->image_key,
		s->token, (int64_t)i->vcpus, (int64_t)i->memory_mb, (int64_t)i->disk_mb,
		(int64_t)i->memory_bytes, (int64_t)i->disk_bytes, (int64_t)i->created_ns);
}

static int end_operation(struct host *h, const char *op_id, const char *sandbox,
	const struct err *failed, struct err *e)
{
	_cleanup_json_ json_t *j =
		failed ? json_pack("{s:s, s:s%}", "code", err_info(failed->code)->name, "error",
				 failed->text, strlen(failed->text))
		       : NULL;
	_cleanup_free_ char *data = j ? json_compact(j) : strdup("{}");
	if (!data)
		return err_errno(e, ENOMEM, "operation");
	return db_exec(h->db, e,
		"INSERT INTO operations VALUES (?1, '', ?2, 'done', ?3, ?3, ?4) ON CONFLICT "
		"(op_id) "
		"DO UPDATE SET state = 'done', ended_ns = ?3, data = ?4",
		"ssis", op_id, sandbox, (int64_t)clock_realtime_ns(), data);
}

int store_commit(struct host *h, const char *op_id, const struct sandbox *s,
	const struct store_event *ev, struct err *e)
{
	return store_commit_snapshot(h, op_id, s, NULL, NULL, ev, e);
}

int store_commit_snapshot(struct host *h, const char *op_id, const struct sandbox *s,
	const struct store_snapshot *add, const char *drop, const struct store_event *ev,
	struct err *e)
{
	db_lock(h->db);
	int rc = db_begin(h->db, e);
	if (rc == 0)
		rc = put_sandbox(h, s, e);
	if (rc == 0 && add)
		rc = put_snapshot(h, add, e);
	if (rc == 0 && drop)
		rc = db_exec(h->db, e, "DELETE FROM snapshots WHERE id = ?", "s", drop);
	if (rc == 0 && op_id)
		rc = end_operation(h, op_id, s->info.id, ev ? ev->failed : NULL, e);
	if (rc == 0)
		rc = add_event(h, s->info.id, ev, e);
	return finish(h, rc, ev, e);
}

int store_drop_snapshot(struct host *h, const char *op_id, const char *id,
	const struct store_event *ev, struct err *e)
{
	db_lock(h->db);
	int rc = db_begin(h->db, e);
	if (rc == 0)
		rc = db_exec(h->db, e, "DELETE FROM snapshots WHERE id = ?", "s", id);
	if (rc == 0 && op_id)
		rc = db_exec(h->db, e,
			"INSERT OR IGNORE INTO operations VALUES (?, 'snapshot_delete', ?, 'done', "
			"?, "
			"?, '{}')",
			"ssii", op_id, id, (int64_t)clock_realtime_ns(),
			(int64_t)clock_realtime_ns());
	if (rc == 0)
		rc = add_event(h, "", ev, e);
	return finish(h, rc, ev, e);
}

int store_forget(struct host *h, const char *id, const struct store_event *ev, struct err *e)
{
	db_lock(h->db);
	int rc = db_begin(h->db, e);
	if (rc == 0)
		rc = db_exec(h->db, e, "DELETE FROM sandboxes WHERE id = ?", "s", id);
	if (rc == 0)
		rc = db_exec(h->db, e, "DELETE FROM operations WHERE sandbox = ?", "s", id);
	if (rc == 0)
		rc = add_event(h, id, ev, e);
	return finish(h, rc, ev, e);
}

struct op_row {
	char *state, *id;
	struct err *failed;
};

static int read_op(void *ctx, sqlite3_stmt *row)
{
	struct op_row *r = ctx;
	snprintf(r->state, 8, "%s", db_text(row, 0));
	snprintf(r->id, 64, "%s", db_text(row, 1));
	_cleanup_json_ json_t *j = json_loads(db_text(row, 2), 0, NULL);
	const char *code = json_string_value(json_object_get(j, "code"));
	const char *text = json_string_value(json_object_get(j, "error"));
	if (code && r->failed)
		err_set(r->failed, err_code_from_name(code), "%s", text ? text : "");
	return 0;
}

int store_op_find(struct host *h, const char *op_id, char state[8], char id[64],
	struct err *ret_failed, struct err *e)
{
	struct op_row r = {state, id, ret_failed};
	state[0] = id[0] = '\0';
	db_lock(h->db);
	int rc = db_query(h->db, e, read_op, &r,
		"SELECT state, sandbox, data FROM operations WHERE op_id = ?", "s", op_id);
	db_unlock(h->db);
	return rc;
}

struct load {
	struct host *h;
	store_row_fn f;
};

static int read_sandbox(void *ctx, sqlite3_stmt *row)
{
	struct load *l = ctx;
	struct sandbox *s = calloc(1, sizeof *s);
	if (!s)
		return -ENOMEM;
	struct host_sandbox *i = &s->info;
	s->pidfd = -1;
	snprintf(i->id, sizeof i->id, "%s", db_text(row, 0));
	snprintf(i->template, sizeof i->template, "%s", db_text(row, 1));
	i->state = sandbox_state_parse(db_text(row, 2));
	if (i->state == SANDBOX_STATE_MAX)
		i->state = SANDBOX_ERROR;
	i->vcpus = (unsigned)sqlite3_column_int64(row, 3);
	i->memory_mb = (unsigned)sqlite3_column_int64(row, 4);
	i->disk_mb = (uint64_t)sqlite3_column_int64(row, 5);
	i->created_ns = (uint64_t)sqlite3_column_int64(row, 6);
	i->started_ns = (uint64_t)sqlite3_column_int64(row, 7);
	i->stopped_ns = (uint64_t)sqlite3_column_int64(row, 8);
	i->ends_at_ns = (uint64_t)sqlite3_column_int64(row, 9);
	i->on_timeout = sqlite3_column_int64(row, 10) ? ON_TIMEOUT_PAUSE : ON_TIMEOUT_KILL;
	int64_t slot = sqlite3_column_int64(row, 11);
	s->has_slot = slot >= 0;
	s->slot.index = (unsigned)MAX(slot, 0);
	snprintf(s->token, sizeof s->token, "%s", db_text(row, 12));
	snprintf(i->cause, sizeof i->cause, "%s", db_text(row, 13));
	snprintf(i->detail, sizeof i->detail, "%s", db_text(row, 14));
	phases_read(i, db_text(row, 15));
	snprintf(i->snapshot, sizeof i->snapshot, "%s", db_text(row, 16));
	snprintf(i->backend, sizeof i->backend, "%s", db_text(row, 17));
	i->generation = (uint64_t)sqlite3_column_int64(row, 18);
	s->full_next = sqlite3_column_int64(row, 19) != 0;
	snprintf(s->kernel_id, sizeof s->kernel_id, "%s", db_text(row, 20));
	snprintf(s->parent, sizeof s->parent, "%s", db_text(row, 21));
	return l->f(l->h, s, db_text(row, 22), db_text(row, 23), db_text(row, 24));
}

int store_load(struct host *h, store_row_fn f, struct err *e)
{
	struct load l = {h, f};
	db_lock(h->db);
	int rc = db_query(h->db, e, read_sandbox, &l,
		"SELECT s.*, o.kind, o.op_id, o.data FROM sandboxes s LEFT JOIN operations o "
		"ON o.sandbox = s.id AND o.state = 'open'",
		"");
	db_unlock(h->db);
	return rc;
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
