// SPDX-License-Identifier: Apache-2.0
#include "control/state/row_store.h"
#include <string.h>
#include "base/str.h"
#include "control/state/ended.h"
#include "base/json.h"

struct row_key row_store_key(sqlite3_stmt *st)
{
	return (struct row_key){db_text(st, 0), db_text(st, 1), db_text(st, 10), db_text(st, 11)};
}

int row_store_read(sqlite3_stmt *st, struct sandbox_row *row)
{
	const char *metadata = db_text(st, 2);
	if (json_parse_object(metadata, strlen(metadata), &row->metadata, NULL) < 0)
		return -EBADMSG;
	row->on_timeout = str_eq(db_text(st, 3), "pause") ? ON_TIMEOUT_PAUSE : ON_TIMEOUT_KILL;
	row->timeout_sec = (uint64_t)sqlite3_column_int64(st, 4);
	row->created_ns = (uint64_t)sqlite3_column_int64(st, 5);
	row->generation = (uint64_t)sqlite3_column_int64(st, 9);
	snprintf(row->owner, sizeof row->owner, "%s", db_text(st, 12));
	row->size.vcpus = (unsigned)sqlite3_column_int64(st, 13);
	row->size.memory_mb = (unsigned)sqlite3_column_int64(st, 14);
	row->size.disk_mb = (uint64_t)sqlite3_column_int64(st, 15);
	row->token_epoch = (uint64_t)sqlite3_column_int64(st, 16);
	row->token_told = (uint64_t)sqlite3_column_int64(st, 17);
	row->is_private = sqlite3_column_int64(st, 18) == 0;
	row->port_epoch = (uint64_t)sqlite3_column_int64(st, 19);
	for (enum row_state s = ROW_CREATING; s <= ROW_STOPPED; s++)
		if (str_eq(db_text(st, 8), row_state_name(s)))
			row->now = s;
	const char *ended = sqlite3_column_type(st, 7) == SQLITE_NULL ? NULL : db_text(st, 7);
	if (ended) {
		row->ended = calloc(1, sizeof *row->ended);
		if (!row->ended)
			return -ENOMEM;
		if (ended_parse(ended, row->ended) < 0)
			return -EBADMSG;
		row->ended_ns = (uint64_t)sqlite3_column_int64(st, 6);
		snprintf(row->ended->id, sizeof row->ended->id, "%s", row->id);
		if (!row->ended->stopped_ns)
			row->ended->stopped_ns = row->ended_ns;
	}
	return 0;
}

int row_store_load(struct db *db, db_row_fn take, void *ctx, struct err *e)
{
	return db_query(db, e, take, ctx,
		"SELECT id, template, metadata, on_timeout, timeout_sec, created_ns, ended_ns, "
		"ended, state, generation, api_key, name, owner, vcpus, memory_mb, disk_mb, "
		"token_epoch, token_told, ports_public, port_epoch FROM sandboxes "
		"LEFT JOIN sandbox_owners ON sandbox = id ORDER BY created_ns",
		"");
}

static const char *on_timeout_text(enum on_timeout t)
{
	return t == ON_TIMEOUT_PAUSE ? "pause" : "kill";
}

static const char *or_null(const char *text)
{
	return text[0] ? text : NULL;
}

int row_store_insert(
	struct db *db, const struct sandbox_row *row, const struct row_new *n, struct err *e)
{
	_cleanup_free_ char *metadata = json_compact(n->metadata);
	_cleanup_free_ char *env = json_compact(n->env);
	if (!metadata || !env)
		return err_errno(e, ENOMEM, "sandbox");
	int rc = db_exec(db, e,
		"INSERT INTO sandboxes (id, host, template, metadata, env, on_timeout, "
		"timeout_sec, created_ns, state, generation, api_key, name, vcpus, memory_mb, "
		"disk_mb, ports_public) "
		"VALUES (?, 'local', ?, ?, ?, ?, ?, ?, 'creating', 0, ?, ?, ?, ?, ?, ?)",
		"sssssiissiiii", row->id, row->template, metadata, env,
		on_timeout_text(n->on_timeout), (int64_t)n->timeout_sec, (int64_t)row->created_ns,
		row->api_key, or_null(row->name), (int64_t)n->size.vcpus,
		(int64_t)n->size.memory_mb, (int64_t)n->size.disk_mb, (int64_t)!row->is_private);
	if (rc == 0 && row->owner[0])
		rc = db_exec(db, e, "INSERT INTO sandbox_owners (sandbox, owner) VALUES (?, ?)",
			"ss", row->id, row->owner);
	return rc;
}

