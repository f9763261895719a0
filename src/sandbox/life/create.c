// SPDX-License-Identifier: Apache-2.0
// How a sandbox is made. On any error all that was made is freed and the row goes. A create that
// has to wait for its turn has its row in the table and what it is made of in use, and nothing
// else.
#include "sandbox/life/create.h"
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "disk/disk.h"
#include "sandbox/life/free.h"
#include "sandbox/life/operation.h"
#include "sandbox/life/origin.h"
#include "sandbox/machine/agent_program.h"
#include "sandbox/machine/console.h"
#include "sandbox/machine/machine.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/promise.h"
#include "sandbox/table/state.h"
#include "sandbox/table/turn.h"
#include "sandbox/table/space.h"

struct create {
	const struct host_create *req;
	struct origin origin;
};

static int prepare(struct operation *o, struct err *e)
{
	return space_start(o->h, "create", o->s, e);
}

static bool is_ending(struct host *h, const struct sandbox *s)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	return s->ending || s->removed;
}

// The frozen machine of an image was not taken: the image itself is there, and boots. What was made
// is freed first; the phases of the failure become one.
static int boot_instead(struct operation *o, struct create *c, const struct machine_plan *failed,
	unsigned n_phases, int rc, struct err *e)
{
	struct sandbox *s = o->s;
	struct machine_plan plan = *failed;
	log_warn("frozen image not used sandbox=%s template=%s error=%s", s->info.id,
		c->origin.img.name, e->text);
	source_drop_prewarmed(o->h, c->origin.src.info.id);
	if (sandbox_free(o->h, s, FREE_ALL, FREE_MS) < 0)
		return rc;
	pthread_mutex_lock(&o->h->lock);
	s->has_files = true;
	pthread_mutex_unlock(&o->h->lock);
	s->info.n_phases = n_phases;
	sandbox_phase(&s->info, "refused", &o->at_ns);
	*e = (struct err){0};
	plan.img = &c->origin.img;
	plan.src = NULL;
	plan.ret_refused = NULL;
	return machine_up(o->h, s, &plan, &o->at_ns, e);
}

static int steps(struct operation *o, struct err *e)
{
	struct create *c = o->work;
	const struct origin *from = &c->origin;
	struct sandbox *s = o->s;
	bool refused = false;
	unsigned n_phases = s->info.n_phases;
	const struct machine_plan plan = {.operation = "create",
		.img = from->boots ? &from->img : NULL,
		.src = from->boots ? NULL : &from->src,
		.token = c->req->token,
		.replaces_dns = o->s->dns_own && !c->req->is_child,
		.env = c->req->env,
		.ret_refused = &refused};
	int rc = machine_up(o->h, s, &plan, &o->at_ns, e);
	if (rc < 0 && refused && !c->req->snapshot[0] && !is_ending(o->h, s))
		rc = boot_instead(o, c, &plan, n_phases, rc, e);
	if (rc < 0)
		return rc;
	// The first sandbox of a template leaves it what it touched.
	if (str_eq(s->info.backend, "uffd") && !from->src.working_set)
		snprintf(s->harvest, sizeof s->harvest, "%s", from->src.info.id);
	o->next = *s;
	sandbox_move(&o->next.info, SANDBOX_RUNNING, o->id);
	o->next.info.started_ns = clock_realtime_ns();
	o->next.info.ends_at_ns = turn_ends_at(c->req->ends_at_ns, o->asked_ns);
	o->change.sets_time = true;
	o->event = "running";
	o->data = json_pack("{s:s}", "backend", s->info.backend);
	agent_program_note(s, o->data);
	return 0;
}

static void undo(struct operation *o, const struct err *why)
{
	if (!o->data)
		o->data = console_event(o->h, o->s->info.id);
	sandbox_free(o->h, o->s, FREE_ALL, FREE_MS);
	o->next = *o->s;
	sandbox_move(&o->next.info, SANDBOX_STOPPED, "create failed");
	o->next.info.stopped_ns = clock_realtime_ns();
	o->next.info.address[0] = o->next.info.backend[0] = '\0';
	snprintf(o->next.info.cause, sizeof o->next.info.cause, "create_failed");
}

static const struct operation_kind create_kind = {.name = "create",
	.during = SANDBOX_STATE_MAX,
	.failed = "create_failed",
	.prepare = prepare,
	.steps = steps,
	.undo = undo};

// host.lock held. A failed create leaves nothing, so the same sandbox may be made anew as soon as
// what was made of it is free: *ret is then NULL. Otherwise what is there of that id.
static int wait_failed(struct host *h, const char *id, const struct sandbox **ret, struct err *e)
{
	uint64_t until = deadline_in_ms(FREE_MS);
	while ((*ret = host_find(h, id)) && sandbox_is_no_create(&(*ret)->info))
		if (cond_wait_until(&h->changed, &h->lock, until) < 0)
			return err_set(e, ERR_UNAVAILABLE,
				"sandbox '%s' could not be made, and is not free yet: try again",
				id);
	return 0;
}

