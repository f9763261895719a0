// SPDX-License-Identifier: Apache-2.0
#include "control/state/operations.h"
#include <string.h>
#include "base/str.h"
#include "base/json.h"

static const struct {
	const char *name;
	bool makes, removes;
} kinds[OPERATION_KIND_MAX] = {
	[OPERATION_CREATE] = {"create", .makes = true},
	[OPERATION_PAUSE] = {"pause"},
	[OPERATION_RESUME] = {"resume"},
	[OPERATION_ROLLBACK] = {"rollback"},
	[OPERATION_FORK] = {"fork", .makes = true},
	[OPERATION_SNAPSHOT] = {"snapshot", .makes = true},
	[OPERATION_SNAPSHOT_DELETE] = {"snapshot_delete", .removes = true},
	[OPERATION_DESTROY] = {"destroy", .removes = true},
	[OPERATION_SET_TIMEOUT] = {"set_timeout"},
	[OPERATION_KEY_DELETE] = {"key_delete"},
	[OPERATION_UPDATE] = {"update"},
};
static const char *const states[] = {"open", "done", "failed"};

const char *operation_kind_name(enum operation_kind k)
{
	return kinds[k].name;
}

bool operation_kind_makes(enum operation_kind k)
{
	return kinds[k].makes;
}

bool operation_kind_removes(enum operation_kind k)
{
	return kinds[k].removes;
}

const char *operation_state_name(enum operation_state s)
{
	return states[s];
}

void operation_done(struct operation *op)
{
	json_decref(op->request);
	json_decref(op->phases);
	free(op->answer);
	op->request = op->phases = NULL;
	op->answer = NULL;
}

#define COLUMNS                                                                                    \
	"id, kind, sandbox, snapshot, state, error_code, error, request, phases, api_key, "        \
	"idempotency_key, request_hash, status, answer, created_ns, ended_ns, request_id, owner"

static int find_kind(const char *name)
{
	for (int k = 0; k < OPERATION_KIND_MAX; k++)
		if (str_eq(kinds[k].name, name))
			return k;
	return -1;
}

static int find_state(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(states); i++)
		if (str_eq(states[i], name))
			return (int)i;
	return -1;
}

static int read_op(sqlite3_stmt *st, struct operation *op)
{
	int kind = find_kind(db_text(st, 1));
	int state = find_state(db_text(st, 4));
	*op = (struct operation){0};
	if (kind < 0 || state < 0)
		return -EBADMSG;
	op->kind = (enum operation_kind)kind;
	op->state = (enum operation_state)state;
	snprintf(op->id, sizeof op->id, "%s", db_text(st, 0));
	snprintf(op->sandbox, sizeof op->sandbox, "%s", db_text(st, 2));
	snprintf(op->snapshot, sizeof op->snapshot, "%s", db_text(st, 3));
	if (op->state == OPERATION_FAILED)
		err_set(&op->failed, err_code_from_name(db_text(st, 5)), "%s", db_text(st, 6));
	op->request = json_loads(db_text(st, 7), 0, NULL);
	op->phases = json_loads(db_text(st, 8), 0, NULL);
	snprintf(op->api_key, sizeof op->api_key, "%s", db_text(st, 9));
	snprintf(op->key, sizeof op->key, "%s", db_text(st, 10));
	snprintf(op->hash, sizeof op->hash, "%s", db_text(st, 11));
	op->status = sqlite3_column_int(st, 12);
	if (sqlite3_column_type(st, 13) != SQLITE_NULL)
		op->answer = strdup(db_text(st, 13));
	op->created_ns = (uint64_t)sqlite3_column_int64(st, 14);
	op->ended_ns = (uint64_t)sqlite3_column_int64(st, 15);
	snprintf(op->request_id, sizeof op->request_id, "%s", db_text(st, 16));
	snprintf(op->owner, sizeof op->owner, "%s", db_text(st, 17));
	if (json_is_object(op->request) && json_is_array(op->phases))
		return 0;
	operation_done(op);
	return -EBADMSG;
}

static const char *or_null(const char *text)
{
	return text[0] ? text : NULL;
}

static int add_subject(
	struct db *db, const struct operation *op, const char *sandbox, bool made, struct err *e)
{
	return db_exec(db, e,
		"INSERT OR IGNORE INTO operation_subjects (operation, sandbox, made, created_ns) "
		"VALUES (?, ?, ?, ?)",
		"ssii", op->id, sandbox, (int64_t)made, (int64_t)op->created_ns);
}

