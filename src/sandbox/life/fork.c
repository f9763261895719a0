// SPDX-License-Identifier: Apache-2.0
// Fork: a running sandbox is captured into a checkpoint and goes on; then children are made from
// that, each when it is its turn. A paused one needs no capture. The checkpoint is gone when the
// last child is there: each child keeps the layers it needs by its own base.hdr.
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/json.h"
#include "base/request_id.h"
#include "sandbox/life/create.h"
#include "sandbox/life/checkpoint.h"
#include "sandbox/machine/source.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/promise.h"
#include "sandbox/table/turn.h"
#include "sandbox/table/space.h"

struct fork {
	struct host *h;
	struct host_fork *req;
	char snapshot[UUID_SIZE], template[64];
	char dns[48];	   // that the source was to have; "": the host's
	uint64_t asked_ns; // CLOCK_MONOTONIC
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t next, n_done;
	size_t done[HOST_FORK_MAX]; // indexes in the order they finished
};

static void make_child(struct fork *f, struct host_fork_child *c)
{
	struct host_create req = {.ends_at_ns = turn_ends_at(f->req->ends_at_ns, f->asked_ns),
		.on_timeout = f->req->on_timeout,
		.token = c->token,
		.is_child = true,
		.env = c->env};
	memcpy(req.op_id, c->op_id, sizeof req.op_id);
	memcpy(req.id, c->id, sizeof req.id);
	memcpy(req.snapshot, f->snapshot, sizeof req.snapshot);
	snprintf(req.template, sizeof req.template, "%s", f->template);
	snprintf(req.dns, sizeof req.dns, "%s", f->dns);
	c->e = (struct err){0};
	c->rc = create_sandbox(f->h, &req, c->info, &c->e);
}

