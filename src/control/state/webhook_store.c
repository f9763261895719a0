// SPDX-License-Identifier: Apache-2.0
#include "control/state/webhook_store.h"
#include <string.h>
#include "base/json.h"
#include "base/str.h"

#define COLUMNS                                                                                    \
	"id, url, secret, kinds, enabled, created_ns, epoch, cursor, attempts, first_ns, next_ns"

void webhook_done(struct webhook *w)
{
	json_decref(w->kinds);
	explicit_bzero(w->secret, sizeof w->secret);
	w->kinds = NULL;
}

static int read_webhook(sqlite3_stmt *st, struct webhook *w)
{
	*w = (struct webhook){.kinds = json_loads(db_text(st, 3), 0, NULL)};
	snprintf(w->id, sizeof w->id, "%s", db_text(st, 0));
	snprintf(w->url, sizeof w->url, "%s", db_text(st, 1));
	snprintf(w->secret, sizeof w->secret, "%s", db_text(st, 2));
	w->enabled = sqlite3_column_int(st, 4);
	w->created_ns = (uint64_t)sqlite3_column_int64(st, 5);
	snprintf(w->epoch, sizeof w->epoch, "%s", db_text(st, 6));
	w->cursor = (uint64_t)sqlite3_column_int64(st, 7);
	w->attempts = (unsigned)sqlite3_column_int(st, 8);
	w->first_ns = (uint64_t)sqlite3_column_int64(st, 9);
	w->next_ns = (uint64_t)sqlite3_column_int64(st, 10);
	return json_is_array(w->kinds) ? 0 : -EBADMSG;
}

static int read_count(void *ctx, sqlite3_stmt *st)
{
	*(int *)ctx = sqlite3_column_int(st, 0);
	return 0;
}

int webhooks_add(struct db *db, const struct webhook *w, struct err *e)
{
	_cleanup_free_ char *kinds = json_compact(w->kinds);
	int n = 0;
	if (!kinds)
		return err_errno(e, ENOMEM, "webhook");
	db_lock(db);
	int rc = db_query(db, e, read_count, &n, "SELECT count(*) FROM webhooks", "");
	if (rc == 0 && n >= WEBHOOKS_MAX)
		rc = err_set(e, ERR_LIMIT, "there are %d webhooks: remove one first", n);
	if (rc == 0)
		rc = db_exec(db, e,
			"INSERT INTO webhooks (id, url, secret, kinds, enabled, created_ns, epoch, "
			"cursor) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
			"ssssiisi", w->id, w->url, w->secret, kinds, (int64_t)w->enabled,
			(int64_t)w->created_ns, w->epoch, (int64_t)w->cursor);
	db_unlock(db);
	return rc;
}

static int not_found(struct db *db, const char *id, int rc, struct err *e)
{
	return rc == 0 && sqlite3_changes(db_handle(db)) == 0
		       ? err_set(e, ERR_NOT_FOUND, "no webhook '%.64s'", id)
		       : rc;
}

int webhooks_change(struct db *db, const struct webhook *w, struct err *e)
{
	_cleanup_free_ char *kinds = json_compact(w->kinds);
	if (!kinds)
		return err_errno(e, ENOMEM, "webhook");
	db_lock(db);
	int rc = db_exec(db, e,
		"UPDATE webhooks SET url = ?, secret = ?, kinds = ?, enabled = ?, next_ns = 0 "
		"WHERE id = ?",
		"sssis", w->url, w->secret, kinds, (int64_t)w->enabled, w->id);
	rc = not_found(db, w->id, rc, e);
	db_unlock(db);
	return rc;
}

int webhooks_remove(struct db *db, const char *id, struct err *e)
{
	db_lock(db);
	int rc = db_exec(db, e, "DELETE FROM webhooks WHERE id = ?", "s", id);
	rc = not_found(db, id, rc, e);
	db_unlock(db);
	return rc;
}

static int take_one(void *ctx, sqlite3_stmt *st)
{
	int rc = read_webhook(st, ctx);
	return rc < 0 ? rc : 1;
}

int webhooks_get(struct db *db, const char *id, struct webhook *ret, struct err *e)
{
	int rc = DB_LOCKED(db, db_query(db, e, take_one, ret,
				       "SELECT " COLUMNS " FROM webhooks WHERE id = ?", "s", id));
	if (rc == 0)
		return err_set(e, ERR_NOT_FOUND, "no webhook '%.64s'", id);
	return MIN(rc, 0);
}

struct list {
	struct webhook *items;
	size_t n;
};

static int take_item(void *ctx, sqlite3_stmt *st)
{
	struct list *l = ctx;
	if (l->n == WEBHOOKS_MAX)
		return 1;
	int rc = read_webhook(st, &l->items[l->n]);
	l->n++;
	return rc;
}