int operations_insert(struct db *db, const struct operation *op, struct err *e)
{
	_cleanup_free_ char *request = op->request ? json_compact(op->request) : strdup("{}");
	if (!request)
		return err_errno(e, ENOMEM, "operation");
	int rc = db_exec(db, e,
		"INSERT INTO operations (id, kind, sandbox, snapshot, state, request, phases, "
		"api_key, idempotency_key, request_hash, created_ns, request_id, owner) "
		"VALUES (?, ?, ?, ?, 'open', ?, '[]', ?, ?, ?, ?, ?, ?)",
		"ssssssssiss", op->id, kinds[op->kind].name, op->sandbox, op->snapshot, request,
		or_null(op->key) ? op->api_key : NULL, or_null(op->key),
		or_null(op->key) ? op->hash : NULL, (int64_t)op->created_ns, op->request_id,
		op->owner);
	if (rc == 0 && op->sandbox[0])
		rc = add_subject(db, op, op->sandbox, op->kind == OPERATION_CREATE, e);
	json_t *children = json_object_get(op->request, "children"), *child;
	size_t i;
	json_array_foreach (children, i, child) {
		const char *id = json_string_value(json_object_get(child, "id"));
		if (rc == 0 && id)
			rc = add_subject(db, op, id, true, e);
	}
	return rc;
}

int operations_end(struct db *db, const struct operation *op, struct err *e)
{
	_cleanup_free_ char *phases = op->phases ? json_compact(op->phases) : strdup("[]");
	bool failed = op->state == OPERATION_FAILED;
	if (!phases)
		return err_errno(e, ENOMEM, "operation");
	return db_exec(db, e,
		"UPDATE operations SET state = ?, error_code = ?, error = ?, phases = ?, "
		"idempotency_key = ?, request_hash = ?, status = ?, answer = ?, ended_ns = ? "
		"WHERE id = ? AND state = 'open'",
		"ssssssisis", states[op->state], failed ? err_info(op->failed.code)->name : NULL,
		failed ? op->failed.text : NULL, phases, or_null(op->key),
		or_null(op->key) ? op->hash : NULL, (int64_t)op->status, op->answer,
		(int64_t)op->ended_ns, op->id);
}

static int yes(void *ctx, sqlite3_stmt *st)
{
	return 1;
}

int operations_makes_snapshot(struct db *db, const char *name, struct err *e)
{
	return db_query(db, e, yes, NULL,
		"SELECT 1 FROM operations WHERE state = 'open' AND kind = 'snapshot' AND "
		"json_extract(request, '$.name') = ?",
		"s", name);
}

static int take_one(void *ctx, sqlite3_stmt *st)
{
	int rc = read_op(st, ctx);
	return rc < 0 ? rc : 1;
}

static int damaged(int rc, struct err *e)
{
	return rc < 0 && !err_is_set(e) ? err_errno(e, rc, "operation in control.db") : rc;
}

int operations_get(struct db *db, const char *id, struct operation *ret, struct err *e)
{
	return damaged(
		DB_LOCKED(db, db_query(db, e, take_one, ret,
				      "SELECT " COLUMNS " FROM operations WHERE id = ?", "s", id)),
		e);
}

int operations_find_key(struct db *db, const char *api_key, const char *key, uint64_t now_ns,
	struct operation *ret, struct err *e)
{
	uint64_t since = now_ns > OPERATION_KEY_NS ? now_ns - OPERATION_KEY_NS : 0;
	db_lock(db);
	// An old one makes room for a new one, but not while it is open.
	int rc = db_exec(db, e,
		"UPDATE operations SET idempotency_key = NULL, request_hash = NULL, answer = NULL "
		"WHERE api_key = ? AND idempotency_key = ? AND created_ns < ? AND state <> 'open'",
		"ssi", api_key, key, (int64_t)since);
	if (rc == 0)
		rc = db_query(db, e, take_one, ret,
			"SELECT " COLUMNS
			" FROM operations WHERE api_key = ? AND idempotency_key = ?",
			"ss", api_key, key);
	db_unlock(db);
	return damaged(rc, e);
}

struct list {
	struct operation *items;
	size_t n, max;
};

static int take_item(void *ctx, sqlite3_stmt *st)
{
	struct list *l = ctx;
	if (l->n == l->max)
		return 1;
	int rc = read_op(st, &l->items[l->n]);
	l->n += rc == 0;
	return rc;
}

