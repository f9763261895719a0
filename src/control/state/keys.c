// SPDX-License-Identifier: Apache-2.0
// How this works. Keys are in memory, by their hashes, and written through. Another program may add
// some to the database (key create --offline, as root): a key that is not known has the database
// looked at again, at most once a second, whoever asks.
#include "control/state/keys.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include "base/clock.h"
#include "base/hash.h"
#include "base/str.h"

#define BUCKETS 1024 // a power of two
#define REFRESH_NS NSEC_PER_SEC
#define MINUTE_NS (60 * NSEC_PER_SEC)

static const char *const scopes[KEY_SCOPE_MAX] = {"admin", "sandboxes", "read"};

const char *key_scope_name(enum key_scope s)
{
	return scopes[s];
}

enum key_scope key_scope_parse(const char *name)
{
	enum key_scope s = KEY_ADMIN;
	while (s < KEY_SCOPE_MAX && !str_eq(name, scopes[s]))
		s++;
	return s;
}

struct key {
	struct key *next;  // in its bucket
	struct key *newer; // in order of creation
	struct key_info info;
	char sha256[SHA256_HEX_SIZE];
	_Atomic uint64_t last_used_ns;	// info.last_used_ns is not kept up
	uint64_t flushed_ns;		// belongs to keys_flush, called on one thread
	_Atomic uint64_t paid_until_ns; // CLOCK_MONOTONIC: up to when its creates are used up
};

struct keys {
	struct db *db;
	pthread_rwlock_t lock;
	struct key *bucket[BUCKETS];
	struct key *oldest, *newest;
	size_t count;
	_Atomic uint64_t refreshed_ns; // CLOCK_MONOTONIC
};

// The hash is uniform already: its first digits are the bucket.
static struct key **bucket_of(struct keys *k, const char *sha256)
{
	char head[4] = {sha256[0], sha256[1], sha256[2], '\0'};
	return &k->bucket[strtoul(head, NULL, 16) & (BUCKETS - 1)];
}

static void link_key(struct keys *k, struct key *key)
{
	struct key **b = bucket_of(k, key->sha256);
	key->next = *b;
	*b = key;
	if (k->newest)
		k->newest->newer = key;
	else
		k->oldest = key;
	k->newest = key;
	k->count++;
}

static struct key *find_id(struct keys *k, const char *id)
{
	struct key *key = k->oldest;
	while (key && strcmp(key->info.id, id) != 0)
		key = key->newer;
	return key;
}

#define COLUMNS                                                                                    \
	"id, name, sha256, prefix, created_ns, last_used_ns, scope, owner, expires_ns, "           \
	"max_sandboxes, max_vcpus, max_memory_mb, max_disk_mb, max_creates"

// NULL is 0.
static uint64_t number(sqlite3_stmt *st, int column)
{
	return (uint64_t)sqlite3_column_int64(st, column);
}

// Those that are known already stay as they are.
static int load_row(void *ctx, sqlite3_stmt *st)
{
	struct keys *k = ctx;
	if (find_id(k, db_text(st, 0)))
		return 0;
	struct key *key = calloc(1, sizeof *key);
	if (!key)
		return -ENOMEM;
	struct key_info *i = &key->info;
	snprintf(i->id, sizeof i->id, "%s", db_text(st, 0));
	snprintf(i->name, sizeof i->name, "%s", db_text(st, 1));
	snprintf(key->sha256, sizeof key->sha256, "%s", db_text(st, 2));
	snprintf(i->prefix, sizeof i->prefix, "%s", db_text(st, 3));
	i->created_ns = number(st, 4);
	i->last_used_ns = number(st, 5);
	i->scope = key_scope_parse(db_text(st, 6));
	snprintf(i->owner, sizeof i->owner, "%s", db_text(st, 7));
	i->expires_ns = number(st, 8);
	i->quota = (struct key_quota){
		number(st, 9), number(st, 10), number(st, 11), number(st, 12), number(st, 13)};
	key->last_used_ns = key->flushed_ns = i->last_used_ns;
	if (i->scope == KEY_SCOPE_MAX) { // no such key comes by us
		free(key);
		return -EBADMSG;
	}
	link_key(k, key);
	return 0;
}

