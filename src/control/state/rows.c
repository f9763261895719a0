// SPDX-License-Identifier: Apache-2.0
#include "control/state/rows.h"
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "control/state/ended.h"
#include "control/state/names.h"
#include "control/state/row_store.h"
#include "base/json.h"

#define BUCKETS NAMES_BUCKETS

struct rows {
	struct db *db;
	pthread_rwlock_t lock;
	pthread_mutex_t looks; // what a user may change, of all rows; the innermost lock
	char place[ROW_URL_SIZE - 100];
	const char *scheme; // of place
	struct names names;
	unsigned char token_key[64];
	size_t token_key_len;
	struct sandbox_row *bucket[BUCKETS];
	struct sandbox_row *newest, *oldest;
	size_t count;
};

static struct sandbox_row **bucket_of(struct rows *r, const char *id)
{
	return &r->bucket[names_bucket(id)];
}

static struct sandbox_row *row_ref(struct sandbox_row *row)
{
	atomic_fetch_add(&row->refs, 1);
	return row;
}

static void link_row(struct rows *r, struct sandbox_row *row)
{
	struct sandbox_row **b = bucket_of(r, row->id);
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
		names_link(&r->names, row->named);
	r->count++;
}

// Gives back the table's reference.
static void unlink_row(struct rows *r, struct sandbox_row *row)
{
	struct sandbox_row **b = bucket_of(r, row->id);
	while (*b != row)
		b = &(*b)->next;
	*b = row->next;
	*(row->newer ? &row->newer->older : &r->newest) = row->older;
	*(row->older ? &row->older->newer : &r->oldest) = row->newer;
	row->linked = false;
	row->named = names_drop(&r->names, row->named);
	row->claim = names_drop(&r->names, row->claim);
	r->count--;
	row_unref(row);
}

// --- table

static void make_token(struct rows *r, const char *id, uint64_t epoch, char out[SHA256_HEX_SIZE])
{
	char text[100];
	snprintf(text, sizeof text, epoch ? "%s %" PRIu64 : "%s", id, epoch);
	hash_hmac_sha256_hex(r->token_key, r->token_key_len, text, strlen(text), out);
}

static struct sandbox_row *row_new(
	struct rows *r, const char *id, const char *template, const char *api_key, const char *name)
{
	struct sandbox_row *row = calloc(1, sizeof *row);
	if (!row)
		return NULL;
	row->refs = 1;
	row->table = r;
	snprintf(row->api_key, sizeof row->api_key, "%s", api_key ? api_key : "");
	snprintf(row->name, sizeof row->name, "%s", name ? name : "");
	if (row->name[0] && !(row->named = name_new(row, row->name, false))) {
		free(row);
		return NULL;
	}
	snprintf(row->id, sizeof row->id, "%s", id);
	snprintf(row->template, sizeof row->template, "%s", template);
	make_token(r, id, 0, row->token);
	return row;
}

void rows_token(struct rows *r, const char *id, char out[SHA256_HEX_SIZE])
{
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(r, id);
	if (row)
		row_get_token(row, out);
	else
		make_token(r, id, 0, out);
}

void rows_mac(struct rows *r, const char *label, const char *text, char out[SHA256_HEX_SIZE])
{
	char all[256];
	int n = snprintf(all, sizeof all, "%s %s", label, text);
	if (n < 0 || (size_t)n >= sizeof all)
		abort(); // labels and texts are this program's, and bounded
	hash_hmac_sha256_hex(r->token_key, r->token_key_len, all, (size_t)n, out);
}

