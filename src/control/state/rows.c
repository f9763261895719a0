// SPDX-License-Identifier: Apache-2.0
#include "control/state/rows.h"
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "http/json.h"

#define BUCKETS 4096 // a power of two

// An entry of the index of names. A claim is one for a change that is under way: it keeps others
// away, and finds nothing.
struct row_name {
	struct row_name *next;
	struct row *row;
	bool claim;
	char text[64];
};

struct rows {
	struct db *db;
	pthread_rwlock_t lock;
	pthread_mutex_t looks; // what a user may change, of all rows; the innermost lock
	char place[ROW_URL_SIZE - 100];
	struct row_name *names[BUCKETS];
	unsigned char token_key[64];
	size_t token_key_len;
	struct row *bucket[BUCKETS];
	struct row *newest, *oldest;
	size_t count;
};

static const char *const state_names[] = {"creating", "running", "paused", "stopped"};

const char *row_state_name(enum row_state s)
{
	return state_names[s];
}

static uint32_t bucket(const char *text)
{
	uint32_t h = 2166136261u; // FNV-1a
	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 16777619u;
	return h & (BUCKETS - 1);
}

static struct row **bucket_of(struct rows *r, const char *id)
{
	return &r->bucket[bucket(id)];
}

struct row *row_unref(struct row *row)
{
	if (row && atomic_fetch_sub(&row->refs, 1) == 1) {
		json_decref(row->metadata);
		free(row->named); // of one that was never in the table
		free(row->ended);
		free(row);
	}
	return NULL;
}

static struct row *row_ref(struct row *row)
{
	atomic_fetch_add(&row->refs, 1);
	return row;
}

// --- names, under the table's lock

static struct row_name *new_name(struct row *row, const char *text, bool claim)
{
	struct row_name *n = calloc(1, sizeof *n);
	if (!n)
		return NULL;
	n->row = row;
	n->claim = claim;
	snprintf(n->text, sizeof n->text, "%s", text);
	return n;
}

static struct row_name *link_name(struct rows *r, struct row_name *n)
{
	struct row_name **b = &r->names[bucket(n->text)];
	n->next = *b;
	return *b = n;
}

// Takes NULL; returns NULL.
static struct row_name *drop_name(struct rows *r, struct row_name *n)
{
	if (!n)
		return NULL;
	struct row_name **b = &r->names[bucket(n->text)];
	while (*b != n)
		b = &(*b)->next;
	*b = n->next;
	free(n);
	return NULL;
}

// Another row than this one that has not ended has the name, or will.
static int check_name(struct rows *r, const struct row *row, const char *name, struct err *e)
{
	for (const struct row_name *n = r->names[bucket(name)]; n; n = n->next)
		if (n->row != row && !n->row->ended_ns && str_eq(n->text, name) &&
			str_eq(n->row->api_key, row->api_key))
			return err_set(e, ERR_CONFLICT, "the name '%s' is taken by sandbox %s",
				name, n->row->id);
	return 0;
}

static void link_row(struct rows *r, struct row *row)
{
	struct row **b = bucket_of(r, row->id);
	row->next = *b;
	*b = row;
	row->older = r->newest;
	if (r->newest)
		r->newest->newer = row;
	else
		r->oldest = row;
	r->newest = row;
	row->linked = true;
	if (row->named)
		link_name(r, row->named);
	r->count++;
}

// Gives back the table's reference.
static void unlink_row(struct rows *r, struct row *row)
{
	struct row **b = bucket_of(r, row->id);
	while (*b != row)
		b = &(*b)->next;
	*b = row->next;
	*(row->newer ? &row->newer->older : &r->newest) = row->older;
	*(row->older ? &row->older->newer : &r->oldest) = row->newer;
	row->linked = false;
	row->named = drop_name(r, row->named);
	row->claim = drop_name(r, row->claim);
	r->count--;
	row_unref(row);
}

// --- the last report as JSON: only what is shown of a stopped sandbox