// With the lock held for writing, or before anybody else has k.
static int read_rows(struct keys *k, struct err *e)
{
	int r = DB_LOCKED(
		k->db, db_query(k->db, e, load_row, k,
			       "SELECT " COLUMNS " FROM keys ORDER BY created_ns, rowid", ""));
	return r < 0 ? err_prefix(e, r, "keys") : 0;
}

int keys_load(struct db *db, struct keys **ret, struct err *e)
{
	_cleanup_(keys_freep) struct keys *k = calloc(1, sizeof *k);
	if (!k)
		return err_errno(e, ENOMEM, "keys");
	k->db = db;
	pthread_rwlock_init(&k->lock, NULL);
	int r = read_rows(k, e);
	if (r == 0)
		*ret = TAKE_PTR(k);
	return r;
}

int keys_refresh(struct keys *k, struct err *e)
{
	pthread_rwlock_wrlock(&k->lock);
	int r = read_rows(k, e);
	pthread_rwlock_unlock(&k->lock);
	return r;
}

struct keys *keys_free(struct keys *k)
{
	if (!k)
		return NULL;
	while (k->oldest) {
		struct key *next = k->oldest->newer;
		free(k->oldest);
		k->oldest = next;
	}
	pthread_rwlock_destroy(&k->lock);
	free(k);
	return NULL;
}

// With the lock held.
static struct key *find(struct keys *k, const char sha256[SHA256_HEX_SIZE])
{
	struct key *key = *bucket_of(k, sha256);
	while (key && !str_eq_secret(key->sha256, sha256))
		key = key->next;
	return key;
}

static bool look_up(
	struct keys *k, const char sha256[SHA256_HEX_SIZE], uint64_t now, struct key_info *ret)
{
	pthread_rwlock_rdlock(&k->lock);
	struct key *key = find(k, sha256);
	if (key) {
		*ret = key->info;
		if (!ret->expires_ns || now < ret->expires_ns)
			key->last_used_ns = now;
	}
	pthread_rwlock_unlock(&k->lock);
	return key != NULL;
}

int keys_check(struct keys *k, const char *text, struct key_info *ret, struct err *e)
{
	char sha256[SHA256_HEX_SIZE];
	uint64_t now = clock_realtime_ns();
	if (!text)
		return err_set(e, ERR_UNAUTHENTICATED,
			"no API key: send it as X-API-Key or as a bearer token");
	hash_sha256_hex(text, strlen(text), sha256);
	bool known = look_up(k, sha256, now, ret);
	if (!known && keys_looks_like_one(text)) {
		uint64_t at = clock_monotonic_ns(), last = k->refreshed_ns;
		if (at - last > REFRESH_NS &&
			atomic_compare_exchange_strong(&k->refreshed_ns, &last, at) &&
			keys_refresh(k, NULL) == 0)
			known = look_up(k, sha256, now, ret);
	}
	if (!known)
		return err_set(e, ERR_UNAUTHENTICATED, "unknown API key");
	if (ret->expires_ns && now >= ret->expires_ns)
		return err_set(e, ERR_UNAUTHENTICATED,
			"this API key has expired: ask the server's operator for another one");
	return 0;
}

bool keys_is_known(struct keys *k, const char *text)
{
	char sha256[SHA256_HEX_SIZE];
	hash_sha256_hex(text, strlen(text), sha256);
	pthread_rwlock_rdlock(&k->lock);
	bool known = find(k, sha256) != NULL;
	pthread_rwlock_unlock(&k->lock);
	return known;
}

bool keys_looks_like_one(const char *text)
{
	return str_starts(text, "e2b_") && strlen(text) == API_KEY_SIZE - 1 &&
	       strspn(text + 4, "0123456789abcdef") == API_KEY_SIZE - 5;
}