int operations_list(struct db *db, const char *sandbox, const char *owner, uint64_t before_ns,
	size_t max, struct operation **ret, size_t *ret_n, struct err *e)
{
	struct list l = {.items = calloc(max + 1, sizeof *l.items), .max = max};
	int64_t before = (int64_t)MIN(before_ns, (uint64_t)INT64_MAX);
	if (!l.items)
		return err_errno(e, ENOMEM, "operations");
	db_lock(db);
	// Whoever may see a sandbox may see all that was done with it.
	int rc = sandbox ? db_query(db, e, take_item, &l,
				   "SELECT " COLUMNS " FROM operations WHERE id IN (SELECT "
				   "operation FROM operation_subjects WHERE sandbox = ?1 AND "
				   "created_ns < ?2 ORDER BY created_ns DESC LIMIT ?3) "
				   "ORDER BY created_ns DESC, id",
				   "sii", sandbox, before, (int64_t)max)
		 : owner ? db_query(db, e, take_item, &l,
				   "SELECT " COLUMNS " FROM operations WHERE owner = ? AND owner "
				   "<> '' AND created_ns < ? ORDER BY created_ns DESC, id LIMIT ?",
				   "sii", owner, before, (int64_t)max)
			 : db_query(db, e, take_item, &l,
				   "SELECT " COLUMNS " FROM operations WHERE created_ns < ? "
				   "ORDER BY created_ns DESC, id LIMIT ?",
				   "ii", before, (int64_t)max);
	db_unlock(db);
	if (rc < 0) {
		for (size_t i = 0; i < l.n; i++)
			operation_done(&l.items[i]);
		free(l.items);
		return damaged(rc, e);
	}
	*ret = l.items;
	*ret_n = l.n;
	return 0;
}

static int take_word(void *ctx, sqlite3_stmt *st)
{
	struct operation_word *w = ctx;
	int kind = find_kind(db_text(st, 1));
	snprintf(w->id, sizeof w->id, "%s", db_text(st, 0));
	w->state = (enum operation_state)MAX(0, find_state(db_text(st, 2)));
	w->makes = kind >= 0 && kinds[kind].makes;
	w->removes = kind >= 0 && kinds[kind].removes;
	return 1;
}

int operations_last_word(struct db *db, enum operation_about about, const char *id,
	struct operation_word *ret, struct err *e)
{
	// A destroy that failed is no word about it; of the others the newest is.
	return DB_LOCKED(db,
		about == OPERATION_ABOUT_SNAPSHOT
			? db_query(db, e, take_word, ret,
				  "SELECT id, kind, state FROM operations WHERE snapshot = ? AND "
				  "snapshot <> '' AND kind IN ('snapshot', 'snapshot_delete') "
				  "ORDER BY created_ns DESC LIMIT 1",
				  "s", id)
			: db_query(db, e, take_word, ret,
				  "SELECT o.id, o.kind, o.state FROM operation_subjects s "
				  "JOIN operations o ON o.id = s.operation WHERE s.sandbox = ? AND "
				  "(s.made OR (o.kind = 'destroy' AND o.state <> 'failed')) "
				  "ORDER BY s.created_ns DESC LIMIT 1",
				  "s", id));
}

struct each {
	int (*take)(void *ctx, const struct operation *op);
	void *ctx;
};

static int take_open(void *ctx, sqlite3_stmt *st)
{
	struct each *each = ctx;
	_cleanup_operation_ struct operation op;
	int rc = read_op(st, &op);
	return rc < 0 ? rc : each->take(each->ctx, &op);
}

int operations_each_open(
	struct db *db, int (*take)(void *ctx, const struct operation *op), void *ctx, struct err *e)
{
	struct each each = {take, ctx};
	return damaged(DB_LOCKED(db, db_query(db, e, take_open, &each,
					     "SELECT " COLUMNS " FROM operations WHERE state = "
					     "'open' ORDER BY created_ns",
					     "")),
		e);
}

int operations_expire(struct db *db, uint64_t now_ns, struct err *e)
{
	db_lock(db);
	int rc = db_begin(db, e);
	if (rc == 0)
		rc = db_exec(db, e,
			"UPDATE operations SET idempotency_key = NULL, request_hash = NULL, "
			"answer = NULL WHERE created_ns < ? AND state <> 'open' AND "
			"idempotency_key IS NOT NULL",
			"i", (int64_t)(now_ns - OPERATION_KEY_NS));
	if (rc == 0)
		rc = db_exec(db, e,
			"DELETE FROM operations WHERE created_ns < ? AND state <> 'open'", "i",
			(int64_t)(now_ns - OPERATION_KEEP_NS));
	if (rc == 0)
		rc = db_commit(db, e);
	else
		db_rollback(db);
	db_unlock(db);
	return rc;
}