static char *ended_dump(const struct host_sandbox *s)
{
	_cleanup_json_ json_t *j = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s}",
		"state", sandbox_state_name(s->state), "vcpus", (json_int_t)s->vcpus, "memory_mb",
		(json_int_t)s->memory_mb, "disk_mb", (json_int_t)s->disk_mb, "started_ns",
		(json_int_t)s->started_ns, "stopped_ns", (json_int_t)s->stopped_ns, "ends_at_ns",
		(json_int_t)s->ends_at_ns, "generation", (json_int_t)s->generation, "cause",
		s->cause, "detail", s->detail);
	return json_compact(j);
}

static int ended_parse(const char *text, struct host_sandbox *ret)
{
	_cleanup_json_ json_t *j = NULL;
	const char *state = "", *cause = "", *detail = "";
	uint64_t vcpus = 0, memory = 0;
	const struct json_field fields[] = {
		{.name = "state", .type = JF_STRING, .out = &state},
		{.name = "vcpus", .type = JF_U64, .out = &vcpus, .max = UINT32_MAX},
		{.name = "memory_mb", .type = JF_U64, .out = &memory, .max = UINT32_MAX},
		{.name = "disk_mb", .type = JF_U64, .out = &ret->disk_mb},
		{.name = "started_ns", .type = JF_U64, .out = &ret->started_ns},
		{.name = "stopped_ns", .type = JF_U64, .out = &ret->stopped_ns},
		{.name = "ends_at_ns", .type = JF_U64, .out = &ret->ends_at_ns},
		{.name = "generation", .type = JF_U64, .out = &ret->generation},
		{.name = "cause", .type = JF_STRING, .out = &cause},
		{.name = "detail", .type = JF_STRING, .out = &detail},
	};
	int r = json_parse_object(text, strlen(text), &j, NULL);
	if (r == 0)
		r = json_read_fields(j, fields, ARRAY_SIZE(fields), true, NULL);
	if (r < 0)
		return r;
	ret->state = sandbox_state_parse(state);
	if (ret->state == SANDBOX_STATE_MAX)
		ret->state = SANDBOX_STOPPED;
	ret->vcpus = (unsigned)vcpus;
	ret->memory_mb = (unsigned)memory;
	snprintf(ret->cause, sizeof ret->cause, "%s", cause);
	snprintf(ret->detail, sizeof ret->detail, "%s", detail);
	return 0;
}

// --- table

static struct row *row_new(
	struct rows *r, const char *id, const char *template, const char *api_key, const char *name)
{
	struct row *row = calloc(1, sizeof *row);
	if (!row)
		return NULL;
	row->refs = 1;
	row->table = r;
	snprintf(row->api_key, sizeof row->api_key, "%s", api_key ? api_key : "");
	snprintf(row->name, sizeof row->name, "%s", name ? name : "");
	if (row->name[0] && !(row->named = new_name(row, row->name, false))) {
		free(row);
		return NULL;
	}
	snprintf(row->id, sizeof row->id, "%s", id);
	snprintf(row->template, sizeof row->template, "%s", template);
	rows_token(r, id, row->token);
	return row;
}

void rows_token(struct rows *r, const char *id, char out[SHA256_HEX_SIZE])
{
	hash_hmac_sha256_hex(r->token_key, r->token_key_len, id, strlen(id), out);
}

static int load_row(void *ctx, sqlite3_stmt *st)
{
	struct rows *r = ctx;
	_cleanup_(row_unrefp) struct row *row =
		row_new(r, db_text(st, 0), db_text(st, 1), db_text(st, 10), db_text(st, 11));
	if (!row)
		return -ENOMEM;
	const char *metadata = db_text(st, 2);
	if (json_parse_object(metadata, strlen(metadata), &row->metadata, NULL) < 0)
		return -EBADMSG;
	row->on_timeout = str_eq(db_text(st, 3), "pause") ? ON_TIMEOUT_PAUSE : ON_TIMEOUT_KILL;
	row->timeout_sec = (uint64_t)sqlite3_column_int64(st, 4);
	row->created_ns = (uint64_t)sqlite3_column_int64(st, 5);
	row->generation = (uint64_t)sqlite3_column_int64(st, 9);
	for (size_t i = 0; i < ARRAY_SIZE(state_names); i++)
		if (str_eq(db_text(st, 8), state_names[i]))
			row->now = (enum row_state)i;
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
	link_row(r, TAKE_PTR(row));
	return 0;
}

