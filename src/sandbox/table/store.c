// SPDX-License-Identifier: Apache-2.0
// host.db: it is opened and migrated, and each function that changes it is one transaction. Rows of
// snapshots are read in store_snapshot.c, events in store_events.c.
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/json.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/state.h"
#include "sandbox/table/statefile.h"
#include "sandbox/table/store.h"
#include "sandbox/table/store_rows.h"

extern const struct embed host_migrations[]; // sql/host, by tools/embed.py

static int read_u64(void *ctx, sqlite3_stmt *row)
{
	*(uint64_t *)ctx = (uint64_t)sqlite3_column_int64(row, 0);
	return 0;
}

static int read_journal_id(void *ctx, sqlite3_stmt *row)
{
	struct host *h = ctx;
	snprintf(h->journal_id, sizeof h->journal_id, "%s", db_text(row, 0));
	h->epoch = (uint64_t)sqlite3_column_int64(row, 1);
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
		rc = db_query(h->db, e, read_journal_id, h, "SELECT id, epoch FROM journal", "");
	db_unlock(h->db);
	return rc;
}

// The settings of its end are the newest ones, unless the change sets them itself: they change
// while an operation is under way.
static struct time_settings newest_time(struct host *h, const struct sandbox *s, bool sets_time)
{
	struct time_settings t = {s->info.ends_at_ns, s->info.on_timeout};
	pthread_mutex_lock(&h->lock);
	const struct sandbox *now = host_find(h, s->info.id);
	if (now)
		t.on_timeout = now->info.on_timeout;
	if (now && !sets_time)
		t.ends_at_ns = now->info.ends_at_ns;
	pthread_mutex_unlock(&h->lock);
	return t;
}

static void write_state(struct host *h, const struct sandbox *row, const struct time_settings *t,
	const struct statefile_op *op)
{
	struct sandbox now = *row;
	now.info.ends_at_ns = t->ends_at_ns;
	now.info.on_timeout = t->on_timeout;
	statefile_write(h, &now, op);
}

static void tell_event(struct host *h, uint64_t last)
{
	pthread_mutex_lock(&h->event_lock);
	h->last_event = MAX(h->last_event, last);
	pthread_cond_broadcast(&h->event_added);
	pthread_mutex_unlock(&h->event_lock);
}

// Ends a transaction begun by db_begin: commits when rc is 0. *ret_event is the number of its
// event, which is always the last row put in; 0 without.
static int finish(
	struct host *h, int rc, const struct store_event *ev, uint64_t *ret_event, struct err *e)
{
	*ret_event = 0;
	if (rc == 0) {
		if (ev)
			*ret_event = (uint64_t)sqlite3_last_insert_rowid(db_handle(h->db));
		rc = db_commit(h->db, e);
	}
	if (rc < 0)
		db_rollback(h->db);
	return rc;
}

// One that was removed while an operation had it gets no other last word.
static int check_not_removed(struct host *h, const char *id, struct err *e)
{
	pthread_mutex_lock(&h->lock);
	const struct sandbox *now = host_find(h, id);
	bool removed = now && now->removed;
	pthread_mutex_unlock(&h->lock);
	return removed ? err_set(e, ERR_CONFLICT, "sandbox '%s' was removed", id) : 0;
}

int store_op_begin(struct host *h, const char *op_id, const char *kind, const char *id,
	const struct sandbox *row, const char *data, const char *layer, struct err *e)
{
	struct time_settings t = {0};
	db_lock(h->db);
	int rc = row ? check_not_removed(h, id, e) : 0;
	if (rc == 0)
		rc = db_begin(h->db, e);
	if (rc == 0)
		rc = db_exec(h->db, e,
			"INSERT INTO operations (op_id, kind, sandbox, state, started_ns, "
			"ended_ns, "
			"data) VALUES (?, ?, ?, 'open', ?, 0, ?) ON CONFLICT (op_id) DO UPDATE SET "
			"data = excluded.data WHERE state = 'open' AND kind = excluded.kind AND "
			"sandbox = excluded.sandbox",
			"sssis", op_id, kind, id, (int64_t)clock_realtime_ns(), data ? data : "{}");
	if (rc == 0 && sqlite3_changes(db_handle(h->db)) == 0)
		rc = err_set(e, ERR_CONFLICT, "operation id was used before");
	if (rc == 0 && row) {
		t = newest_time(h, row, false);
		rc = store_put_sandbox(h, row, &t, e);
	}
	if (rc == 0 && layer && layer[0])
		rc = store_put_layer(h, layer, e);
	if (rc == 0)
		rc = db_commit(h->db, e);
	else
		db_rollback(h->db);
	if (rc == 0 && row) {
		struct statefile_op op;
		snprintf(op.id, sizeof op.id, "%s", op_id);
		snprintf(op.kind, sizeof op.kind, "%s", kind);
		snprintf(op.data, sizeof op.data, "%s", data ? data : "{}");
		write_state(h, row, &t, &op);
	}
	db_unlock(h->db);
	return rc;
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
		"INSERT INTO operations (op_id, kind, sandbox, state, started_ns, ended_ns, data) "
		"VALUES (?1, '', ?2, 'done', ?3, ?3, ?4) ON CONFLICT (op_id) "
		"DO UPDATE SET state = 'done', ended_ns = ?3, data = ?4",
		"ssis", op_id, sandbox, (int64_t)clock_realtime_ns(), data);
}