static int take_row(void *ctx, sqlite3_stmt *st)
{
	struct rows *r = ctx;
	const struct row_key k = row_store_key(st);
	_cleanup_(row_unrefp) struct sandbox_row *row =
		row_new(r, k.id, k.template, k.api_key, k.name);
	int rc = row ? row_store_read(st, row) : -ENOMEM;
	if (rc == 0)
		make_token(r, row->id, row->token_epoch, row->token);
	if (rc == 0)
		link_row(r, TAKE_PTR(row));
	return rc;
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
	int rc = DB_LOCKED(db, row_store_load(db, take_row, r, e));
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

static struct sandbox_row *prepare_row(struct rows *r, const struct row_new *n)
{
	_cleanup_(row_unrefp) struct sandbox_row *row =
		row_new(r, n->id, n->template, n->api_key, n->name);
	if (!row || !(row->metadata = json_deep_copy(n->metadata)))
		return NULL;
	row->on_timeout = n->on_timeout;
	row->timeout_sec = n->timeout_sec;
	row->size = n->size;
	snprintf(row->owner, sizeof row->owner, "%s", n->owner ? n->owner : "");
	row->is_private = n->is_private;
	return TAKE_PTR(row);
}

// --- quotas

static bool pays(const struct key_info *key, const struct sandbox_row *row)
{
	return key->owner[0] ? str_eq(key->owner, row->owner) : str_eq(key->id, row->api_key);
}

// What its owner has now, counted from the rows: with the lock held.
static struct rows_usage add_up(struct rows *r, const struct key_info *key)
{
	struct rows_usage u = {0};
	for (const struct sandbox_row *row = r->newest; row; row = row->older) {
		if (row->ended_ns || !pays(key, row))
			continue;
		u.sandboxes++;
		u.disk_mb += row->size.disk_mb;
		if (row->now == ROW_PAUSED && !row->resuming)
			continue;
		u.vcpus += row->size.vcpus;
		u.memory_mb += row->size.memory_mb;
	}
	return u;
}

static int over(const char *what, uint64_t has, uint64_t more, uint64_t limit, struct err *e)
{
	if (!limit || has + more <= limit)
		return 0;
	return err_set(e, ERR_LIMIT,
		"quota: this key may have %" PRIu64 " %s, %" PRIu64 " are in use and this needs "
		"%" PRIu64 ": remove or pause sandboxes, or ask the server's operator for more",
		limit, what, has, more);
}

static int check_quota(
	struct rows *r, const struct key_info *key, const struct rows_usage *more, struct err *e)
{
	const struct key_quota *q = key ? &key->quota : NULL;
	if (!q || !(q->sandboxes || q->vcpus || q->memory_mb || q->disk_mb))
		return 0;
	const struct rows_usage u = add_up(r, key);
	int rc = over("sandboxes", u.sandboxes, more->sandboxes, q->sandboxes, e);
	if (rc == 0)
		rc = over("vcpus", u.vcpus, more->vcpus, q->vcpus, e);
	if (rc == 0)
		rc = over("MiB of memory", u.memory_mb, more->memory_mb, q->memory_mb, e);
	return rc == 0 ? over("MiB of disk", u.disk_mb, more->disk_mb, q->disk_mb, e) : rc;
}

static int check_new(struct rows *r, const struct row_new *n, size_t count, struct err *e)
{
	struct rows_usage more = {.sandboxes = count};
	for (size_t i = 0; i < count; i++) {
		more.vcpus += n[i].size.vcpus;
		more.memory_mb += n[i].size.memory_mb;
		more.disk_mb += n[i].size.disk_mb;
	}
	return check_quota(r, n[0].payer, &more, e);
}

int rows_begin_resume(
	struct rows *r, struct sandbox_row *row, const struct key_info *payer, struct err *e)
{
	pthread_rwlock_wrlock(&r->lock);
	const struct rows_usage more = {.vcpus = row->size.vcpus, .memory_mb = row->size.memory_mb};
	bool counts = row->now != ROW_PAUSED || row->resuming;
	int rc = counts ? 0 : check_quota(r, payer, &more, e);
	row->resuming |= rc == 0;
	pthread_rwlock_unlock(&r->lock);
	return rc;
}

void rows_end_resume(struct rows *r, struct sandbox_row *row)
{
	pthread_rwlock_wrlock(&r->lock);
	row->resuming = false;
	pthread_rwlock_unlock(&r->lock);
}

struct rows_usage rows_usage(struct rows *r, const struct key_info *key)
{
	pthread_rwlock_rdlock(&r->lock);
	struct rows_usage u = add_up(r, key);
	pthread_rwlock_unlock(&r->lock);
	return u;
}

struct row_size row_get_size(const struct sandbox_row *row)
{
	struct rows *r = row->table;
	pthread_rwlock_rdlock(&r->lock);
	struct row_size size = row->size;
	pthread_rwlock_unlock(&r->lock);
	return size;
}

void rows_learn_sizes(struct rows *r, const struct host_sandbox *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(r, list[i].id);
		if (!row || row_get_size(row).vcpus)
			continue;
		pthread_rwlock_wrlock(&r->lock);
		row->size = (struct row_size){list[i].vcpus, list[i].memory_mb, list[i].disk_mb};
		pthread_rwlock_unlock(&r->lock);
	}
}

