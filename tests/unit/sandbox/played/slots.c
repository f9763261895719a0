// SPDX-License-Identifier: Apache-2.0
// The played network (net/slot.h, net/sockets.h): slots are numbers, a taken one has a file
// <run>/netns/<number>, in which the shim writes whose machine it leads to.
#include "net/slot.h"
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include "base/file.h"
#include "net/sockets.h"
#include "played/played.h"

#define SLOTS 256u

struct slot_pool {
	pthread_mutex_t lock;
	bool taken[SLOTS], kept[SLOTS];
	unsigned max;
};

static void fill(unsigned index, struct slot *ret)
{
	*ret = (struct slot){.index = index};
	snprintf(ret->netns, sizeof ret->netns, "%s/netns/%u", world.run, index);
	snprintf(ret->host_if, sizeof ret->host_if, "played-%u", index);
	snprintf(ret->address, sizeof ret->address, "10.213.%u.%u", (2 * index + 1) >> 8,
		(2 * index + 1) & 255);
}

int slot_pool_new(const struct slot_pool_config *cfg, const unsigned *keep, size_t n_keep,
	struct slot_pool **ret, struct err *e)
{
	char path[512];
	struct slot_pool *p = calloc(1, sizeof *p);
	if (!p)
		return err_errno(e, ENOMEM, "slots");
	pthread_mutex_init(&p->lock, NULL);
	p->max = MIN(cfg->max, SLOTS);
	for (size_t i = 0; i < n_keep; i++)
		if (keep[i] < SLOTS)
			p->kept[keep[i]] = true;
	snprintf(path, sizeof path, "%s/netns", cfg->run_dir);
	file_mkdir_p(AT_FDCWD, path, 0700);
	for (unsigned i = 0; i < SLOTS; i++) {
		snprintf(path, sizeof path, "%s/netns/%u", cfg->run_dir, i);
		if (!p->kept[i])
			unlink(path);
		else if (access(path, F_OK) < 0)
			p->kept[i] = false;
	}
	*ret = p;
	return 0;
}

struct slot_pool *slot_pool_free(struct slot_pool *p)
{
	free(p);
	return NULL;
}

int slot_pool_take(struct slot_pool *p, struct slot *ret, struct err *e)
{
	bool lost = false;
	int rc = trouble_meet("slot_pool_take", "", 3000, NULL, NULL, &lost, e);
	if (rc < 0)
		return rc;
	unsigned i = 0;
	pthread_mutex_lock(&p->lock);
	while (i < p->max && (p->taken[i] || p->kept[i]))
		i++;
	if (i < p->max)
		p->taken[i] = true;
	pthread_mutex_unlock(&p->lock);
	if (i == p->max)
		return err_set(e, ERR_LIMIT, "all %u slots are in use", p->max);
	fill(i, ret);
	return 0;
}

int slot_pool_adopt(struct slot_pool *p, unsigned index, struct slot *ret, struct err *e)
{
	pthread_mutex_lock(&p->lock);
	bool kept = index < SLOTS && p->kept[index];
	if (kept) {
		p->kept[index] = false;
		p->taken[index] = true;
	}
	pthread_mutex_unlock(&p->lock);
	if (!kept)
		return err_set(e, ERR_NOT_FOUND, "slot %u was not kept", index);
	fill(index, ret);
	return 0;
}

int slot_pool_resolvers(struct slot_pool *p, const struct slot *s, const struct resolvers *r,
	bool usual, struct err *e)
{
	return r->n && s->index < SLOTS
		       ? 0
		       : err_set(e, ERR_INTERNAL, "slot %u: no resolvers", s->index);
}

void slot_pool_give(struct slot_pool *p, const struct slot *s)
{
	unlink(s->netns);
	pthread_mutex_lock(&p->lock);
	p->taken[s->index] = false;
	pthread_mutex_unlock(&p->lock);
}

void slot_pool_stats(struct slot_pool *p, unsigned *ret_ready, unsigned *ret_taken)
{
	*ret_ready = 0;
	*ret_taken = 0;
	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < SLOTS; i++)
		*ret_taken += p->taken[i] || p->kept[i];
	pthread_mutex_unlock(&p->lock);
}

int slot_cleanup_all(const char *run_dir, struct err *e)
{
	return 0;
}

int slot_probe(const struct slot_pool_config *cfg, uint64_t *ret_ns, struct err *e)
{
	*ret_ns = 0;
	return 0;
}

int sockets_abort(const char *address, unsigned *ret_n, struct err *e)
{
	return 0;
}