static void *work(void *arg)
{
	struct fork *f = arg;
	pthread_mutex_lock(&f->lock);
	while (f->next < f->req->n) {
		size_t i = f->next++;
		pthread_mutex_unlock(&f->lock);
		make_child(f, &f->req->children[i]);
		pthread_mutex_lock(&f->lock);
		f->done[f->n_done++] = i;
		pthread_cond_broadcast(&f->changed);
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

static void make_children(struct fork *f)
{
	pthread_t threads[HOST_FORK_MAX];
	size_t n = 0, told = 0;
	while (n < f->req->n && request_id_thread(&threads[n], work, f) == 0)
		n++;
	if (n == 0)
		work(f);
	while (told < f->req->n) {
		pthread_mutex_lock(&f->lock);
		while (f->n_done == told)
			pthread_cond_wait(&f->changed, &f->lock);
		size_t i = f->done[told++];
		pthread_mutex_unlock(&f->lock);
		if (f->req->done)
			f->req->done(f->req->ctx, i);
	}
	for (size_t i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
}

static int check(const struct host_fork *req, struct err *e)
{
	if (req->n < 1 || req->n > HOST_FORK_MAX)
		return err_set(e, ERR_INVALID, "count: must be from 1 to %u", HOST_FORK_MAX);
	for (size_t i = 0; i < req->n; i++)
		if (!id_is_sandbox(req->children[i].id) || !id_is_uuid(req->children[i].op_id))
			return err_set(e, ERR_INVALID, "bad id of child %zu", i);
	return 0;
}

struct source_of_fork {
	struct checkpoint checkpoint; // first: its steps are this operation's
	const struct host_fork *req;
};

// Before the guest is stopped: no child of a fork would come up.
static int check_room(struct host *h, size_t n, const struct host_sandbox *one, struct err *e)
{
	uint64_t pauses = h->pause_room ? n * ((uint64_t)one->memory_mb << 20) : 0;
	int rc = space_check(h, "fork", pauses, e);
	if (rc < 0)
		return rc;
	struct promise_limits limits;
	promise_limits(h, &limits);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	unsigned live = host_live(h);
	if (live + n <= h->max_sandboxes)
		return promise_check(h, &limits, one, n, true, e);
	return err_set(e, ERR_LIMIT,
		"this host runs %u sandboxes and its limit is %u (serve --max-sandboxes): there is "
		"no room for %zu more",
		live, h->max_sandboxes, n);
}

static int prepare(struct operation *o, struct err *e)
{
	const struct source_of_fork *f = o->work;
	int rc = check_room(o->h, f->req->n, &o->s->info, e);
	return rc < 0 ? rc : checkpoint_prepare(o, e);
}

static int steps(struct operation *o, struct err *e)
{
	const struct source_of_fork *f = o->work;
	int rc = checkpoint_steps(o, e);
	if (rc < 0)
		return rc;
	o->event = "forked";
	json_object_set_new(o->data, "count", json_integer((json_int_t)f->req->n));
	return 0;
}

static const struct operation_kind fork_kind = {.name = "fork",
	.from = 1u << SANDBOX_RUNNING | 1u << SANDBOX_PAUSED,
	.during = SANDBOX_STATE_MAX,
	.failed = "fork_failed",
	.prepare = prepare,
	.steps = steps,
	.undo = checkpoint_undo,
	.done = checkpoint_done};

// The source of the children, in f->snapshot.
static int capture_source(struct fork *f, struct operation *o, struct err *e)
{
	struct source_of_fork w = {.checkpoint.kind = "checkpoint", .req = f->req};
	int rc = operation_do(o, &w, e);
	memcpy(f->snapshot, w.checkpoint.capture.snapshot, sizeof f->snapshot);
	return rc;
}

static int check_source(struct host *h, const char *snapshot, struct err *e)
{
	struct source src = {0};
	int rc = source_open(h, snapshot, true, &src, e);
	if (rc == 0)
		rc = source_refuse_unquiesced(&src, "fork", e);
	source_done(&src);
	return rc;
}

int host_fork(struct host *h, struct host_fork *req, struct err *e)
{
	struct err local = {0};
	struct host_sandbox info;
	struct operation o;
	struct fork f = {.h = h, .req = req, .asked_ns = clock_monotonic_ns()};
	if (!e)
		e = &local;
	int rc = check(req, e);
	if (rc == 0)
		rc = operation_claim(&o, h, &fork_kind, req->op_id, req->id, &info, e);
	if (rc < 0)
		return rc;
	if (rc == 1)
		return err_set(e, ERR_CONFLICT,
			"this fork was done before: its children are in the list of sandboxes");
	snprintf(f.template, sizeof f.template, "%s", o.s->info.template);
	if (o.s->dns_own)
		snprintf(f.dns, sizeof f.dns, "%s", o.s->info.dns);
	bool running = o.s->info.state == SANDBOX_RUNNING;
	if (running) {
		rc = capture_source(&f, &o, e);
		operation_release(&o, NULL);
	} else if ((rc = check_room(h, req->n, &o.s->info, e)) < 0 ||
		   (rc = check_source(h, o.s->info.snapshot, e)) < 0 ||
		   (rc = store_op_begin(h, o.id, "fork", req->id, NULL, NULL, NULL, e)) < 0) {
		operation_release(&o, NULL);
	} else {
		memcpy(f.snapshot, o.s->info.snapshot, sizeof f.snapshot);
	}
	if (rc < 0)
		return rc;
	pthread_mutex_init(&f.lock, NULL);
	pthread_cond_init(&f.changed, NULL);
	make_children(&f);
	pthread_mutex_destroy(&f.lock);
	pthread_cond_destroy(&f.changed);
	struct err why = {0};
	const struct store_change c = {.drop = f.snapshot};
	if (running && store_apply(h, &c, &why) < 0)
		log_warn("checkpoint is kept for now snapshot=%s error=%s", f.snapshot, why.text);
	if (!running) { // held until its children have read it
		store_op_end(h, o.id, req->id, NULL);
		operation_release(&o, NULL);
	}
	pthread_mutex_lock(&h->lock);
	h->forks++;
	pthread_mutex_unlock(&h->lock);
	return 0;
}