// --- tokens

void row_get_token(const struct sandbox_row *row, char out[SHA256_HEX_SIZE])
{
	pthread_mutex_lock(&row->table->looks);
	memcpy(out, row->token, SHA256_HEX_SIZE);
	pthread_mutex_unlock(&row->table->looks);
}

static int write_token(
	struct rows *r, struct sandbox_row *row, uint64_t epoch, uint64_t told, struct err *e)
{
	return DB_LOCKED(r->db, row_store_token(r->db, row->id, epoch, told, e));
}

int rows_rotate(struct rows *r, struct sandbox_row *row, struct err *e)
{
	char token[SHA256_HEX_SIZE];
	pthread_rwlock_wrlock(&r->lock);
	uint64_t epoch = row->token_epoch + 1;
	int rc = write_token(r, row, epoch, row->token_told, e);
	if (rc == 0) {
		make_token(r, row->id, epoch, token);
		pthread_mutex_lock(&r->looks);
		memcpy(row->token, token, sizeof token);
		row->token_epoch = epoch;
		pthread_mutex_unlock(&r->looks);
	}
	pthread_rwlock_unlock(&r->lock);
	return rc;
}

int rows_token_told(struct rows *r, struct sandbox_row *row, uint64_t epoch, struct err *e)
{
	pthread_rwlock_wrlock(&r->lock);
	int rc = 0;
	if (epoch > row->token_told) {
		rc = write_token(r, row, row->token_epoch, epoch, e);
		if (rc == 0)
			row->token_told = epoch;
	}
	pthread_rwlock_unlock(&r->lock);
	return rc;
}

// --- table again

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
	const struct db_also *also, struct sandbox_row **ret, struct err *e)
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
	if (rc == 0)
		rc = check_new(r, n, count, e);
	for (size_t i = 0; i < made && rc == 0; i++)
		if (ret[i]->name[0])
			rc = names_check(&r->names, ret[i], ret[i]->name, e);
	uint64_t now = now_ns;
	if (r->newest && now <= r->newest->created_ns)
		now = r->newest->created_ns + 1;
	db_lock(r->db);
	if (rc == 0)
		rc = db_begin(r->db, e);
	for (size_t i = 0; i < made && rc == 0; i++) {
		ret[i]->created_ns = now + i;
		rc = row_store_insert(r->db, ret[i], &n[i], e);
	}
	rc = finish(r, rc, also, e);
	for (size_t i = 0; i < made && rc == 0; i++)
		link_row(r, row_ref(ret[i]));
	pthread_rwlock_unlock(&r->lock);
	for (size_t i = 0; i < made && rc < 0; i++)
		ret[i] = row_unref(ret[i]);
	return rc;
}

int rows_live(struct rows *r, struct sandbox_row *row, enum row_state now, uint64_t generation,
	bool backwards, const struct db_also *also, struct err *e)
{
	pthread_rwlock_wrlock(&r->lock);
	bool ended = row->ended_ns != 0 || (generation < row->generation && !backwards);
	int rc = begin(r, e);
	if (rc == 0 && !ended)
		rc = row_store_live(r->db, row->id, now, generation, e);
	rc = finish(r, rc, also, e);
	if (rc == 0 && !ended) {
		if (now == ROW_RUNNING)
			row->resuming = false; // it counts as what it is
		if (now == ROW_RUNNING && row->now != ROW_RUNNING)
			row->ready_ns = clock_monotonic_ns();
		row->now = now;
		row->generation = generation;
		row->version++;
	}
	pthread_rwlock_unlock(&r->lock);
	return rc;
}