int webhooks_list(struct db *db, struct webhook **ret, size_t *ret_n, struct err *e)
{
	struct list l = {.items = calloc(WEBHOOKS_MAX, sizeof *l.items)};
	if (!l.items)
		return err_errno(e, ENOMEM, "webhooks");
	int rc = DB_LOCKED(db, db_query(db, e, take_item, &l,
				       "SELECT " COLUMNS " FROM webhooks ORDER BY created_ns", ""));
	if (rc < 0) {
		for (size_t i = 0; i < l.n; i++)
			webhook_done(&l.items[i]);
		free(l.items);
		return err_prefix(e, rc, "webhooks in control.db");
	}
	*ret = l.items;
	*ret_n = l.n;
	return 0;
}

// With the lock held, in a transaction, of a webhook that is there.
static int add_delivery(
	struct db *db, const char *id, const struct webhook_delivery *d, struct err *e)
{
	int rc = db_exec(db, e,
		"INSERT INTO webhook_deliveries (webhook, event, kind, attempt, at_ns, "
		"duration_us, "
		"status, outcome, error) SELECT id, ?, ?, ?, ?, ?, ?, ?, ? FROM webhooks WHERE id "
		"= ?",
		"isiiiisss", (int64_t)d->event, d->kind, (int64_t)d->attempt, (int64_t)d->at_ns,
		(int64_t)d->duration_us, (int64_t)d->status, d->outcome, d->error, id);
	if (rc == 0)
		rc = db_exec(db, e,
			"DELETE FROM webhook_deliveries WHERE webhook = ?1 AND number <= (SELECT "
			"number FROM webhook_deliveries WHERE webhook = ?1 ORDER BY number DESC "
			"LIMIT 1 OFFSET ?2)",
			"si", id, (int64_t)WEBHOOK_DELIVERIES_MAX);
	return rc;
}

int webhooks_note(
	struct db *db, const struct webhook *w, const struct webhook_delivery *d, struct err *e)
{
	db_lock(db);
	int rc = db_begin(db, e);
	if (rc == 0)
		rc = db_exec(db, e,
			"UPDATE webhooks SET epoch = ?, cursor = ?, attempts = ?, first_ns = ?, "
			"next_ns = ? WHERE id = ?",
			"siiiis", w->epoch, (int64_t)w->cursor, (int64_t)w->attempts,
			(int64_t)w->first_ns, (int64_t)w->next_ns, w->id);
	if (rc == 0 && d)
		rc = add_delivery(db, w->id, d, e);
	if (rc == 0)
		rc = db_commit(db, e);
	else
		db_rollback(db);
	db_unlock(db);
	return rc;
}

int webhooks_add_delivery(
	struct db *db, const char *id, const struct webhook_delivery *d, struct err *e)
{
	db_lock(db);
	int rc = db_begin(db, e);
	if (rc == 0)
		rc = add_delivery(db, id, d, e);
	if (rc == 0)
		rc = db_commit(db, e);
	else
		db_rollback(db);
	db_unlock(db);
	return rc;
}

struct taker {
	struct webhook_delivery *list;
	size_t n, max;
};

static const char *outcome_of(const char *text)
{
	return str_eq(text, "delivered") ? "delivered"
	       : str_eq(text, "failed")	 ? "failed"
					 : "given_up";
}

static int take_delivery(void *ctx, sqlite3_stmt *st)
{
	struct taker *t = ctx;
	if (t->n == t->max)
		return 1;
	struct webhook_delivery *d = &t->list[t->n++];
	*d = (struct webhook_delivery){.event = (uint64_t)sqlite3_column_int64(st, 0),
		.attempt = (unsigned)sqlite3_column_int(st, 2),
		.at_ns = (uint64_t)sqlite3_column_int64(st, 3),
		.duration_us = (uint64_t)sqlite3_column_int64(st, 4),
		.status = sqlite3_column_int(st, 5),
		.outcome = outcome_of(db_text(st, 6))};
	snprintf(d->kind, sizeof d->kind, "%s", db_text(st, 1));
	snprintf(d->error, sizeof d->error, "%s", db_text(st, 7));
	return 0;
}

int webhooks_deliveries(struct db *db, const char *id, size_t max,
	int (*take)(void *ctx, const struct webhook_delivery *d), void *ctx, struct err *e)
{
	_cleanup_free_ struct webhook_delivery *list = calloc(MAX(max, 1u), sizeof *list);
	struct taker t = {.list = list, .max = max};
	if (!list)
		return err_errno(e, ENOMEM, "deliveries");
	int rc = DB_LOCKED(db,
		db_query(db, e, take_delivery, &t,
			"SELECT event, kind, attempt, at_ns, duration_us, status, outcome, error "
			"FROM webhook_deliveries WHERE webhook = ? ORDER BY number DESC",
			"s", id));
	rc = MIN(rc, 0);
	for (size_t i = 0; rc == 0 && i < t.n; i++)
		rc = take(ctx, &t.list[i]);
	return rc;
}
