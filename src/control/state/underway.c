// SPDX-License-Identifier: Apache-2.0
#include "control/state/underway.h"
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/lock.h"
#include "base/str.h"
#include "base/json.h"

struct open_op {
	struct open_op *next;
	struct operation_ref ref;
};

struct underway {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct open_op *first, **last; // oldest first
};

// --- what is open, in memory

static struct open_op *find(struct underway *u, const char *id)
{
	struct open_op *p = u->first;
	while (p && strcmp(p->ref.id, id) != 0)
		p = p->next;
	return p;
}

static void open_free(struct open_op *p)
{
	free(p->ref.children);
	free(p);
}

static int add(struct underway *u, const struct operation *op, bool active)
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
	pthread_mutex_lock(&u->lock);
	*u->last = p;
	u->last = &p->next;
	pthread_mutex_unlock(&u->lock);
	return 0;
}

int underway_activate(struct underway *u, const struct operation *op, struct err *e)
{
	int rc = add(u, op, true);
	return rc < 0 ? err_errno(e, rc, "operation") : 0;
}

int underway_add_orphan(struct underway *u, const struct operation *op, struct err *e)
{
	int rc = add(u, op, false);
	return rc < 0 ? err_errno(e, rc, "operation") : 0;
}

void underway_ended(struct underway *u, const char *id)
{
	pthread_mutex_lock(&u->lock);
	for (struct open_op **p = &u->first; *p; p = &(*p)->next) {
		struct open_op *gone = *p;
		if (strcmp(gone->ref.id, id) != 0)
			continue;
		*p = gone->next;
		if (u->last == &gone->next)
			u->last = p;
		open_free(gone);
		break;
	}
	pthread_cond_broadcast(&u->changed);
	pthread_mutex_unlock(&u->lock);
}

void underway_orphan(struct underway *u, const char *id)
{
	pthread_mutex_lock(&u->lock);
	struct open_op *p = find(u, id);
	if (p)
		p->ref.active = false;
	pthread_cond_broadcast(&u->changed);
	pthread_mutex_unlock(&u->lock);
}

bool underway_adopt(struct underway *u, const char *id)
{
	pthread_mutex_lock(&u->lock);
	struct open_op *p = find(u, id);
	bool ok = p && !p->ref.active;
	if (ok)
		p->ref.active = true;
	pthread_mutex_unlock(&u->lock);
	return ok;
}

static bool concerns(const struct operation_ref *r, const char *sandbox)
{
	bool yes = strcmp(r->sandbox, sandbox) == 0;
	for (size_t i = 0; i < r->n_children && !yes; i++)
		yes = strcmp(r->children[i], sandbox) == 0;
	return yes;
}

bool underway_orphan_on(struct underway *u, const char *sandbox, char out[UUID_SIZE])
{
	pthread_mutex_lock(&u->lock);
	struct open_op *p = u->first;
	while (p && (p->ref.active || !concerns(&p->ref, sandbox)))
		p = p->next;
	if (p)
		memcpy(out, p->ref.id, UUID_SIZE);
	pthread_mutex_unlock(&u->lock);
	return p != NULL;
}

bool underway_is_on(struct underway *u, const char *sandbox)
{
	pthread_mutex_lock(&u->lock);
	struct open_op *p = u->first;
	while (p && !concerns(&p->ref, sandbox))
		p = p->next;
	pthread_mutex_unlock(&u->lock);
	return p != NULL;
}

bool underway_is_on_snapshot(struct underway *u, const char *snapshot)
{
	pthread_mutex_lock(&u->lock);
	struct open_op *p = u->first;
	while (p && strcmp(p->ref.snapshot, snapshot) != 0)
		p = p->next;
	pthread_mutex_unlock(&u->lock);
	return p != NULL;
}

bool underway_wait(struct underway *u, const char *id, int wait_ms)
{
	const uint64_t until = deadline_in_ms(wait_ms);
	pthread_mutex_lock(&u->lock);
	while (find(u, id) && wait_ms > 0)
		if (cond_wait_until(&u->changed, &u->lock, until) < 0)
			break;
	bool ended = find(u, id) == NULL;
	pthread_mutex_unlock(&u->lock);
	return ended;
}

static bool busy(const struct underway *u, const char *sandbox, enum operation_kind kind)
{
	const struct open_op *p = u->first;
	while (p && !(p->ref.active && p->ref.kind == kind && strcmp(p->ref.sandbox, sandbox) == 0))
		p = p->next;
	return p != NULL;
}

bool underway_wait_idle(
	struct underway *u, const char *sandbox, enum operation_kind kind, int wait_ms)
{
	const uint64_t until = deadline_in_ms(wait_ms);
	bool idle;
	pthread_mutex_lock(&u->lock);
	while (!(idle = !busy(u, sandbox, kind)))
		if (cond_wait_until(&u->changed, &u->lock, until) < 0)
			break;
	pthread_mutex_unlock(&u->lock);
	return idle;
}

int underway_list(struct underway *u, struct operation_ref **ret, size_t *ret_n, struct err *e)
{
	size_t n = 0;
	pthread_mutex_lock(&u->lock);
	for (struct open_op *p = u->first; p; p = p->next)
		n++;
	struct operation_ref *list = calloc(n + 1, sizeof *list);
	bool ok = list != NULL;
	n = 0;
	for (struct open_op *p = u->first; p && ok; p = p->next) {
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
	pthread_mutex_unlock(&u->lock);
	if (!ok) {
		operation_refs_free(list, list ? n : 0);
		return err_errno(e, ENOMEM, "operations");
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

void operation_refs_free(struct operation_ref *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(list[i].children);
	free(list);
}

static int take_open(void *ctx, const struct operation *op)
{
	return add(ctx, op, false);
}

int underway_load(struct db *db, struct underway **ret, struct err *e)
{
	_cleanup_(underway_freep) struct underway *u = calloc(1, sizeof *u);
	if (!u)
		return err_errno(e, ENOMEM, "operations");
	u->last = &u->first;
	pthread_mutex_init(&u->lock, NULL);
	pthread_cond_init(&u->changed, NULL);
	int rc = operations_each_open(db, take_open, u, e);
	if (rc == 0)
		*ret = TAKE_PTR(u);
	return rc;
}

struct underway *underway_free(struct underway *u)
{
	if (!u)
		return NULL;
	for (struct open_op *p = u->first, *next; p; p = next) {
		next = p->next;
		open_free(p);
	}
	pthread_cond_destroy(&u->changed);
	pthread_mutex_destroy(&u->lock);
	free(u);
	return NULL;
}
