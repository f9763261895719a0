// SPDX-License-Identifier: Apache-2.0
// What uses the space of the volume. Who needs which layer is known from memory (refs.h); then all
// files are looked at (usage_look.c).
#include <string.h>
#include <sys/statvfs.h>
#include "base/clock.h"
#include "base/lock.h"
#include "base/str.h"
#include "sandbox/host.h"
#include "sandbox/watch/unknown.h"
#include "sandbox/watch/usage_look.h"

#define LIMIT_MS 30000

// Layers of several count for each who needs them; of == its common with the target.
static void spread_layers(struct usage_work *w, size_t target)
{
	for (size_t k = 0; k < w->n_several; k++) {
		const struct usage_part *layer = &w->u.parts[w->n_items + k];
		const char *id = w->needs[w->first[k]].id;
		bool common = false;
		size_t end = w->first[k];
		for (; end < w->n_needs && str_eq(w->needs[end].id, id); end++)
			common |= w->needs[end].part == target;
		for (size_t i = w->first[k]; i < end; i++) {
			struct usage_part *p = &w->u.parts[w->needs[i].part];
			p->bytes += layer->bytes;
			p->memory += layer->memory;
			p->layers++;
			p->common += common ? layer->bytes : layer->common;
		}
	}
}

static int by_frees(const void *a, const void *b)
{
	const struct host_usage_item *x = a, *y = b;
	if (x->frees_bytes != y->frees_bytes)
		return x->frees_bytes < y->frees_bytes ? 1 : -1;
	if (x->bytes != y->bytes)
		return x->bytes < y->bytes ? 1 : -1;
	return strcmp(x->id, y->id);
}

static int by_share(const void *a, const void *b)
{
	const struct host_usage_share *x = a, *y = b;
	return x->bytes < y->bytes ? 1 : x->bytes > y->bytes ? -1 : strcmp(x->id, y->id);
}

static void set_item(
	const struct usage_work *w, const struct usage_part *p, struct host_usage_item *ret)
{
	*ret = (struct host_usage_item){.bytes = p->bytes,
		.unique_bytes = p->unique,
		// Where a header is damaged no layer is removed.
		.frees_bytes =
			w->h->damaged ? p->unique - MIN(p->unique, p->own_layers) : p->unique,
		.memory_bytes = MIN(p->memory, p->bytes),
		.layers = p->layers};
	memcpy(ret->kind, p->kind, sizeof ret->kind);
	memcpy(ret->id, p->id, sizeof ret->id);
}

static int tell_items(struct usage_work *w, struct host_usage_report *r)
{
	r->items = calloc(w->u.n + 1, sizeof *r->items);
	if (!r->items)
		return -ENOMEM;
	for (size_t i = USAGE_ITEMS; i < w->n_items; i++)
		set_item(w, &w->u.parts[i], &r->items[r->n_items++]);
	for (size_t k = 0; k < w->n_several; k++) {
		struct host_usage_item *x = &r->items[r->n_items++];
		const struct usage_part *p = &w->u.parts[w->n_items + k];
		*x = (struct host_usage_item){
			.kind = "layer", .bytes = p->bytes, .memory_bytes = p->bytes};
		memcpy(x->id, p->id, sizeof x->id);
		for (size_t i = w->first[k]; i < w->n_needs && str_eq(w->needs[i].id, p->id); i++)
			x->layers++;
	}
	qsort(r->items, r->n_items, sizeof *r->items, by_frees);
	if (r->n_items > HOST_USAGE_MAX) {
		w->sum.left_out = r->n_items - HOST_USAGE_MAX;
		r->n_items = HOST_USAGE_MAX;
	}
	return 0;
}

static int tell_shares(struct usage_work *w, size_t target, struct host_usage_report *r)
{
	r->shares = calloc(w->n_items + 1, sizeof *r->shares);
	if (!r->shares)
		return -ENOMEM;
	for (size_t i = USAGE_ITEMS; i < w->n_items && target != SIZE_MAX; i++) {
		const struct usage_part *p = &w->u.parts[i];
		if (i == target || !p->common)
			continue;
		struct host_usage_share *x = &r->shares[r->n_shares++];
		memcpy(x->kind, p->kind, sizeof x->kind);
		memcpy(x->id, p->id, sizeof x->id);
		x->bytes = p->common;
	}
	qsort(r->shares, r->n_shares, sizeof *r->shares, by_share);
	r->n_shares = MIN(r->n_shares, (size_t)HOST_USAGE_MAX);
	return 0;
}