int rows_load(
	struct db *db, const void *token_key, size_t key_len, struct rows **ret, struct err *e)
{
	_cleanup_(rows_freep) struct rows *r = calloc(1, sizeof *r);
	if (!r)
		return err_errno(e, ENOMEM, "sandboxes");
	if (key_len > sizeof r->token_key)
		return err_set(e, ERR_INTERNAL, "the token key is too long");
	pthread_rwlock_init(&r->lock, NULL);
	pthread_mutex_init(&r->looks, NULL);
	r->db = db;
	memcpy(r->token_key, token_key, key_len);
	r->token_key_len = key_len;
	int rc = DB_LOCKED(db, db_query(db, e, load_row, r,
				       "SELECT id, template, metadata, on_timeout, timeout_sec, "
				       "created_ns, ended_ns, "
				       "ended, state, generation, api_key, name FROM sandboxes "
				       "ORDER BY created_ns",
				       ""));
	if (rc < 0)
		return err_prefix(e, rc, "sandboxes in control.db");
	*ret = TAKE_PTR(r);
	return 0;
}

struct rows *rows_free(struct rows *r)
{
	if (!r)
		return NULL;
	while (r->newest)
		unlink_row(r, r->newest);
	pthread_rwlock_destroy(&r->lock);
	pthread_mutex_destroy(&r->looks);
	explicit_bzero(r->token_key, sizeof r->token_key);
	free(r);
	return NULL;
}

static const char *on_timeout_text(enum on_timeout t)
{
	return t == ON_TIMEOUT_PAUSE ? "pause" : "kill";
}

static int insert_row(struct rows *r, const struct row *row, const struct row_new *n, struct err *e)
{
	_cleanup_free_ char *metadata = json_compact(n->metadata);
	_cleanup_free_ char *env = json_compact(n->env);
	if (!metadata || !env)
		return err_errno(e, ENOMEM, "sandbox");
	return db_exec(r->db, e,
		"INSERT INTO sandboxes (id, host, template, metadata, env, on_timeout, "
		"timeout_sec, created_ns, state, generation, api_key, name) "
		"VALUES (?, 'local', ?, ?, ?, ?, ?, ?, 'creating', 0, ?, ?)",
		"sssssiiss", row->id, row->template, metadata, env, on_timeout_text(n->on_timeout),
		(int64_t)n->timeout_sec, (int64_t)row->created_ns, row->api_key,
		row->name[0] ? row->name : NULL);
}

static struct row *prepare_row(struct rows *r, const struct row_new *n)
{
	_cleanup_(row_unrefp) struct row *row = row_new(r, n->id, n->template, n->api_key, n->name);
	if (!row || !(row->metadata = json_deep_copy(n->metadata)))
		return NULL;
	row->on_timeout = n->on_timeout;
	row->timeout_sec = n->timeout_sec;
	return TAKE_PTR(row);
}

// Ends the transaction begun with the database locked, and unlocks it.
static int finish(struct rows *r, int rc, const struct db_also *also, struct err *e)
{
	if (rc == 0)
		rc = db_run_also(r->db, also, e);
	if (rc == 0)
		rc = db_commit(r->db, e);
	else
		db_rollback(r->db);
	db_unlock(r->db);
	return rc;
}

static int begin(struct rows *r, struct err *e)
{
	db_lock(r->db);
	return db_begin(r->db, e);
}