int rows_next_port_epoch(struct rows *r, struct sandbox_row *row, struct err *e)
{
	pthread_rwlock_wrlock(&r->lock);
	uint64_t next = row->port_epoch + 1;
	int rc = begin(r, e);
	if (rc == 0)
		rc = row_store_port_epoch(r->db, row->id, next, e);
	rc = finish(r, rc, NULL, e);
	if (rc == 0)
		row->port_epoch = next;
	pthread_rwlock_unlock(&r->lock);
	return rc;
}

static int remove_row(struct rows *r, struct sandbox_row *row, bool unless_ended,
	const struct db_also *also, struct err *e)
{
	pthread_rwlock_wrlock(&r->lock);
	bool stays = unless_ended && row->ended_ns;
	int rc = begin(r, e);
	if (rc == 0 && !stays)
		rc = row_store_delete(r->db, row->id, e);
	rc = finish(r, rc, also, e);
	if (rc == 0 && row->linked && !stays)
		unlink_row(r, row);
	pthread_rwlock_unlock(&r->lock);
	return rc;
}

int rows_remove(struct rows *r, struct sandbox_row *row, const struct db_also *also, struct err *e)
{
	return remove_row(r, row, false, also, e);
}

int rows_unmake(struct rows *r, struct sandbox_row *row, const struct db_also *also, struct err *e)
{
	return remove_row(r, row, true, also, e);
}

struct sandbox_row *rows_get(struct rows *r, const char *id)
{
	pthread_rwlock_rdlock(&r->lock);
	struct sandbox_row *row = *bucket_of(r, id);
	while (row && strcmp(row->id, id) != 0)
		row = row->next;
	if (row)
		row_ref(row);
	pthread_rwlock_unlock(&r->lock);
	return row;
}

struct sandbox_row *rows_named(struct rows *r, const char *api_key, const char *name)
{
	pthread_rwlock_rdlock(&r->lock);
	struct sandbox_row *found = names_find(&r->names, api_key, name);
	if (found)
		row_ref(found);
	pthread_rwlock_unlock(&r->lock);
	return found;
}

size_t rows_older(struct rows *r, uint64_t created_ns, struct sandbox_row **ret, size_t max)
{
	size_t n = 0;
	pthread_rwlock_rdlock(&r->lock);
	struct sandbox_row *row = r->newest;
	while (row && row->created_ns >= created_ns)
		row = row->older;
	for (; row && n < max; row = row->older)
		ret[n++] = row_ref(row);
	pthread_rwlock_unlock(&r->lock);
	return n;
}

int rows_end(struct rows *r, struct sandbox_row *row, const struct host_sandbox *last,
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
		rc = row_store_end(r->db, row->id, at, text, e);
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

static void swap_looks(struct rows *r, struct sandbox_row *row, struct looks *l)
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
	const struct sandbox_row *row, const struct row_change *c, struct looks *ret, struct err *e)
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

int rows_claim(struct rows *r, struct sandbox_row *row, const struct row_change *c,
	const struct db_also *also, struct err *e)
{
	struct looks looks = {0};
	struct name_entry *claim = c->name ? name_new(row, c->name, true) : NULL;
	if (c->name && !claim)
		return err_errno(e, ENOMEM, "sandbox %s", row->id);
	pthread_rwlock_wrlock(&r->lock);
	int rc = 0;
	if (row->changing)
		err_set(e, ERR_CONFLICT, "sandbox '%s' is being changed: ask again", row->id);
	if (row->changing)
		rc = -EAGAIN;
	else if (c->name && !row->api_key[0])
		rc = err_set(e, ERR_INVALID,
			"name: sandbox '%s' is from before there were names, of no key: it has its "
			"id alone",
			row->id);
	else if (c->name)
		rc = names_check(&r->names, row, c->name, e);
	if (rc == 0)
		rc = changed_looks(row, c, &looks, e);
	if (rc == 0)
		rc = finish(r, begin(r, e), also, e);
	if (rc == 0)
		row->changing = true;
	if (rc == 0 && claim && row->linked)
		row->claim = names_link(&r->names, TAKE_PTR(claim));
	pthread_rwlock_unlock(&r->lock);
	free(claim);
	json_decref(looks.metadata);
	return rc;
}