int create_insert(struct host *h, const struct operation_kind *kind, const char *op_id,
	const struct host_sandbox *info, bool hidden, struct operation *ret_o,
	struct host_sandbox *ret, struct err *e)
{
	_cleanup_free_ struct sandbox *s = calloc(1, sizeof *s);
	if (!s)
		return err_errno(e, ENOMEM, "sandbox");
	s->pidfd = -1;
	s->has_files = true;
	s->info = *info;
	s->hidden = hidden;
	s->operation = kind->name;
	snprintf(s->op_id, sizeof s->op_id, "%s", op_id);
	struct promise_limits limits;
	promise_limits(h, &limits);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	const struct sandbox *old;
	while ((old = host_find(h, info->id)) && old->operation && str_eq(old->op_id, op_id))
		pthread_cond_wait(&h->changed, &h->lock);
	if (old && str_eq(old->op_id, op_id)) {
		*ret = old->info;
		return 1;
	}
	// Of another operation: a server that was killed, or a caller that begins anew.
	int rc = wait_failed(h, info->id, &old, e);
	if (rc < 0)
		return rc;
	if (old)
		return err_set(e, ERR_CONFLICT, "sandbox '%s' exists", info->id);
	if (host_is_unknown(h, UNKNOWN_SANDBOXES, info->id) ||
		host_is_unknown(h, UNKNOWN_SHIMS, info->id))
		return err_set(e, ERR_CONFLICT,
			"there is something of a sandbox '%s' that this host does not know of: see "
			"'stasis du --unknown'",
			info->id);
	if (host_live(h) >= h->max_sandboxes)
		return err_set(e, ERR_LIMIT,
			"this host runs %u sandboxes, its limit (serve --max-sandboxes)",
			h->max_sandboxes);
	rc = hidden ? 0 : promise_check(h, &limits, info, 1, true, e);
	if (rc < 0)
		return rc;
	*ret_o = (struct operation){.h = h, .kind = kind, .s = s, .asked_ns = clock_monotonic_ns()};
	snprintf(ret_o->id, sizeof ret_o->id, "%s", op_id);
	sandbox_set_end(s, 0);
	host_insert(h, TAKE_PTR(s));
	return 0;
}

void create_forget(struct operation *o)
{
	struct host *h = o->h;
	pthread_mutex_lock(&h->lock);
	bool ending = o->s->ending;
	pthread_mutex_unlock(&h->lock);
	if (ending) // a destroy waits for it
		operation_release(o, NULL);
	else
		sandbox_forget(h, o->s);
}

// 1 with *ret filled: this very operation was done before. One that failed may be tried again.
static int told_before(
	struct host *h, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	int rc = operation_told(h, req->op_id, req->id, e);
	if (rc <= 0)
		return rc;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	const struct sandbox *s = host_find(h, req->id);
	bool failed = s && sandbox_is_no_create(&s->info);
	if (failed && (rc = wait_failed(h, req->id, &s, e)) < 0)
		return rc;
	if (failed && !s)
		return 0;
	if (s)
		*ret = s->info;
	return s ? 1
		 : err_set(e, ERR_CONFLICT, "sandbox '%s' was made by this operation and is gone",
			   req->id);
}

// What it boots from may have been built anew meanwhile; what it is loaded from is in use.
static int wait_for_turn(struct operation *o, struct create *c, struct err *e)
{
	struct host_sandbox now;
	int rc = turn_wait(o->h, o->s, e);
	if (rc < 0 || !c->origin.boots)
		return rc;
	origin_done(&c->origin);
	if ((rc = origin_find(o->h, c->req, &c->origin, &now, e)) < 0)
		return rc;
	pthread_mutex_lock(&o->h->lock);
	o->s->info.vcpus = now.vcpus;
	o->s->info.memory_mb = now.memory_mb;
	o->s->info.disk_mb = now.disk_mb;
	pthread_mutex_unlock(&o->h->lock);
	return 0;
}

static int create_claimed(struct operation *o, struct create *c, struct err *e)
{
	struct host *h = o->h;
	pthread_mutex_lock(&h->lock);
	bool turn = turn_join(h, o->s);
	pthread_mutex_unlock(&h->lock);
	int rc = turn ? 0 : wait_for_turn(o, c, e);
	if (rc == 0)
		rc = operation_do(o, c, e);
	gate_leave(&h->gate, &o->s->ticket);
	pthread_mutex_lock(&h->lock);
	h->creates += rc == 0;
	h->create_failures += rc < 0;
	pthread_mutex_unlock(&h->lock);
	return rc;
}

int create_sandbox(
	struct host *h, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	struct create c = {.req = req};
	struct operation o = {0};
	struct host_sandbox info;
	struct volume_info volume;
	struct err local = {0};
	if (!e)
		e = &local;
	int rc = told_before(h, req, ret, e);
	if (rc == 0)
		rc = volume_open(h->data_dir, &volume, e);
	if (rc == 0)
		rc = origin_find(h, req, &c.origin, &info, e);
	if (rc == 0)
		rc = create_insert(h, &create_kind, req->op_id, &info, false, &o, ret, e);
	if (rc == 0) // claimed: nobody else has it
		o.s->dns_own = req->dns[0] != '\0';
	if (rc == 0 && (rc = create_claimed(&o, &c, e)) == 0)
		operation_release(&o, ret);
	else if (rc < 0 && o.h)
		create_forget(&o);
	origin_done(&c.origin);
	return MIN(rc, 0);
}

int host_create(
	struct host *h, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	return create_sandbox(h, req, ret, e);
}