int rows_add(struct rows *r, const struct row_new *n, size_t count, uint64_t now_ns,
	const struct db_also *also, struct row **ret, struct err *e)
{
	int rc = 0;
	size_t made = 0;
	for (; made < count; made++)
		if (!(ret[made] = prepare_row(r, &n[made]))) {
			rc = err_errno(e, ENOMEM, "sandbox");
			break;
		}
	// Creation times order the list and are its cursors, so they are unique; the lock is held
	// over the write to keep memory and database in the same order.
	pthread_rwlock_wrlock(&r->lock);
	for (size_t i = 0; i < made && rc == 0; i++)
		if (ret[i]->name[0])
			rc = check_name(r, ret[i], ret[i]->name, e);
	uint64_t now = now_ns;
	if (r->newest && now <= r->newest->created_ns)
		now = r->newest->created_ns + 1;
	db_lock(r->db);
	if (rc == 0)
		rc = db_begin(r->db, e);
	for (size_t i = 0; i < made && rc == 0; i++) {
		ret[i]->created_ns = now + i;
		rc = insert_row(r, ret[i], &n[i], e);
	}
	rc = finish(r, rc, also, e);
	for (size_t i = 0; i < made && rc == 0; i++)
		link_row(r, row_ref(ret[i]));
	pthread_rwlock_unlock(&r->lock);
	for (size_t i = 0; i < made && rc < 0; i++)
		ret[i] = row_unref(ret[i]);
	return rc;
}

int rows_live(struct rows *r, struct row *row, enum row_state now, uint64_t generation,
	bool backwards, const struct db_also *also, struct err *e)
{
	pthread_rwlock_wrlock(&r->lock);
	bool ended = row->ended_ns != 0 || (generation < row->generation && !backwards);
	int rc = begin(r, e);
	if (rc == 0 && !ended)
		rc = db_exec(r->db, e,
			"UPDATE sandboxes SET state = ?, generation = ? WHERE id = ?", "sis",
			state_names[now], (int64_t)generation, row->id);
	rc = finish(r, rc, also, e);
	if (rc == 0 && !ended) {
		if (now == ROW_RUNNING && row->now != ROW_RUNNING)
			row->ready_ns = clock_monotonic_ns();
		row->now = now;
		row->generation = generation;
		row->version++;
	}
	pthread_rwlock_unlock(&r->lock);
	return rc;
}

int rows_remove(struct rows *r, struct row *row, const struct db_also *also, struct err *e)
{
	pthread_rwlock_wrlock(&r->lock);
	int rc = begin(r, e);
	if (rc == 0)
		rc = db_exec(r->db, e, "DELETE FROM sandboxes WHERE id = ?", "s", row->id);
	rc = finish(r, rc, also, e);
	if (rc == 0 && row->linked)
		unlink_row(r, row);
	pthread_rwlock_unlock(&r->lock);
	return rc;
}

struct row *rows_get(struct rows *r, const char *id)
{
	pthread_rwlock_rdlock(&r->lock);
	struct row *row = *bucket_of(r, id);
	while (row && strcmp(row->id, id) != 0)
		row = row->next;
	if (row)
		row_ref(row);
	pthread_rwlock_unlock(&r->lock);
	return row;
}

struct row *rows_named(struct rows *r, const char *api_key, const char *name)
{
	struct row *found = NULL;
	pthread_rwlock_rdlock(&r->lock);
	for (const struct row_name *n = r->names[bucket(name)]; n; n = n->next) {
		if (n->claim || !str_eq(n->text, name) || !str_eq(n->row->api_key, api_key))
			continue;
		bool better = !found || (found->ended_ns && !n->row->ended_ns) ||
			      (!found->ended_ns == !n->row->ended_ns &&
				      n->row->created_ns > found->created_ns);
		if (better)
			found = n->row;
	}
	if (found)
		row_ref(found);
	pthread_rwlock_unlock(&r->lock);
	return found;
}

size_t rows_older(struct rows *r, uint64_t created_ns, struct row **ret, size_t max)
{
	size_t n = 0;
	pthread_rwlock_rdlock(&r->lock);
	struct row *row = r->newest;
	while (row && row->created_ns >= created_ns)
		row = row->older;
	for (; row && n < max; row = row->older)
		ret[n++] = row_ref(row);
	pthread_rwlock_unlock(&r->lock);
	return n;
}