void rows_unclaim(struct rows *r, struct sandbox_row *row)
{
	pthread_rwlock_wrlock(&r->lock);
	row->claim = names_drop(&r->names, row->claim);
	row->changing = false;
	pthread_rwlock_unlock(&r->lock);
}

int rows_change(struct rows *r, struct sandbox_row *row, const struct row_change *c,
	const struct db_also *also, struct err *e)
{
	struct looks looks = {0};
	struct name_entry *name = NULL;
	pthread_rwlock_wrlock(&r->lock);
	int rc = changed_looks(row, c, &looks, e);
	if (rc == 0 && looks.name[0] && !(name = name_new(row, looks.name, false)))
		rc = err_errno(e, ENOMEM, "sandbox %s", row->id);
	if (rc == 0) {
		swap_looks(r, row, &looks);
		rc = begin(r, e);
		if (rc == 0)
			rc = row_store_looks(r->db, row, e);
		rc = finish(r, rc, also, e);
		if (rc < 0)
			swap_looks(r, row, &looks);
	}
	if (rc == 0 && row->linked) {
		row->named = names_drop(&r->names, row->named);
		if (name)
			row->named = names_link(&r->names, TAKE_PTR(name));
	}
	pthread_rwlock_unlock(&r->lock);
	free(name);
	json_decref(looks.metadata);
	return rc;
}

json_t *row_metadata(const struct sandbox_row *row)
{
	pthread_mutex_lock(&row->table->looks);
	json_t *map = json_incref(row->metadata);
	pthread_mutex_unlock(&row->table->looks);
	return map;
}

void row_get_name(const struct sandbox_row *row, char out[64])
{
	pthread_mutex_lock(&row->table->looks);
	memcpy(out, row->name, sizeof row->name);
	pthread_mutex_unlock(&row->table->looks);
}

void rows_set_place(struct rows *r, const char *scheme, const char *place)
{
	r->scheme = scheme;
	snprintf(r->place, sizeof r->place, "%s", place);
}

void row_url(const struct sandbox_row *row, char out[ROW_URL_SIZE])
{
	out[0] = '\0';
	if (row->table->place[0])
		snprintf(out, ROW_URL_SIZE, "%s://{port}-%s%s", row->table->scheme, row->id,
			row->table->place);
}

int rows_env(struct rows *r, const char *id, json_t **ret, struct err *e)
{
	_cleanup_free_ char *text = NULL;
	int rc = DB_LOCKED(r->db, row_store_env(r->db, id, &text, e));
	return rc < 0 ? rc : json_parse_object(text, strlen(text), ret, e);
}

// What has ended does not change any more, so that memory can follow the database later.
int rows_expire(struct rows *r, uint64_t ended_before_ns, struct err *e)
{
	int rc = DB_LOCKED(r->db, row_store_expire(r->db, ended_before_ns, e));
	if (rc < 0)
		return rc;
	pthread_rwlock_wrlock(&r->lock);
	for (struct sandbox_row *row = r->oldest, *newer; row; row = newer) {
		newer = row->newer;
		if (row->ended_ns && row->ended_ns < ended_before_ns)
			unlink_row(r, row);
	}
	pthread_rwlock_unlock(&r->lock);
	return 0;
}

int rows_expire_owners(struct rows *r, struct err *e)
{
	return DB_LOCKED(r->db, row_store_expire_owners(r->db, e));
}

int rows_owner(struct rows *r, const char *id, char ret[KEY_OWNER_SIZE], struct err *e)
{
	_cleanup_(row_unrefp) struct sandbox_row *row = rows_get(r, id);
	if (!row)
		return DB_LOCKED(r->db, row_store_owner(r->db, id, ret, e));
	memcpy(ret, row->owner, KEY_OWNER_SIZE);
	return 0;
}

size_t rows_count(struct rows *r)
{
	pthread_rwlock_rdlock(&r->lock);
	size_t n = r->count;
	pthread_rwlock_unlock(&r->lock);
	return n;
}
