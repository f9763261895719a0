// SPDX-License-Identifier: Apache-2.0
#include "control/state/operations.h"
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "http/json.h"

static const char *const kinds[] = {"create", "pause", "resume", "rollback", "fork", "snapshot",
	"snapshot_delete", "destroy", "set_timeout", "key_delete", "update"};
static const char *const states[] = {"open", "done", "failed"};

const char *operation_kind_name(enum operation_kind k)
{
	return kinds[k];
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

struct open_op {
	struct open_op *next;
	struct operation_ref ref;
};

struct operations {
	struct db *db;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct open_op *first, **last; // oldest first
};

// --- what is open, in memory

static struct open_op *find(struct operations *o, const char *id)
{
	struct open_op *p = o->first;
	while (p && strcmp(p->ref.id, id) != 0)
		p = p->next;
	return p;
}

static void open_free(struct open_op *p)
{
	free(p->ref.children);
	free(p);
}

static int add(struct operations *o, const struct operation *op, bool active)
{
	struct open_op *p = calloc(1, sizeof *p);
	if (!p)
		return -ENOMEM;
	memcpy(p->ref.id, op->id, sizeof p->ref.id);
	memcpy(p->ref.sandbox, op->sandbox, sizeof p->ref.sandbox);
	memcpy(p->ref.snapshot, op->snapshot, sizeof p->ref.snapshot);
	p->ref.kind = op->kind;
	p->ref.active = active;
	json_t *children = json_object_get(op->request, "children"), *child;
	size_t i, n = json_array_size(children);
	if (n && !(p->ref.children = calloc(n, sizeof *p->ref.children))) {
		open_free(p);
		return -ENOMEM;
	}
	json_array_foreach (children, i, child) {
		const char *id = json_string_value(json_object_get(child, "id"));
		snprintf(p->ref.children[p->ref.n_children++], sizeof *p->ref.children, "%s",
			id ? id : "");
	}
	pthread_mutex_lock(&o->lock);
	*o->last = p;
	o->last = &p->next;
	pthread_mutex_unlock(&o->lock);
	return 0;
}

int operations_activate(struct operations *o, const struct operation *op, struct err *e)
{
	int rc = add(o, op, true);
	return rc < 0 ? err_errno(e, rc, "operation") : 0;
}

void operations_ended(struct operations *o, const char *id)
{
	pthread_mutex_lock(&o->lock);
	for (struct open_op **p = &o->first; *p; p = &(*p)->next) {
		struct open_op *gone = *p;
		if (strcmp(gone->ref.id, id) != 0)
			continue;
		*p = gone->next;
		if (o->last == &gone->next)
			o->last = p;
		open_free(gone);
		break;
	}
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
}

void operations_orphan(struct operations *o, const char *id)
{
	pthread_mutex_lock(&o->lock);
	struct open_op *p = find(o, id);
	if (p)
		p->ref.active = false;
	pthread_mutex_unlock(&o->lock);
}

bool operations_adopt(struct operations *o, const char *id)
{
	pthread_mutex_lock(&o->lock);
	struct open_op *p = find(o, id);
	bool ok = p && !p->ref.active;
	if (ok)
		p->ref.active = true;
	pthread_mutex_unlock(&o->lock);
	return ok;
}

static bool concerns(const struct operation_ref *r, const char *sandbox)
{
	bool yes = strcmp(r->sandbox, sandbox) == 0;
	for (size_t i = 0; i < r->n_children && !yes; i++)
		yes = strcmp(r->children[i], sandbox) == 0;
	return yes;
}

bool operations_orphan_on(struct operations *o, const char *sandbox, char out[UUID_SIZE])
{
	pthread_mutex_lock(&o->lock);
	struct open_op *p = o->first;
	while (p && (p->ref.active || !concerns(&p->ref, sandbox)))
		p = p->next;
	if (p)
		memcpy(out, p->ref.id, UUID_SIZE);
	pthread_mutex_unlock(&o->lock);
	return p != NULL;
}

bool operations_open_on(struct operations *o, const char *sandbox)
{
	pthread_mutex_lock(&o->lock);
	struct open_op *p = o->first;
	while (p && !concerns(&p->ref, sandbox))
		p = p->next;
	pthread_mutex_unlock(&o->lock);
	return p != NULL;
}

bool operations_snapshot_open(struct operations *o, const char *snapshot)
{
	pthread_mutex_lock(&o->lock);
	struct open_op *p = o->first;
	while (p && strcmp(p->ref.snapshot, snapshot) != 0)
		p = p->next;
	pthread_mutex_unlock(&o->lock);
	return p != NULL;
}

bool operations_wait(struct operations *o, const char *id, int wait_ms)
{
	uint64_t until = clock_monotonic_ns() + (uint64_t)wait_ms * NSEC_PER_MSEC;
	struct timespec ts = {
		.tv_sec = (time_t)(until / NSEC_PER_SEC), .tv_nsec = (long)(until % NSEC_PER_SEC)};
	pthread_mutex_lock(&o->lock);
	while (find(o, id) && wait_ms > 0)
		if (pthread_cond_timedwait(&o->changed, &o->lock, &ts) == ETIMEDOUT)
			break;
	bool ended = find(o, id) == NULL;
	pthread_mutex_unlock(&o->lock);
	return ended;
}

int operations_list_open(
	struct operations *o, struct operation_ref **ret, size_t *ret_n, struct err *e)
{
	size_t n = 0;
	pthread_mutex_lock(&o->lock);
	for (struct open_op *p = o->first; p; p = p->next)
		n++;
	struct operation_ref *list = calloc(n + 1, sizeof *list);
	bool ok = list != NULL;
	n = 0;
	for (struct open_op *p = o->first; p && ok; p = p->next) {
		struct operation_ref *r = &list[n++];
		*r = p->ref;
		r->children = NULL;
		if (!r->n_children)
			continue;
		r->children = calloc(r->n_children, sizeof *r->children);
		ok = r->children != NULL;
		if (ok)
			memcpy(r->children, p->ref.children, r->n_children * sizeof *r->children);
	}
	pthread_mutex_unlock(&o->lock);
	if (!ok) {
		operations_refs_free(list, list ? n : 0);
		return err_errno(e, ENOMEM, "operations");
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

void operations_refs_free(struct operation_ref *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(list[i].children);
	free(list);
}

// --- the table

#define COLUMNS                                                                                    \
	"id, kind, sandbox, snapshot, state, error_code, error, request, phases, api_key, "        \
	"idempotency_key, request_hash, status, answer, created_ns, ended_ns"

static int lookup(const char *const *list, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(list[i], name) == 0)
			return (int)i;
	return -1;
}

static int read_op(sqlite3_stmt *st, struct operation *op)
{
	int kind = lookup(kinds, ARRAY_SIZE(kinds), db_text(st, 1));
	int state = lookup(states, ARRAY_SIZE(states), db_text(st, 4));
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
	if (json_is_object(op->request) && json_is_array(op->phases))
		return 0;
	operation_done(op);
	return -EBADMSG;
}

static int load_open(void *ctx, sqlite3_stmt *st)
{
	_cleanup_operation_ struct operation op;
	int rc = read_op(st, &op);
	return rc < 0 ? rc : add(ctx, &op, false);
}

int operations_open(struct db *db, struct operations **ret, struct err *e)
{
	_cleanup_(operations_freep) struct operations *o = calloc(1, sizeof *o);
	if (!o)
		return err_errno(e, ENOMEM, "operations");
	o->db = db;
	o->last = &o->first;
	pthread_mutex_init(&o->lock, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&o->changed, &attr);
	pthread_condattr_destroy(&attr);
	int rc = DB_LOCKED(db, db_query(db, e, load_open, o,
				       "SELECT " COLUMNS
				       " FROM operations WHERE state = 'open' ORDER BY created_ns",
				       ""));
	if (rc < 0)
		return err_is_set(e) ? rc : err_errno(e, rc, "operations in control.db");
	*ret = TAKE_PTR(o);
	return 0;
}

struct operations *operations_free(struct operations *o)
{
	if (!o)
		return NULL;
	for (struct open_op *p = o->first, *next; p; p = next) {
		next = p->next;
		open_free(p);
	}
	pthread_cond_destroy(&o->changed);
	pthread_mutex_destroy(&o->lock);
	free(o);
	return NULL;
}

static const char *or_null(const char *text)
{
	return text[0] ? text : NULL;
}

int operations_insert(struct operations *o, const struct operation *op, struct err *e)
{
	_cleanup_free_ char *request = op->request ? json_compact(op->request) : strdup("{}");
	if (!request)
		return err_errno(e, ENOMEM, "operation");
	return db_exec(o->db, e,
		"INSERT INTO operations (id, kind, sandbox, snapshot, state, request, phases, "
		"api_key, idempotency_key, request_hash, created_ns) "
		"VALUES (?, ?, ?, ?, 'open', ?, '[]', ?, ?, ?, ?)",
		"ssssssssi", op->id, kinds[op->kind], op->sandbox, op->snapshot, request,
		or_null(op->key) ? op->api_key : NULL, or_null(op->key),
		or_null(op->key) ? op->hash : NULL, (int64_t)op->created_ns);
}

int operations_update(struct operations *o, const struct operation *op, struct err *e)
{
	_cleanup_free_ char *phases = op->phases ? json_compact(op->phases) : strdup("[]");
	bool failed = op->state == OPERATION_FAILED;
	if (!phases)
		return err_errno(e, ENOMEM, "operation");
	return db_exec(o->db, e,
		"UPDATE operations SET state = ?, error_code = ?, error = ?, phases = ?, "
		"status = ?, answer = ?, ended_ns = ? WHERE id = ? AND state = 'open'",
		"ssssisis", states[op->state], failed ? err_info(op->failed.code)->name : NULL,
		failed ? op->failed.text : NULL, phases, (int64_t)op->status, op->answer,
		(int64_t)op->ended_ns, op->id);
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

int operations_get(struct operations *o, const char *id, struct operation *ret, struct err *e)
{
	return damaged(DB_LOCKED(o->db,
			       db_query(o->db, e, take_one, ret,
				       "SELECT " COLUMNS " FROM operations WHERE id = ?", "s", id)),
		e);
}

int operations_find_key(struct operations *o, const char *api_key, const char *key, uint64_t now_ns,
	struct operation *ret, struct err *e)
{
	uint64_t since = now_ns > OPERATION_KEY_NS ? now_ns - OPERATION_KEY_NS : 0;
	db_lock(o->db);
	// An old one makes room for a new one, but not while it is open.
	int rc = db_exec(o->db, e,
		"UPDATE operations SET idempotency_key = NULL, request_hash = NULL, answer = NULL "
		"WHERE api_key = ? AND idempotency_key = ? AND created_ns < ? AND state <> 'open'",
		"ssi", api_key, key, (int64_t)since);
	if (rc == 0)
		rc = db_query(o->db, e, take_one, ret,
			"SELECT " COLUMNS
			" FROM operations WHERE api_key = ? AND idempotency_key = ?",
			"ss", api_key, key);
	db_unlock(o->db);
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

int operations_list(struct operations *o, const char *sandbox, uint64_t before_ns, size_t max,
	struct operation **ret, size_t *ret_n, struct err *e)
{
	struct list l = {.items = calloc(max + 1, sizeof *l.items), .max = max};
	int64_t before = (int64_t)MIN(before_ns, (uint64_t)INT64_MAX);
	if (!l.items)
		return err_errno(e, ENOMEM, "operations");
	db_lock(o->db);
	int rc = sandbox ? db_query(o->db, e, take_item, &l,
				   "SELECT " COLUMNS
				   " FROM operations WHERE created_ns < ?1 AND (sandbox = ?2 OR "
				   "(kind = 'fork' AND EXISTS (SELECT 1 FROM json_each(request, "
				   "'$.children') WHERE json_extract(value, '$.id') = ?2))) "
				   "ORDER BY created_ns DESC, id LIMIT ?3",
				   "isi", before, sandbox, (int64_t)max)
			 : db_query(o->db, e, take_item, &l,
				   "SELECT " COLUMNS " FROM operations WHERE created_ns < ? "
				   "ORDER BY created_ns DESC, id LIMIT ?",
				   "ii", before, (int64_t)max);
	db_unlock(o->db);
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
	const char *kind = db_text(st, 1);
	snprintf(w->id, sizeof w->id, "%s", db_text(st, 0));
	w->state = (enum operation_state)MAX(0, lookup(states, ARRAY_SIZE(states), db_text(st, 2)));
	w->makes = strcmp(kind, "create") == 0 || strcmp(kind, "fork") == 0 ||
		   strcmp(kind, "snapshot") == 0;
	w->removes = strcmp(kind, "destroy") == 0 || strcmp(kind, "snapshot_delete") == 0;
	return 1;
}

int operations_last_word(struct operations *o, enum operation_about about, const char *id,
	struct operation_word *ret, struct err *e)
{
	db_lock(o->db);
	// A destroy that failed is no word about it; of the others the newest is.
	int rc =
		about == OPERATION_ABOUT_SNAPSHOT
			? db_query(o->db, e, take_word, ret,
				  "SELECT id, kind, state FROM operations WHERE snapshot = ? AND "
				  "kind IN ('snapshot', 'snapshot_delete') ORDER BY created_ns "
				  "DESC LIMIT 1",
				  "s", id)
			: db_query(o->db, e, take_word, ret,
				  "SELECT id, kind, state FROM (SELECT id, kind, state, created_ns "
				  "FROM operations WHERE sandbox = ?1 AND (kind = 'create' OR "
				  "(kind = 'destroy' AND state <> 'failed')) UNION ALL "
				  "SELECT o.id, kind, state, created_ns FROM operations o, "
				  "json_each(o.request, '$.children') c WHERE kind = 'fork' AND "
				  "json_extract(c.value, '$.id') = ?1) ORDER BY created_ns DESC "
				  "LIMIT 1",
				  "s", id);
	db_unlock(o->db);
	return rc;
}

int operations_expire(struct operations *o, uint64_t now_ns, struct err *e)
{
	db_lock(o->db);
	int rc = db_begin(o->db, e);
	if (rc == 0)
		rc = db_exec(o->db, e,
			"UPDATE operations SET idempotency_key = NULL, request_hash = NULL, "
			"answer = NULL WHERE created_ns < ? AND state <> 'open' AND "
			"idempotency_key IS NOT NULL",
			"i", (int64_t)(now_ns - OPERATION_KEY_NS));
	if (rc == 0)
		rc = db_exec(o->db, e,
			"DELETE FROM operations WHERE created_ns < ? AND state <> 'open'", "i",
			(int64_t)(now_ns - OPERATION_KEEP_NS));
	if (rc == 0)
		rc = db_commit(o->db, e);
	else
		db_rollback(o->db);
	db_unlock(o->db);
	return rc;
}