// The snapshots that a change drops: their refs go when it is durable.
struct dropped {
	char (*ids)[UUID_SIZE];
	size_t n;
};

static int read_dropped(void *ctx, sqlite3_stmt *row)
{
	struct dropped *d = ctx;
	char(*ids)[UUID_SIZE] = reallocarray(d->ids, d->n + 1, sizeof *ids);
	if (!ids)
		return -ENOMEM;
	d->ids = ids;
	snprintf(ids[d->n++], UUID_SIZE, "%s", db_text(row, 0));
	return 0;
}

static int drop_snapshots(
	struct host *h, const struct store_change *c, struct dropped *d, struct err *e)
{
	int rc = 0;
	if (c->drop && c->drop[0])
		rc = db_query(h->db, e, read_dropped, d,
			"UPDATE snapshots SET dropped = 1 WHERE id = ? AND dropped = 0 RETURNING "
			"id",
			"s", c->drop);
	if (rc == 0 && c->drop_pauses)
		rc = db_query(h->db, e, read_dropped, d,
			"UPDATE snapshots SET dropped = 1 WHERE sandbox = ? AND kind = 'pause' AND "
			"dropped = 0 RETURNING id",
			"s", c->row->info.id);
	return rc;
}

static int raise_epoch(struct host *h, uint64_t *ret, struct err *e)
{
	return db_query(h->db, e, read_u64, ret,
		"UPDATE journal SET epoch = max(epoch, ?) + 1 RETURNING epoch", "i",
		(int64_t)h->epoch);
}

static int write_change(struct host *h, const struct store_change *c, struct dropped *d,
	struct time_settings *ret_time, struct err *e)
{
	const char *id = c->row ? c->row->info.id : c->of ? c->of : "";
	int rc = c->row && !c->removes ? check_not_removed(h, id, e) : 0;
	if (rc == 0 && c->row) {
		*ret_time = newest_time(h, c->row, c->sets_time);
		rc = store_put_sandbox(h, c->row, ret_time, e);
	}
	if (rc == 0 && c->add)
		rc = store_put_snapshot(h, c->add, e);
	if (rc == 0)
		rc = drop_snapshots(h, c, d, e);
	if (rc == 0 && c->op_id)
		rc = end_operation(
			h, c->op_id, c->row ? id : c->drop, c->event ? c->event->failed : NULL, e);
	// What had it has no say any more.
	if (rc == 0 && c->removes)
		rc = db_exec(h->db, e,
			"UPDATE operations SET state = 'done', ended_ns = ?, data = json_object("
			"'code', 'conflict', 'error', 'the sandbox was removed') WHERE sandbox = ? "
			"AND state = 'open'",
			"is", (int64_t)clock_realtime_ns(), id);
	return rc == 0 ? store_put_event(h, id, c->event, e) : rc;
}

int store_apply(struct host *h, const struct store_change *c, struct err *e)
{
	struct dropped d = {0};
	struct time_settings t = {0};
	uint64_t epoch = 0, last;
	db_lock(h->db);
	int rc = db_begin(h->db, e);
	if (rc == 0)
		rc = raise_epoch(h, &epoch, e);
	if (rc == 0)
		rc = write_change(h, c, &d, &t, e);
	rc = finish(h, rc, c->event, &last, e);
	if (rc == 0)
		h->epoch = epoch;
	if (rc == 0 && c->row)
		write_state(h, c->row, &t, NULL);
	db_unlock(h->db);
	if (rc == 0)
		tell_event(h, last);
	for (size_t i = 0; rc == 0 && i < d.n; i++)
		if (refs_drop_snapshot(h->refs, d.ids[i]) < 0)
			log_warn("snapshot stays until the next start snapshot=%s", d.ids[i]);
	if (rc == 0 && c->add)
		upkeep_note(h, c->add->info.id);
	else if (rc == 0 && d.n)
		upkeep_wake(h);
	free(d.ids);
	return rc;
}

