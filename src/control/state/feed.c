// SPDX-License-Identifier: Apache-2.0
// How this works. The host keeps its events until they are acknowledged. A pull reads those after
// our cursor, writes them and the new cursor in one transaction, and then acknowledges. Killed
// anywhere: before the commit nothing has happened, after it the cursor says what need not be read
// again. Numbers are the host's own; they belong to one database of it (journal_id), and start anew
// with another.
#include "control/state/feed.h"
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/id.h"
#include "base/lock.h"
#include "base/log.h"
#include "control/state/event_log.h"
#include "base/json.h"

#define HOST_NAME "local"
#define BATCH 500
#define WAIT_MS 250 // for the next event; also how long the end waits
#define RETRY_MS 1000

struct feed {
	struct db *db;
	struct hostagent host;
	pthread_t thread;
	bool started;
	pthread_mutex_t pull; // one at a time; guards the next three
	bool checked;	      // the journal is the one that cursor belongs to
	uint64_t cursor, acked;
	pthread_mutex_t lock; // guards the rest
	pthread_cond_t changed;
	uint64_t last; // own number
	struct feed_watch *watches;
	bool closed;
};

// --- the database

static int read_u64(void *ctx, sqlite3_stmt *st)
{
	*(uint64_t *)ctx = (uint64_t)sqlite3_column_int64(st, 0);
	return 0;
}

static int read_journal(void *ctx, sqlite3_stmt *st)
{
	snprintf(ctx, sizeof((struct host_info *)0)->journal_id, "%s", db_text(st, 0));
	return 0;
}

static int read_epoch(void *ctx, sqlite3_stmt *st)
{
	snprintf(ctx, EVENT_LOG_EPOCH_SIZE, "%s", db_text(st, 0));
	return 0;
}

// A new one, with the database locked.
static int write_epoch(struct feed *f, struct err *e)
{
	unsigned char raw[(EVENT_LOG_EPOCH_SIZE - 1) / 2];
	char epoch[EVENT_LOG_EPOCH_SIZE];
	id_random_bytes(raw, sizeof raw);
	id_hex(raw, sizeof raw, epoch);
	return db_exec(f->db, e, "UPDATE feed SET epoch = ?", "s", epoch);
}

static int load(struct feed *f, struct err *e)
{
	db_lock(f->db);
	int rc = db_exec(f->db, e,
		"INSERT OR IGNORE INTO hosts (name, journal, cursor) VALUES (?, '', 0)", "s",
		HOST_NAME);
	if (rc == 0)
		rc = db_query(f->db, e, read_u64, &f->cursor,
			"SELECT cursor FROM hosts WHERE name = ?", "s", HOST_NAME);
	if (rc == 0)
		rc = db_query(f->db, e, read_u64, &f->last,
			"SELECT seq FROM sqlite_sequence WHERE name = 'events'", "");
	char epoch[EVENT_LOG_EPOCH_SIZE] = "";
	if (rc == 0)
		rc = db_query(f->db, e, read_epoch, epoch, "SELECT epoch FROM feed", "");
	if (rc == 0 && !epoch[0])
		rc = write_epoch(f, e);
	db_unlock(f->db);
	return rc;
}

static int set_cursor(struct feed *f, const char *journal, uint64_t cursor, struct err *e)
{
	int rc = DB_LOCKED(
		f->db, db_exec(f->db, e, "UPDATE hosts SET journal = ?, cursor = ? WHERE name = ?",
			       "sis", journal, (int64_t)cursor, HOST_NAME));
	if (rc == 0)
		f->cursor = cursor;
	return rc;
}

static int add_events(
	struct feed *f, const struct host_event *list, size_t n, uint64_t *ret_last, struct err *e)
{
	db_lock(f->db);
	int rc = db_begin(f->db, e);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		const struct host_event *ev = &list[i];
		_cleanup_free_ char *data = ev->data ? json_compact(ev->data) : strdup("{}");
		rc = data ? db_exec(f->db, e,
				    "INSERT INTO events (host, host_seq, at_ns, sandbox, kind, "
				    "cause, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
				    "siissss", HOST_NAME, (int64_t)ev->seq, (int64_t)ev->at_ns,
				    ev->sandbox, ev->kind, ev->cause, data)
			  : err_errno(e, ENOMEM, "event");
	}
	if (rc == 0)
		*ret_last = (uint64_t)sqlite3_last_insert_rowid(db_handle(f->db));
	if (rc == 0)
		rc = db_exec(f->db, e, "UPDATE hosts SET cursor = ? WHERE name = ?", "is",
			(int64_t)list[n - 1].seq, HOST_NAME);
	if (rc == 0)
		rc = db_commit(f->db, e);
	else
		db_rollback(f->db);
	db_unlock(f->db);
	return rc;
}