int row_store_live(
	struct db *db, const char *id, enum row_state now, uint64_t generation, struct err *e)
{
	return db_exec(db, e, "UPDATE sandboxes SET state = ?, generation = ? WHERE id = ?", "sis",
		row_state_name(now), (int64_t)generation, id);
}

int row_store_end(struct db *db, const char *id, uint64_t at_ns, const char *ended, struct err *e)
{
	return db_exec(db, e,
		"UPDATE sandboxes SET state = 'stopped', ended_ns = ?, ended = ? WHERE id = ?",
		"iss", (int64_t)at_ns, ended, id);
}

int row_store_looks(struct db *db, const struct sandbox_row *row, struct err *e)
{
	_cleanup_free_ char *metadata = json_compact(row->metadata);
	if (!metadata)
		return err_errno(e, ENOMEM, "sandbox %s", row->id);
	return db_exec(db, e,
		"UPDATE sandboxes SET name = ?, metadata = ?, on_timeout = ? WHERE id = ?", "ssss",
		or_null(row->name), metadata, on_timeout_text(row->on_timeout), row->id);
}

int row_store_token(struct db *db, const char *id, uint64_t epoch, uint64_t told, struct err *e)
{
	return db_exec(db, e, "UPDATE sandboxes SET token_epoch = ?, token_told = ? WHERE id = ?",
		"iis", (int64_t)epoch, (int64_t)told, id);
}

static int take_owner(void *ctx, sqlite3_stmt *st)
{
	snprintf(ctx, KEY_OWNER_SIZE, "%s", db_text(st, 0));
	return 1;
}

int row_store_owner(struct db *db, const char *id, char ret[KEY_OWNER_SIZE], struct err *e)
{
	ret[0] = '\0';
	int rc = db_query(db, e, take_owner, ret,
		"SELECT owner FROM sandbox_owners WHERE sandbox = ?", "s", id);
	return MIN(rc, 0);
}

// Of those of which nothing is left to be seen.
int row_store_expire_owners(struct db *db, struct err *e)
{
	return db_exec(db, e,
		"DELETE FROM sandbox_owners AS o WHERE NOT EXISTS (SELECT 1 FROM sandboxes WHERE "
		"id "
		"= o.sandbox) AND NOT EXISTS (SELECT 1 FROM events WHERE sandbox = o.sandbox) AND "
		"NOT EXISTS (SELECT 1 FROM operation_subjects WHERE sandbox = o.sandbox)",
		"");
}

int row_store_port_epoch(struct db *db, const char *id, uint64_t epoch, struct err *e)
{
	return db_exec(db, e, "UPDATE sandboxes SET port_epoch = ? WHERE id = ?", "is",
		(int64_t)epoch, id);
}

int row_store_delete(struct db *db, const char *id, struct err *e)
{
	return db_exec(db, e, "DELETE FROM sandboxes WHERE id = ?", "s", id);
}

int row_store_expire(struct db *db, uint64_t ended_before_ns, struct err *e)
{
	return db_exec(
		db, e, "DELETE FROM sandboxes WHERE ended_ns < ?", "i", (int64_t)ended_before_ns);
}

static int take_text(void *ctx, sqlite3_stmt *st)
{
	return (*(char **)ctx = strdup(db_text(st, 0))) ? 1 : -ENOMEM;
}

int row_store_env(struct db *db, const char *id, char **ret, struct err *e)
{
	int rc = db_query(db, e, take_text, ret, "SELECT env FROM sandboxes WHERE id = ?", "s", id);
	if (rc == 0)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%.64s'", id);
	return MIN(rc, 0);
}