size_t keys_count(struct keys *k)
{
	pthread_rwlock_rdlock(&k->lock);
	size_t n = k->count;
	pthread_rwlock_unlock(&k->lock);
	return n;
}

void keys_generate(char out[API_KEY_SIZE])
{
	unsigned char raw[20];
	char hex[41];
	id_random_bytes(raw, sizeof raw);
	id_hex(raw, sizeof raw, hex);
	snprintf(out, API_KEY_SIZE, "e2b_%s", hex);
}

int keys_add(struct keys *k, const char text[API_KEY_SIZE], struct key_info *i, struct err *e)
{
	_cleanup_free_ struct key *key = calloc(1, sizeof *key);
	if (!key)
		return err_errno(e, ENOMEM, "key");
	id_new_uuid(i->id);
	snprintf(i->prefix, sizeof i->prefix, "%.12s", text);
	i->created_ns = clock_realtime_ns();
	i->last_used_ns = 0;
	hash_sha256_hex(text, strlen(text), key->sha256);
	key->info = *i;
	const struct key_quota *q = &i->quota;
	int r = DB_LOCKED(k->db,
		db_exec(k->db, e,
			"INSERT INTO keys (id, name, sha256, prefix, created_ns, scope, owner, "
			"expires_ns, max_sandboxes, max_vcpus, max_memory_mb, max_disk_mb, "
			"max_creates) VALUES (?, ?, ?, ?, ?, ?, ?, nullif(?, 0), nullif(?, 0), "
			"nullif(?, 0), nullif(?, 0), nullif(?, 0), nullif(?, 0))",
			"ssssissiiiiii", i->id, i->name, key->sha256, i->prefix,
			(int64_t)i->created_ns, key_scope_name(i->scope), i->owner,
			(int64_t)i->expires_ns, (int64_t)q->sandboxes, (int64_t)q->vcpus,
			(int64_t)q->memory_mb, (int64_t)q->disk_mb, (int64_t)q->creates));
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&k->lock);
	if (!find_id(k, i->id)) // keys_refresh may have been faster
		link_key(k, TAKE_PTR(key));
	pthread_rwlock_unlock(&k->lock);
	return 0;
}

static int no_key(const char *id, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, "no key '%.64s'", id);
}

int keys_get(struct keys *k, const char *id, struct key_info *ret, struct err *e)
{
	pthread_rwlock_rdlock(&k->lock);
	struct key *key = find_id(k, id);
	if (key) {
		*ret = key->info;
		ret->last_used_ns = key->last_used_ns;
	}
	pthread_rwlock_unlock(&k->lock);
	return key ? 0 : no_key(id, e);
}

static bool lets_in_for_ever(const struct key_info *i)
{
	return i->scope == KEY_ADMIN && !i->expires_ns;
}

// With the lock held for writing, over the write: two changes cannot take the last two.
static int check_last(struct keys *k, const struct key *key, struct err *e)
{
	size_t others = 0;
	for (const struct key *o = k->oldest; o; o = o->newer)
		others += o != key && lets_in_for_ever(&o->info);
	if (others > 0 || !lets_in_for_ever(&key->info))
		return 0;
	return err_set(e, ERR_CONFLICT,
		"this is the last key of an admin that does not expire: make another one first, or "
		"nobody could get in");
}

static int write_update(struct keys *k, const struct key_info *i, struct err *e)
{
	const struct key_quota *q = &i->quota;
	return DB_LOCKED(k->db,
		db_exec(k->db, e,
			"UPDATE keys SET name = ?, scope = ?, owner = ?, expires_ns = nullif(?, "
			"0), max_sandboxes = nullif(?, 0), max_vcpus = nullif(?, 0), max_memory_mb "
			"= nullif(?, 0), max_disk_mb = nullif(?, 0), max_creates = nullif(?, 0) "
			"WHERE id = ?",
			"sssiiiiiis", i->name, key_scope_name(i->scope), i->owner,
			(int64_t)i->expires_ns, (int64_t)q->sandboxes, (int64_t)q->vcpus,
			(int64_t)q->memory_mb, (int64_t)q->disk_mb, (int64_t)q->creates, i->id));
}