// --- pulling; f->pull is held

// Asked at the start and after each failure: the host may have been replaced meanwhile.
static int check_journal(struct feed *f, struct err *e)
{
	char journal[sizeof((struct host_info *)0)->journal_id] = "";
	struct host_info info = {0};
	int rc = f->host.ops->info(f->host.host, &info, e);
	if (rc == 0)
		rc = DB_LOCKED(
			f->db, db_query(f->db, e, read_journal, journal,
				       "SELECT journal FROM hosts WHERE name = ?", "s", HOST_NAME));
	if (rc < 0)
		return rc;
	if (!str_eq(journal, info.journal_id)) {
		if (f->cursor > 0)
			log_warn("the host has a new database, its events start anew cursor=%lu",
				f->cursor);
		rc = set_cursor(f, info.journal_id, 0, e);
	} else if (info.last_event < f->cursor) {
		log_error("the host's database is older than its events known here: those between "
			  "are its past cursor=%lu last=%lu",
			f->cursor, info.last_event);
		rc = set_cursor(f, journal, info.last_event, e);
	}
	f->checked = rc == 0;
	f->acked = 0;
	return rc;
}

static void announce(struct feed *f, const struct host_event *list, size_t n, uint64_t last)
{
	pthread_mutex_lock(&f->lock);
	for (struct feed_watch *w = f->watches; w; w = w->next)
		for (size_t i = 0; i < n && !w->seen; i++)
			if (str_eq(list[i].sandbox, w->sandbox)) {
				w->seen = true;
				pthread_cond_signal(&w->changed);
			}
	f->last = MAX(f->last, last);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

static int take_batch(struct feed *f, struct host_event *list, size_t n, struct err *e)
{
	uint64_t last = 0;
	if (n == 0)
		return 0;
	// The host forgets what was acknowledged: a gap means that this database is a copy from
	// before, and that the numbers which follow here were given to other events then.
	bool gap = f->cursor > 0 && list[0].seq != f->cursor + 1;
	if (gap)
		log_error("events of the host are missing after=%lu next=%lu kind=%s", f->cursor,
			list[0].seq, list[0].kind);
	int rc = gap ? DB_LOCKED(f->db, write_epoch(f, e)) : 0;
	if (rc == 0)
		rc = add_events(f, list, n, &last, e);
	if (rc == 0) {
		f->cursor = list[n - 1].seq;
		announce(f, list, n, last);
	}
	return rc;
}

static int pull_all(struct feed *f, struct err *e)
{
	int rc = f->checked ? 0 : check_journal(f, e);
	size_t n = BATCH;
	while (rc == 0 && n == BATCH) {
		_cleanup_free_ struct host_event *list = NULL;
		n = 0;
		rc = f->host.ops->events(f->host.host, f->cursor, BATCH, 0, &list, &n, e);
		if (rc < 0)
			break;
		rc = take_batch(f, list, n, e);
		for (size_t i = 0; i < n; i++)
			host_event_done(&list[i]);
		// Also those of an earlier run that was killed in between.
		if (rc == 0 && f->acked < f->cursor)
			rc = f->host.ops->ack_events(f->host.host, f->cursor, e);
		if (rc == 0)
			f->acked = f->cursor;
	}
	if (rc < 0)
		f->checked = false;
	return rc;
}

static int pull(struct feed *f, struct err *e)
{
	pthread_mutex_lock(&f->pull);
	int rc = pull_all(f, e);
	pthread_mutex_unlock(&f->pull);
	return rc;
}

int feed_catch_up(struct feed *f, struct err *e)
{
	return pull(f, e);
}

// Not under f->pull: others can pull while this waits. What it is given is read again then.
static int wait_for_more(struct feed *f, struct err *e)
{
	_cleanup_free_ struct host_event *list = NULL;
	size_t n = 0;
	pthread_mutex_lock(&f->pull);
	uint64_t cursor = f->cursor;
	pthread_mutex_unlock(&f->pull);
	int rc = f->host.ops->events(f->host.host, cursor, 1, WAIT_MS, &list, &n, e);
	for (size_t i = 0; rc == 0 && i < n; i++)
		host_event_done(&list[i]);
	return rc;
}

// Sleeps for a while after a failure. false: the feed ends.
static bool go_on(struct feed *f, bool failed)
{
	const uint64_t until = deadline_in_ms(RETRY_MS);
	pthread_mutex_lock(&f->lock);
	while (failed && !f->closed && cond_wait_until(&f->changed, &f->lock, until) == 0)
		;
	bool on = !f->closed;
	pthread_mutex_unlock(&f->lock);
	return on;
}

static void *bring(void *arg)
{
	struct feed *f = arg;
	bool failed = false;
	while (go_on(f, failed)) {
		struct err e = {0};
		int rc = pull(f, &e);
		if (rc == 0)
			rc = wait_for_more(f, &e);
		if (rc < 0 && !failed && go_on(f, false))
			log_warn("events of the host are not to be had: %s", err_text(&e, rc));
		if (rc == 0 && failed)
			log_info("events of the host come again");
		failed = rc < 0;
	}
	return NULL;
}

void feed_announce(struct feed *f, const struct host_event *ev, uint64_t seq)
{
	announce(f, ev, 1, seq);
}

// --- reading

uint64_t feed_wait(struct feed *f, uint64_t after, int wait_ms)
{
	const uint64_t until = deadline_in_ms(wait_ms);
	pthread_mutex_lock(&f->lock);
	while (f->last <= after && !f->closed && cond_wait_until(&f->changed, &f->lock, until) == 0)
		;
	uint64_t last = f->last;
	pthread_mutex_unlock(&f->lock);
	return last;
}

void feed_watch(struct feed *f, struct feed_watch *w, const char *sandbox)
{
	*w = (struct feed_watch){.sandbox = sandbox};
	pthread_cond_init(&w->changed, NULL);
	pthread_mutex_lock(&f->lock);
	w->next = f->watches;
	f->watches = w;
	pthread_mutex_unlock(&f->lock);
}

bool feed_watch_wait(struct feed *f, struct feed_watch *w, int wait_ms)
{
	const uint64_t until = deadline_in_ms(wait_ms);
	pthread_mutex_lock(&f->lock);
	while (!w->seen && !f->closed && cond_wait_until(&w->changed, &f->lock, until) == 0)
		;
	bool seen = w->seen;
	w->seen = false;
	pthread_mutex_unlock(&f->lock);
	return seen;
}

void feed_unwatch(struct feed *f, struct feed_watch *w)
{
	pthread_mutex_lock(&f->lock);
	struct feed_watch **p = &f->watches;
	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
	pthread_mutex_unlock(&f->lock);
	pthread_cond_destroy(&w->changed);
}

// --- life

int feed_start(struct db *db, const struct hostagent *host, struct feed **ret, struct err *e)
{
	_cleanup_(feed_stopp) struct feed *f = calloc(1, sizeof *f);
	if (!f)
		return err_errno(e, ENOMEM, "events");
	f->db = db;
	f->host = *host;
	pthread_mutex_init(&f->pull, NULL);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	int rc = load(f, e);
	if (rc == 0 && (rc = -pthread_create(&f->thread, NULL, bring, f)) < 0)
		err_errno(e, rc, "thread of the events");
	if (rc < 0)
		return rc;
	f->started = true;
	*ret = TAKE_PTR(f);
	return 0;
}

void feed_close(struct feed *f)
{
	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	f->closed = true;
	pthread_cond_broadcast(&f->changed);
	for (struct feed_watch *w = f->watches; w; w = w->next)
		pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&f->lock);
}

bool feed_is_closed(struct feed *f)
{
	pthread_mutex_lock(&f->lock);
	bool closed = f->closed;
	pthread_mutex_unlock(&f->lock);
	return closed;
}

struct feed *feed_stop(struct feed *f)
{
	if (!f)
		return NULL;
	feed_close(f);
	if (f->started)
		pthread_join(f->thread, NULL);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	pthread_mutex_destroy(&f->pull);
	free(f);
	return NULL;
}
