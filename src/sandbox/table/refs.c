// SPDX-License-Identifier: Apache-2.0
// Hash tables of layers, of snapshots and of runtimes, and for each a list of those that nobody
// needs.
#include "sandbox/table/refs.h"
#include <string.h>
#include "base/lock.h"
#include "base/str.h"

#define BUCKETS 4096u

// One entry is on at most one list of the dead.
struct entry {
	char id[UUID_SIZE];
	unsigned users;
	bool dropped; // of a snapshot
	bool dead;    // on the list
	struct layer_set layers;
	char runtime[UUID_SIZE]; // that a snapshot names, "": none
	struct entry *next, *next_dead;
};

struct kind {
	struct entry *buckets[BUCKETS];
	struct entry *dead;
};

struct refs {
	pthread_mutex_t lock;
	struct kind layers, snapshots, runtimes;
};

static struct entry **place(struct kind *k, const char *id)
{
	uint32_t x = 2166136261u; // FNV-1a
	for (const char *p = id; *p; p++)
		x = (x ^ (unsigned char)*p) * 16777619u;
	struct entry **p = &k->buckets[x % BUCKETS];
	while (*p && strcmp((*p)->id, id) != 0)
		p = &(*p)->next;
	return p;
}

static struct entry *find_or_add(struct kind *k, const char *id)
{
	struct entry **p = place(k, id);
	if (!*p && (*p = calloc(1, sizeof **p)))
		snprintf((*p)->id, sizeof(*p)->id, "%s", id);
	return *p;
}

static void remove_entry(struct kind *k, const char *id)
{
	struct entry **p = place(k, id), *e = *p;
	*p = e->next;
	layer_set_done(&e->layers);
	free(e);
}

static void put_dead(struct kind *k, struct entry *e)
{
	if (e->dead)
		return;
	e->dead = true;
	e->next_dead = k->dead;
	k->dead = e;
}

// The next of the list that is still not needed.
static struct entry *take_dead(struct kind *k)
{
	struct entry *e;
	while ((e = k->dead)) {
		k->dead = e->next_dead;
		e->dead = false;
		if (!e->users)
			return e;
	}
	return NULL;
}

struct refs *refs_new(void)
{
	struct refs *r = calloc(1, sizeof *r);
	if (r)
		pthread_mutex_init(&r->lock, NULL);
	return r;
}

static void free_kind(struct kind *k)
{
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct entry *e = k->buckets[i], *next; e; e = next) {
			next = e->next;
			layer_set_done(&e->layers);
			free(e);
		}
}

struct refs *refs_free(struct refs *r)
{
	if (!r)
		return NULL;
	free_kind(&r->layers);
	free_kind(&r->snapshots);
	free_kind(&r->runtimes);
	pthread_mutex_destroy(&r->lock);
	free(r);
	return NULL;
}

int layer_set_of(const struct header *h, struct layer_set *ret)
{
	*ret = (struct layer_set){0};
	if (!h || !h->n_layers)
		return 0;
	if (!(ret->ids = calloc(h->n_layers, sizeof *ret->ids)))
		return -ENOMEM;
	memcpy(ret->ids, h->layers, h->n_layers * sizeof *ret->ids);
	ret->n = h->n_layers;
	return 0;
}

void layer_set_done(struct layer_set *s)
{
	free(s->ids);
	*s = (struct layer_set){0};
}

static void release_of(struct kind *k, const char *id)
{
	struct entry *e = *place(k, id);
	if (e && e->users && --e->users == 0)
		put_dead(k, e);
}

static void release(struct refs *r, const char *id)
{
	release_of(&r->layers, id);
}

static int hold(struct refs *r, const struct layer_set *s)
{
	for (uint32_t i = 0; i < s->n; i++) {
		struct entry *e = find_or_add(&r->layers, s->ids[i]);
		if (!e) {
			while (i--)
				release(r, s->ids[i]);
			return -ENOMEM;
		}
		e->users++;
	}
	return 0;
}

int refs_hold_layers(struct refs *r, const struct layer_set *s)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	return hold(r, s);
}

void refs_release_layers(struct refs *r, const struct layer_set *s)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	for (uint32_t i = 0; i < s->n; i++)
		release(r, s->ids[i]);
}

int refs_hold_layer(struct refs *r, const char *id)
{
	char one[1][UUID_SIZE];
	snprintf(one[0], sizeof one[0], "%s", id);
	return refs_hold_layers(r, &(struct layer_set){1, one});
}

void refs_release_layer(struct refs *r, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	release(r, id);
}

int refs_add_snapshot(struct refs *r, const char *id, const struct header *h)
{
	struct layer_set now;
	int rc = layer_set_of(h, &now);
	if (rc < 0)
		return rc;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	struct entry *e = find_or_add(&r->snapshots, id);
	rc = e ? hold(r, &now) : -ENOMEM;
	if (rc < 0) {
		layer_set_done(&now);
		return rc;
	}
	for (uint32_t i = 0; i < e->layers.n; i++)
		release(r, e->layers.ids[i]);
	layer_set_done(&e->layers);
	e->layers = now;
	return 0;
}