int keys_update(struct keys *k, const struct key_info *i, struct err *e)
{
	pthread_rwlock_wrlock(&k->lock);
	struct key *key = find_id(k, i->id);
	int r = key ? 0 : no_key(i->id, e);
	if (r == 0 && !lets_in_for_ever(i))
		r = check_last(k, key, e);
	if (r == 0)
		r = write_update(k, i, e);
	if (r == 0) {
		struct key_info *old = &key->info;
		memcpy(old->name, i->name, sizeof old->name);
		memcpy(old->owner, i->owner, sizeof old->owner);
		old->scope = i->scope;
		old->expires_ns = i->expires_ns;
		old->quota = i->quota;
	}
	pthread_rwlock_unlock(&k->lock);
	return r;
}

static void unlink_key(struct keys *k, struct key *key)
{
	struct key **b = bucket_of(k, key->sha256), *older = NULL;
	while (*b != key)
		b = &(*b)->next;
	*b = key->next;
	for (struct key *o = k->oldest; o != key; o = o->newer)
		older = o;
	*(older ? &older->newer : &k->oldest) = key->newer;
	if (k->newest == key)
		k->newest = older;
	k->count--;
	free(key);
}

int keys_remove(struct keys *k, const char *id, struct err *e)
{
	pthread_rwlock_wrlock(&k->lock);
	struct key *key = find_id(k, id);
	int r = key ? check_last(k, key, e) : no_key(id, e);
	if (r == 0)
		r = DB_LOCKED(k->db, db_exec(k->db, e, "DELETE FROM keys WHERE id = ?", "s", id));
	if (r == 0)
		unlink_key(k, key);
	pthread_rwlock_unlock(&k->lock);
	return r;
}

// Each create pays for its part of a minute, up to a whole one in advance.
unsigned keys_take_creates(struct keys *k, const struct key_info *info, uint64_t n)
{
	uint64_t wait_ns = 0, now = clock_monotonic_ns(), most = info->quota.creates;
	if (!most)
		return 0;
	pthread_rwlock_rdlock(&k->lock);
	struct key *key = find_id(k, info->id);
	uint64_t was = key ? key->paid_until_ns : 0, next = 0;
	while (key) {
		next = MAX(was, now) + n * (MINUTE_NS / most);
		wait_ns = next > now + MINUTE_NS ? next - now - MINUTE_NS : 0;
		if (wait_ns || atomic_compare_exchange_weak(&key->paid_until_ns, &was, next))
			break;
	}
	pthread_rwlock_unlock(&k->lock);
	return (unsigned)((wait_ns + NSEC_PER_SEC - 1) / NSEC_PER_SEC);
}

int keys_list(struct keys *k, struct key_info **ret, size_t *ret_n, struct err *e)
{
	pthread_rwlock_rdlock(&k->lock);
	size_t n = 0;
	struct key_info *list = calloc(k->count + 1, sizeof *list);
	for (struct key *key = k->oldest; list && key; key = key->newer) {
		list[n] = key->info;
		list[n++].last_used_ns = key->last_used_ns;
	}
	pthread_rwlock_unlock(&k->lock);
	if (!list)
		return err_errno(e, ENOMEM, "keys");
	*ret = list;
	*ret_n = n;
	return 0;
}

int keys_flush(struct keys *k, struct err *e)
{
	int r = 0;
	pthread_rwlock_rdlock(&k->lock);
	for (struct key *key = k->oldest; key && r == 0; key = key->newer) {
		uint64_t used = key->last_used_ns;
		if (used == key->flushed_ns)
			continue;
		r = DB_LOCKED(
			k->db, db_exec(k->db, e, "UPDATE keys SET last_used_ns = ? WHERE id = ?",
				       "is", (int64_t)used, key->info.id));
		if (r == 0)
			key->flushed_ns = used;
	}
	pthread_rwlock_unlock(&k->lock);
	return r;
}