int rows_end(struct rows *r, struct row *row, const struct host_sandbox *last,
	const struct db_also *also, struct err *e)
{
	_cleanup_free_ struct host_sandbox *copy = malloc(sizeof *copy);
	_cleanup_free_ char *text = ended_dump(last);
	if (!copy || !text)
		return err_errno(e, ENOMEM, "sandbox %s", row->id);
	*copy = *last;
	copy->disk_bytes = 0; // gone with it
	copy->n_phases = 0;
	uint64_t at = last->stopped_ns ? last->stopped_ns : clock_realtime_ns();
	copy->stopped_ns = at;
	snprintf(copy->id, sizeof copy->id, "%s", row->id);
	pthread_rwlock_wrlock(&r->lock);
	bool first = !row->ended_ns;
	int rc = begin(r, e);
	if (rc == 0 && first)
		rc = db_exec(r->db, e,
			"UPDATE sandboxes SET state = 'stopped', ended_ns = ?, ended = ? WHERE id "
			"= ?",
			"iss", (int64_t)at, text, row->id);
	rc = finish(r, rc, also, e);
	if (rc == 0 && first) {
		row->ended = TAKE_PTR(copy);
		row->now = ROW_STOPPED;
		row->version++;
		row->ended_ns = at;
	}
	pthread_rwlock_unlock(&r->lock);
	return rc;
}

// --- what a user may change

json_t *rows_merge(json_t *map, json_t *patch)
{
	json_t *out = map && !json_is_null(patch) ? json_copy(map) : json_object();
	const char *key;
	json_t *value;
	int bad = 0;
	json_object_foreach (patch, key, value) {
		if (json_is_null(value))
			json_object_del(out, key);
		else
			bad |= json_object_set(out, key, value);
	}
	if (bad) {
		json_decref(out);
		return NULL;
	}
	return out;
}

// What can be seen of a row besides its state.
struct looks {
	json_t *metadata;
	char name[64];
	enum on_timeout on_timeout;
};

static void swap_looks(struct rows *r, struct row *row, struct looks *l)
{
	struct looks old = {.metadata = row->metadata, .on_timeout = row->on_timeout};
	pthread_mutex_lock(&r->looks);
	memcpy(old.name, row->name, sizeof old.name);
	row->metadata = l->metadata;
	memcpy(row->name, l->name, sizeof row->name);
	row->on_timeout = l->on_timeout;
	pthread_mutex_unlock(&r->looks);
	*l = old;
}

static int changed_looks(
	const struct row *row, const struct row_change *c, struct looks *ret, struct err *e)
{
	ret->on_timeout = c->has_on_timeout ? c->on_timeout : row->on_timeout;
	snprintf(ret->name, sizeof ret->name, "%s",
		!c->has_name ? row->name
		: c->name    ? c->name
			     : "");
	ret->metadata = c->has_metadata ? rows_merge(row->metadata, c->metadata)
					: json_incref(row->metadata);
	_cleanup_free_ char *text = json_compact(ret->metadata);
	if (!text)
		return err_errno(e, ENOMEM, "sandbox %s", row->id);
	if (c->has_metadata && strlen(text) > ROW_MAX_METADATA)
		return err_set(
			e, ERR_INVALID, "metadata: larger than %u bytes as JSON", ROW_MAX_METADATA);
	return 0;
}

int rows_claim(struct rows *r, struct row *row, const struct row_change *c,
	const struct db_also *also, struct err *e)
{
	struct looks looks = {0};
	struct row_name *claim = c->name ? new_name(row, c->name, true) : NULL;
	if (c->name && !claim)
		return err_errno(e, ENOMEM, "sandbox %s", row->id);
	pthread_rwlock_wrlock(&r->lock);
	int rc = 0;
	if (row->changing)
		rc = err_set(e, ERR_CONFLICT, "sandbox '%s' is being changed: ask again", row->id);
	else if (c->name && !row->api_key[0])
		rc = err_set(e, ERR_INVALID,
			"name: sandbox '%s' is from before there were names, of no key: it has its "
			"id alone",
			row->id);
	else if (c->name)
		rc = check_name(r, row, c->name, e);
	if (rc == 0)
		rc = changed_looks(row, c, &looks, e);
	if (rc == 0)
		rc = finish(r, begin(r, e), also, e);
	if (rc == 0)
		row->changing = true;
	if (rc == 0 && claim && row->linked)
		row->claim = link_name(r, TAKE_PTR(claim));
	pthread_rwlock_unlock(&r->lock);
	free(claim);
	json_decref(looks.metadata);
	return rc;
}