static void add_up(struct usage_work *w, uint64_t once)
{
	struct host_usage *s = &w->sum;
	uint64_t all = 0;
	for (size_t i = 0; i < w->n_items; i++) {
		const struct usage_part *p = &w->u.parts[i];
		all += p->unique;
		if (i < USAGE_ITEMS)
			continue;
		char kind = p->kind[1]; // sAndbox, sNapshot, iMage
		*(kind == 'a'	      ? &s->sandbox_bytes
			: kind == 'n' ? &s->snapshot_bytes
				      : &s->image_bytes) += p->unique;
		*(kind == 'a' ? &s->sandboxes : kind == 'n' ? &s->snapshots : &s->images) += 1;
	}
	s->pending_bytes = w->u.parts[USAGE_PENDING].unique;
	s->unknown_bytes = w->u.parts[USAGE_UNKNOWN].unique;
	s->database_bytes = w->u.parts[USAGE_DATABASES].unique;
	s->program_bytes = w->u.parts[USAGE_PROGRAMS].unique;
	s->shared_bytes = once - MIN(all, once);
	s->other_bytes = s->used_bytes - MIN(s->used_bytes, once);
	s->unknown = w->n_unknown;
	s->estimated = w->u.estimated;
}

static uint64_t unknown_bytes(struct usage_work *w, const struct unknown *u)
{
	struct usage_count one = {.deadline_ns = w->u.deadline_ns, .no_extents = true};
	char path[sizeof "sandboxes/.sum" + 64];
	const char *dir = u->kind == UNKNOWN_LAYERS	 ? "layers"
			  : u->kind == UNKNOWN_SNAPSHOTS ? "snapshots"
							 : "sandboxes";
	// A shim's files are a sandbox's.
	if (u->kind != UNKNOWN_SHIMS && usage_add_part(&one, "", "") == 0) {
		snprintf(path, sizeof path, "%s/%s", dir, u->name);
		usage_add_tree(&one, w->h->data_fd, path, 0);
		snprintf(path, sizeof path, "%s/%s.sum", dir, u->name);
		if (u->kind == UNKNOWN_LAYERS)
			usage_add_tree(&one, w->h->data_fd, path, 0);
	}
	uint64_t bytes = one.n ? one.parts[0].plain : 0;
	usage_count_done(&one);
	return bytes;
}

static int tell_unknown(struct usage_work *w, struct host_usage_report *r)
{
	r->n_unknown = MIN(w->n_unknown, (size_t)HOST_UNKNOWN_MAX);
	r->unknown = calloc(r->n_unknown + 1, sizeof *r->unknown);
	if (!r->unknown)
		return -ENOMEM;
	for (size_t i = 0; i < r->n_unknown; i++) {
		struct host_unknown *x = &r->unknown[i];
		snprintf(x->kind, sizeof x->kind, "%s", unknown_word(w->unknown[i].kind));
		snprintf(x->id, sizeof x->id, "%s", w->unknown[i].name);
		x->bytes = unknown_bytes(w, &w->unknown[i]);
	}
	return 0;
}

static int report(struct usage_work *w, const struct host_usage_ask *ask,
	struct host_usage_report *r, struct err *e)
{
	uint64_t once = 0;
	size_t target = SIZE_MAX;
	for (size_t i = USAGE_ITEMS; i < w->n_items && ask->of && *ask->of; i++)
		if (str_eq(w->u.parts[i].id, ask->of))
			target = i;
	if (ask->of && *ask->of && target == SIZE_MAX)
		return err_set(e, ERR_NOT_FOUND, "the host has no '%.64s'", ask->of);
	struct statvfs fs;
	if (fstatvfs(w->h->data_fd, &fs) < 0)
		return err_errno(e, errno, "%s", w->h->data_dir);
	w->sum.total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
	w->sum.free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	w->sum.used_bytes = (uint64_t)(fs.f_blocks - fs.f_bfree) * fs.f_frsize;
	int rc = usage_count_end(&w->u, target, &once);
	if (rc == 0) {
		add_up(w, once);
		spread_layers(w, target);
		rc = tell_items(w, r);
	}
	if (rc == 0)
		rc = tell_shares(w, target, r);
	if (rc == 0)
		rc = tell_unknown(w, r);
	r->sum = w->sum;
	return rc < 0 ? err_errno(e, rc, "usage") : 0;
}

int host_usage(struct host *h, const struct host_usage_ask *ask, struct host_usage_report *ret,
	struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *one_at_a_time = mutex_lock(&h->usage_lock);
	_cleanup_(usage_work_done) struct usage_work w = {.h = h};
	struct host_usage_report r = {0};
	w.u.ask = ask;
	w.u.deadline_ns = deadline_in_ms(LIMIT_MS);
	int rc = usage_look(&w, e);
	if (rc == 0)
		rc = report(&w, ask, &r, e);
	if (rc < 0)
		host_usage_report_done(&r);
	else
		*ret = r;
	return rc;
}