int store_commit(struct host *h, const char *op_id, const struct sandbox *s,
	const struct store_event *ev, struct err *e)
{
	return store_apply(h, &(struct store_change){.op_id = op_id, .row = s, .event = ev}, e);
}

int store_tell(struct host *h, const char *id, const struct store_event *ev, struct err *e)
{
	uint64_t last;
	db_lock(h->db);
	int rc = db_begin(h->db, e);
	if (rc == 0)
		rc = store_put_event(h, id, ev, e);
	rc = finish(h, rc, ev, &last, e);
	db_unlock(h->db);
	if (rc == 0)
		tell_event(h, last);
	return rc;
}

int store_op_end(struct host *h, const char *op_id, const char *id, const struct err *failed)
{
	struct err e = {0};
	int rc = DB_LOCKED(h->db, end_operation(h, op_id, id, failed, &e));
	if (rc < 0)
		log_error("operation not ended operation=%s error=%s", op_id, e.text);
	return rc;
}

int store_set_time(struct host *h, const char *op_id, const char *id, const uint64_t *ends_at_ns,
	const enum on_timeout *on_timeout, const struct store_event *ev, struct err *e)
{
	db_lock(h->db);
	int rc = db_begin(h->db, e);
	if (rc == 0 && ends_at_ns)
		rc = db_exec(h->db, e, "UPDATE sandboxes SET ends_at_ns = ? WHERE id = ?", "is",
			(int64_t)*ends_at_ns, id);
	if (rc == 0 && on_timeout)
		rc = db_exec(h->db, e, "UPDATE sandboxes SET on_timeout = ? WHERE id = ?", "is",
			(int64_t)*on_timeout, id);
	if (rc == 0)
		rc = end_operation(h, op_id, id, NULL, e);
	if (rc == 0)
		rc = store_put_event(h, id, ev, e);
	uint64_t last = (uint64_t)sqlite3_last_insert_rowid(db_handle(h->db));
	if (rc == 0)
		rc = db_commit(h->db, e);
	else
		db_rollback(h->db);
	// In memory before the database is let go: a commit of the whole row reads it from there.
	if (rc == 0) {
		pthread_mutex_lock(&h->lock);
		struct sandbox *s = host_find(h, id);
		if (s && ends_at_ns)
			sandbox_set_end(s, *ends_at_ns);
		if (s && on_timeout)
			s->info.on_timeout = *on_timeout;
		pthread_mutex_unlock(&h->lock);
		statefile_set_time(h, id, ends_at_ns, on_timeout);
	}
	db_unlock(h->db);
	if (rc == 0)
		tell_event(h, last);
	return rc;
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
		rc = store_put_event(h, id, ev, e);
	uint64_t last;
	rc = finish(h, rc, ev, &last, e);
	if (rc == 0)
		statefile_remove(h, id);
	db_unlock(h->db);
	if (rc == 0)
		tell_event(h, last);
	return rc;
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
	struct sandbox *s;
	int rc = store_row_sandbox(row, &s);
	return rc < 0 ? rc : l->f(l->h, s, db_text(row, 27), db_text(row, 28), db_text(row, 29));
}

int store_load(struct host *h, store_row_fn f, struct err *e)
{
	struct load l = {h, f};
	db_lock(h->db);
	int rc = db_query(h->db, e, read_sandbox, &l,
		"SELECT s.id, template, s.state, vcpus, memory_mb, disk_mb, created_ns, "
		"s.started_ns, stopped_ns, ends_at_ns, on_timeout, slot, token, cause, detail, "
		"phases, snapshot, backend, generation, lineage, kernel_id, parent, dns, dns_own, "
		"agent, owed, unquiesced, o.kind, "
		"o.op_id, "
		"o.data FROM sandboxes s LEFT JOIN operations o ON o.sandbox = s.id AND o.state = "
		"'open' ORDER BY s.id, o.kind = 'destroy' DESC, o.started_ns",
		"");
	db_unlock(h->db);
	return rc;
}