static int hold_runtime(struct refs *r, const char *id)
{
	struct entry *e = find_or_add(&r->runtimes, id);
	if (!e)
		return -ENOMEM;
	e->users++;
	return 0;
}

int refs_hold_runtime(struct refs *r, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	return id[0] ? hold_runtime(r, id) : 0;
}

void refs_release_runtime(struct refs *r, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	release_of(&r->runtimes, id);
}

int refs_name_runtime(struct refs *r, const char *snapshot, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	struct entry *e = *place(&r->snapshots, snapshot);
	if (!e)
		return -ENOENT;
	if (id[0] && hold_runtime(r, id) < 0)
		return -ENOMEM;
	if (e->runtime[0])
		release_of(&r->runtimes, e->runtime);
	snprintf(e->runtime, sizeof e->runtime, "%s", id);
	return 0;
}

bool refs_snapshot_names(struct refs *r, const char *snapshot, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	const struct entry *e = *place(&r->snapshots, snapshot);
	return e && str_eq(e->runtime, id);
}

static int copy_set(const struct layer_set *from, struct layer_set *ret)
{
	*ret = (struct layer_set){0};
	if (!from->n)
		return 0;
	if (!(ret->ids = calloc(from->n, sizeof *ret->ids)))
		return -ENOMEM;
	memcpy(ret->ids, from->ids, from->n * sizeof *ret->ids);
	ret->n = from->n;
	return 0;
}

int refs_snapshot_layers(struct refs *r, const char *id, struct layer_set *ret)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	const struct entry *e = *place(&r->snapshots, id);
	*ret = (struct layer_set){0};
	return e ? copy_set(&e->layers, ret) : 0;
}

int refs_use_snapshot(struct refs *r, const char *id, struct layer_set *ret)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	struct entry *e = *place(&r->snapshots, id);
	struct layer_set copy;
	if (!e || e->dropped)
		return -ENOENT;
	int rc = copy_set(&e->layers, &copy);
	if (rc == 0)
		rc = hold(r, &copy);
	if (rc < 0) {
		layer_set_done(&copy);
		return rc;
	}
	e->users++;
	*ret = copy;
	return 0;
}

void refs_unuse_snapshot(struct refs *r, const char *id, struct layer_set *layers)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	struct entry *e = *place(&r->snapshots, id);
	if (e && e->users && --e->users == 0 && e->dropped)
		put_dead(&r->snapshots, e);
	for (uint32_t i = 0; i < layers->n; i++)
		release(r, layers->ids[i]);
	layer_set_done(layers);
}

int refs_drop_snapshot(struct refs *r, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	struct entry *e = find_or_add(&r->snapshots, id);
	if (!e)
		return -ENOMEM;
	e->dropped = true;
	if (!e->users)
		put_dead(&r->snapshots, e);
	return 0;
}

bool refs_has_snapshot(struct refs *r, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	const struct entry *e = *place(&r->snapshots, id);
	return e && !e->dropped;
}

bool refs_knows_snapshot(struct refs *r, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	return *place(&r->snapshots, id) != NULL;
}

bool refs_next_snapshot(struct refs *r, char ret_id[UUID_SIZE])
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	const struct entry *e = take_dead(&r->snapshots);
	if (e)
		memcpy(ret_id, e->id, UUID_SIZE);
	return e != NULL;
}

void refs_snapshot_gone(struct refs *r, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	struct entry *e = *place(&r->snapshots, id);
	if (!e)
		return;
	for (uint32_t i = 0; i < e->layers.n; i++)
		release(r, e->layers.ids[i]);
	if (e->runtime[0])
		release_of(&r->runtimes, e->runtime);
	remove_entry(&r->snapshots, id);
}

void refs_snapshot_stays(struct refs *r, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	struct entry *e = *place(&r->snapshots, id);
	if (e)
		put_dead(&r->snapshots, e);
}

static bool next_of(struct refs *r, struct kind *k, char ret_id[UUID_SIZE])
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	const struct entry *e = take_dead(k);
	if (!e)
		return false;
	memcpy(ret_id, e->id, UUID_SIZE);
	remove_entry(k, ret_id);
	return true;
}

bool refs_next_layer(struct refs *r, char ret_id[UUID_SIZE])
{
	return next_of(r, &r->layers, ret_id);
}

bool refs_next_runtime(struct refs *r, char ret_id[UUID_SIZE])
{
	return next_of(r, &r->runtimes, ret_id);
}

bool refs_knows_layer(struct refs *r, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	return *place(&r->layers, id) != NULL;
}

unsigned refs_layer_users(struct refs *r, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&r->lock);
	const struct entry *e = *place(&r->layers, id);
	return e ? e->users : 0;
}