void rows_unclaim(struct rows *r, struct row *row)
{
	pthread_rwlock_wrlock(&r->lock);
	row->claim = drop_name(r, row->claim);
	row->changing = false;
	pthread_rwlock_unlock(&r->lock);
}

static int write_looks(struct rows *r, const struct row *row, struct err *e)
{
	_cleanup_free_ char *metadata = json_compact(row->metadata);
	if (!metadata)
		return err_errno(e, ENOMEM, "sandbox %s", row->id);
	return db_exec(r->db, e,
		"UPDATE sandboxes SET name = ?, metadata = ?, on_timeout = ? WHERE id = ?", "ssss",
		row->name[0] ? row->name : NULL, metadata, on_timeout_text(row->on_timeout),
		row->id);
}

int rows_change(struct rows *r, struct row *row, const struct row_change *c,
	const struct db_also *also, struct err *e)
{
	struct looks looks = {0};
	struct row_name *name = NULL;
	pthread_rwlock_wrlock(&r->lock);
	int rc = changed_looks(row, c, &looks, e);
	if (rc == 0 && looks.name[0] && !(name = new_name(row, looks.name, false)))
		rc = err_errno(e, ENOMEM, "sandbox %s", row->id);
	if (rc == 0) {
		swap_looks(r, row, &looks);
		rc = begin(r, e);
		if (rc == 0)
			rc = write_looks(r, row, e);
		rc = finish(r, rc, also, e);
		if (rc < 0)
			swap_looks(r, row, &looks);
	}
	if (rc == 0 && row->linked) {
		row->named = drop_name(r, row->named);
		if (name)
			row->named = link_name(r, TAKE_PTR(name));
	}
	pthread_rwlock_unlock(&r->lock);
	free(name);
	json_decref(looks.metadata);
	return rc;
}

json_t *row_metadata(const struct row *row)
{
	pthread_mutex_lock(&row->table->looks);
	json_t *map = json_incref(row->metadata);
	pthread_mutex_unlock(&row->table->looks);
	return map;
}

void row_get_name(const struct row *row, char out[64])
{
	pthread_mutex_lock(&row->table->looks);
	memcpy(out, row->name, sizeof row->name);
	pthread_mutex_unlock(&row->table->looks);
}

void rows_set_place(struct rows *r, const char *place)
{
	snprintf(r->place, sizeof r->place, "%s", place);
}

void row_url(const struct row *row, char out[ROW_URL_SIZE])
{
	out[0] = '\0';
	if (row->table->place[0])
		snprintf(out, ROW_URL_SIZE, "http://{port}-%s%s", row->id, row->table->place);
}

static int take_text(void *ctx, sqlite3_stmt *st)
{
	return (*(char **)ctx = strdup(db_text(st, 0))) ? 1 : -ENOMEM;
}

int rows_env(struct rows *r, const char *id, json_t **ret, struct err *e)
{
	_cleanup_free_ char *text = NULL;
	int rc = DB_LOCKED(r->db, db_query(r->db, e, take_text, &text,
					  "SELECT env FROM sandboxes WHERE id = ?", "s", id));
	if (rc < 0)
		return rc;
	if (!text)
		return err_set(e, ERR_NOT_FOUND, "no sandbox '%.64s'", id);
	return json_parse_object(text, strlen(text), ret, e);
}

int rows_expire(struct rows *r, uint64_t ended_before_ns, struct err *e)
{
	pthread_rwlock_wrlock(&r->lock);
	int rc = 0;
	for (struct row *row = r->oldest, *newer; row && rc == 0; row = newer) {
		newer = row->newer;
		if (!row->ended_ns || row->ended_ns >= ended_before_ns)
			continue;
		rc = DB_LOCKED(r->db,
			db_exec(r->db, e, "DELETE FROM sandboxes WHERE id = ?", "s", row->id));
		if (rc == 0)
			unlink_row(r, row);
	}
	pthread_rwlock_unlock(&r->lock);
	return rc;
}

size_t rows_count(struct rows *r)
{
	pthread_rwlock_rdlock(&r->lock);
	size_t n = r->count;
	pthread_rwlock_unlock(&r->lock);
	return n;
}
