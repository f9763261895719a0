// SPDX-License-Identifier: Apache-2.0
#include "control/state/keys.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include "base/clock.h"
#include "base/hash.h"
#include "base/str.h"

#define BUCKETS 1024 // a power of two

struct key {
	struct key *next;  // in its bucket
	struct key *newer; // in order of creation
	struct key_info info;
	char sha256[SHA256_HEX_SIZE];
	_Atomic uint64_t last_used_ns; // info.last_used_ns is not kept up
	uint64_t flushed_ns;	       // belongs to keys_flush, called on one thread
};

struct keys {
	struct db *db;
	pthread_rwlock_t lock;
	struct key *bucket[BUCKETS];
	struct key *oldest, *newest;
	size_t count;
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

static int load_row(void *ctx, sqlite3_stmt *st)
{
	struct keys *k = ctx;
	struct key *key = calloc(1, sizeof *key);
	if (!key)
		return -ENOMEM;
	struct key_info *i = &key->info;
	snprintf(i->id, sizeof i->id, "%s", db_text(st, 0));
	snprintf(i->name, sizeof i->name, "%s", db_text(st, 1));
	snprintf(key->sha256, sizeof key->sha256, "%s", db_text(st, 2));
	snprintf(i->prefix, sizeof i->prefix, "%s", db_text(st, 3));
	i->created_ns = (uint64_t)sqlite3_column_int64(st, 4);
	i->last_used_ns = (uint64_t)sqlite3_column_int64(st, 5);
	key->last_used_ns = key->flushed_ns = i->last_used_ns;
	link_key(k, key);
	return 0;
}

int keys_load(struct db *db, struct keys **ret, struct err *e)
{
	_cleanup_(keys_freep) struct keys *k = calloc(1, sizeof *k);
	if (!k)
		return err_errno(e, ENOMEM, "keys");
	k->db = db;
	pthread_rwlock_init(&k->lock, NULL);
	int r = DB_LOCKED(
		db, db_query(db, e, load_row, k,
			    "SELECT id, name, sha256, prefix, created_ns, last_used_ns FROM keys "
			    "ORDER BY created_ns, rowid",
			    ""));
	if (r < 0)
		return err_prefix(e, r, "keys");
	*ret = TAKE_PTR(k);
	return 0;
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

bool keys_check(struct keys *k, const char *text)
{
	char sha256[SHA256_HEX_SIZE];
	hash_sha256_hex(text, strlen(text), sha256);
	pthread_rwlock_rdlock(&k->lock);
	struct key *key = *bucket_of(k, sha256);
	while (key && !str_eq_secret(key->sha256, sha256))
		key = key->next;
	if (key)
		key->last_used_ns = clock_realtime_ns();
	pthread_rwlock_unlock(&k->lock);
	return key != NULL;
}

bool keys_find(struct keys *k, const char *text, char ret_id[UUID_SIZE])
{
	char sha256[SHA256_HEX_SIZE];
	hash_sha256_hex(text, strlen(text), sha256);
	pthread_rwlock_rdlock(&k->lock);
	struct key *key = *bucket_of(k, sha256);
	while (key && !str_eq_secret(key->sha256, sha256))
		key = key->next;
	if (key)
		memcpy(ret_id, key->info.id, UUID_SIZE);
	pthread_rwlock_unlock(&k->lock);
	return key != NULL;
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

int keys_add(struct keys *k, const char *name, const char text[API_KEY_SIZE], struct key_info *ret,
	struct err *e)
{
	_cleanup_free_ struct key *key = calloc(1, sizeof *key);
	if (!key)
		return err_errno(e, ENOMEM, "key");
	struct key_info *i = &key->info;
	id_new_uuid(i->id);
	snprintf(i->name, sizeof i->name, "%s", name);
	snprintf(i->prefix, sizeof i->prefix, "%.12s", text);
	i->created_ns = clock_realtime_ns();
	hash_sha256_hex(text, strlen(text), key->sha256);
	int r = DB_LOCKED(k->db,
		db_exec(k->db, e,
			"INSERT INTO keys (id, name, sha256, prefix, created_ns) VALUES (?, ?, ?, "
			"?, ?)",
			"ssssi", i->id, i->name, key->sha256, i->prefix, (int64_t)i->created_ns));
	if (r < 0)
		return r;
	if (ret)
		*ret = *i;
	pthread_rwlock_wrlock(&k->lock);
	link_key(k, TAKE_PTR(key));
	pthread_rwlock_unlock(&k->lock);
	return 0;
}

int keys_remove(struct keys *k, const char *id, struct err *e)
{
	// Held over the write, so that two removals cannot take the last two keys.
	pthread_rwlock_wrlock(&k->lock);
	struct key *key = k->oldest, *older = NULL;
	while (key && strcmp(key->info.id, id) != 0) {
		older = key;
		key = key->newer;
	}
	int r = 0;
	if (!key)
		r = err_set(e, ERR_NOT_FOUND, "no key '%.64s'", id);
	else if (k->count == 1)
		r = err_set(e, ERR_CONFLICT,
			"this is the last key: make another one first, or nobody could get in");
	else
		r = DB_LOCKED(k->db, db_exec(k->db, e, "DELETE FROM keys WHERE id = ?", "s", id));
	if (r == 0) {
		struct key **b = bucket_of(k, key->sha256);
		while (*b != key)
			b = &(*b)->next;
		*b = key->next;
		*(older ? &older->newer : &k->oldest) = key->newer;
		if (k->newest == key)
			k->newest = older;
		k->count--;
		free(key);
	}
	pthread_rwlock_unlock(&k->lock);
	return r;
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
