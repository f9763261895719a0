// SPDX-License-Identifier: Apache-2.0
// How a sandbox is made. The journal entry comes before the first side effect; on any error
// sandbox_free_resources undoes whatever was made and the row goes. A server killed in between
// finds the open journal entry at its next start and does the same (recover.c).
//
// A create that has to wait for its turn does so with its row in the table alone; what it is made
// of is looked up again after that, for it may have been replaced, and its layers collected.
//
// From a base image it is loaded from that image's frozen machine (freeze.c); it boots where there
// is none yet, where another size is asked for, or when told to.
#include <string.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "disk/disk.h"
#include "disk/image.h"
#include "sandbox/life/create.h"
#include "sandbox/life/end.h"
#include "sandbox/machine/machine.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/state.h"
#include "sandbox/table/turn.h"

// What a new sandbox is made of; exactly one of the two is the machine's origin.
struct origin {
	bool boots;
	struct image_info img;
	struct source src;
};

static void origin_done(struct origin *o)
{
	source_done(&o->src);
}

static int from_image(struct host *h, const struct host_create *req, struct origin *o,
	struct host_sandbox *i, struct err *e)
{
	const struct image_info *img = &o->img;
	char frozen[UUID_SIZE] = "";
	int rc = image_load(h->data_dir, req->template, &o->img, e);
	if (rc < 0)
		return rc;
	i->vcpus = req->vcpus ? req->vcpus : img->vcpus;
	i->memory_mb = req->memory_mb ? req->memory_mb : (unsigned)img->memory_mb;
	i->disk_mb = req->disk_mb ? req->disk_mb : img->disk_mb;
	if (i->memory_mb < img->min_memory_mb)
		return err_set(e, ERR_INVALID, "memory_mb: template '%s' needs at least %u",
			img->name, (unsigned)img->min_memory_mb);
	if (i->disk_mb < img->disk_mb)
		return err_set(e, ERR_INVALID, "disk_mb: template '%s' needs at least %lu",
			img->name, img->disk_mb);
	o->boots = req->cold || i->vcpus != img->vcpus || i->memory_mb != img->memory_mb;
	if (o->boots)
		return 0;
	if ((rc = source_find_prewarmed(h, img, frozen, e)) < 0)
		return rc;
	if (!frozen[0]) {
		o->boots = true;
		upkeep_wake(h); // the next one need not
		return 0;
	}
	struct err why = {0};
	rc = source_open(h, frozen, false, &o->src, &why);
	if (rc < 0) { // damaged: the image itself is still there
		log_warn("frozen image not used template=%s error=%s", img->name, why.text);
		o->boots = true;
	}
	return 0;
}

static int from_snapshot(struct host *h, const struct host_create *req, struct origin *o,
	struct host_sandbox *i, struct err *e)
{
	int rc = source_open(h, req->snapshot, false, &o->src, e);
	if (rc < 0)
		return rc;
	const struct host_snapshot *r = &o->src.row.info;
	i->vcpus = r->vcpus;
	i->memory_mb = r->memory_mb;
	i->disk_mb = req->disk_mb ? req->disk_mb : r->disk_mb;
	if ((req->vcpus && req->vcpus != i->vcpus) ||
		(req->memory_mb && req->memory_mb != i->memory_mb))
		return err_set(e, ERR_INVALID,
			"vcpus and memory_mb: a snapshot has what it was taken with, %u and %u",
			i->vcpus, i->memory_mb);
	if (i->disk_mb < r->disk_mb)
		return err_set(
			e, ERR_INVALID, "disk_mb: the snapshot needs at least %lu", r->disk_mb);
	return 0;
}

static int find_origin(struct host *h, const struct host_create *req, struct origin *o,
	struct host_sandbox *ret, struct err *e)
{
	struct host_sandbox i = {.state = SANDBOX_PENDING,
		.generation = 1,
		.created_ns = clock_realtime_ns(),
		.ends_at_ns = req->ends_at_ns,
		.on_timeout = req->on_timeout};
	if (!id_is_sandbox(req->id) || !id_is_uuid(req->op_id) ||
		(req->snapshot[0] && !id_is_uuid(req->snapshot)))
		return err_set(e, ERR_INVALID, "bad sandbox, snapshot or operation id");
	int rc = req->snapshot[0] ? from_snapshot(h, req, o, &i, e) : from_image(h, req, o, &i, e);
	if (rc == 0)
		rc = machine_check_size(&i, e);
	if (rc < 0)
		return rc;
	snprintf(i.id, sizeof i.id, "%s", req->id);
	snprintf(i.template, sizeof i.template, "%s", req->template);
	*ret = i;
	return 0;
}

// After a wait. What the machine will be like follows the image, which may have been built anew.
static int find_again(struct host *h, const struct host_create *req, struct origin *o,
	struct sandbox *s, struct err *e)
{
	struct host_sandbox now;
	origin_done(o);
	*o = (struct origin){0};
	int rc = find_origin(h, req, o, &now, e);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&h->lock);
	s->info.vcpus = now.vcpus;
	s->info.memory_mb = now.memory_mb;
	s->info.disk_mb = now.disk_mb;
	pthread_mutex_unlock(&h->lock);
	return 0;
}

// Claims the id in the table. 1 with *ret filled when this very operation was done before.
static int claim(struct host *h, const struct host_create *req, const struct host_sandbox *info,
	bool hidden, struct sandbox **ret_s, struct host_sandbox *ret, struct err *e)
{
	_cleanup_free_ struct sandbox *s = calloc(1, sizeof *s);
	if (!s)
		return err_errno(e, ENOMEM, "sandbox");
	s->pidfd = -1;
	s->info = *info;
	s->hidden = hidden;
	s->operation = "create";
	snprintf(s->op_id, sizeof s->op_id, "%s", req->op_id);
	int rc = 0;
	pthread_mutex_lock(&h->lock);
	struct sandbox *old;
	while ((old = host_find(h, req->id)) && old->operation && str_eq(old->op_id, req->op_id))
		pthread_cond_wait(&h->changed, &h->lock);
	if (old && str_eq(old->op_id, req->op_id)) {
		*ret = old->info;
		rc = 1;
	} else if (old) {
		rc = err_set(e, ERR_CONFLICT, "sandbox '%s' exists", req->id);
	} else if (host_live(h) >= h->max_sandboxes) {
		rc = err_set(e, ERR_LIMIT,
			"this host runs %u sandboxes, its limit (serve --max-sandboxes)",
			h->max_sandboxes);
	} else {
		host_insert(h, s);
		*ret_s = TAKE_PTR(s);
	}
	pthread_mutex_unlock(&h->lock);
	return rc;
}

// All steps with side effects. s->info and s are written by this thread only: the sandbox is
// claimed.
static int build(struct host *h, const struct host_create *req, struct sandbox *s,
	const struct origin *o, const char *hidden, uint64_t asked, struct err *e)
{
	uint64_t t = clock_monotonic_ns(), started = t;
	int rc = store_op_begin(h, req->op_id, "create", s, hidden, e);
	if (rc < 0 || (rc = fault_hit("create.after_journal", e)) < 0)
		return rc;
	sandbox_phase(&s->info, "journal", &t);
	const struct machine_plan plan = {.operation = "create",
		.img = o->boots ? &o->img : NULL,
		.src = o->boots ? NULL : &o->src,
		.token = req->token,
		.env = req->env};
	if ((rc = machine_up(h, s, &plan, &t, e)) < 0 ||
		(rc = fault_hit("create.before_commit", e)) < 0)
		return rc;
	if (hidden)
		return 0;
	// The first sandbox of a template leaves it what it touched.
	if (str_eq(s->info.backend, "uffd") && !o->src.working_set)
		snprintf(s->harvest, sizeof s->harvest, "%s", o->src.info.id);

	struct sandbox done = *s;
	sandbox_move(&done.info, SANDBOX_RUNNING, req->op_id);
	done.info.started_ns = clock_realtime_ns();
	done.info.ends_at_ns = turn_ends_at(req->ends_at_ns, asked);
	_cleanup_(json_decrefp) json_t *data = json_pack("{s:I, s:s, s:o}", "duration_us",
		(json_int_t)((clock_monotonic_ns() - started) / 1000), "backend", done.info.backend,
		"phases", sandbox_phases_json(&done.info));
	struct store_event ev = {.kind = "running", .data = data};
	if ((rc = store_commit(h, req->op_id, &done, &ev, e)) < 0)
		return err_prefix(e, rc, "commit");
	sandbox_phase(&done.info, "commit", &t);
	pthread_mutex_lock(&h->lock);
	s->info = done.info;
	h->creates++;
	monitor_watch(h, s);
	pthread_mutex_unlock(&h->lock);
	return 0;
}

// What could not be freed keeps its row and its open journal entry: the next start tries again.
static void undo(struct host *h, struct sandbox *s, const char *why)
{
	struct err e = {0};
	_cleanup_(json_decrefp) json_t *data =
		json_pack("{s:s%}", "error", why, MIN(strlen(why), (size_t)400));
	struct store_event ev = {.kind = "create_failed", .cause = "create_failed", .data = data};
	if (sandbox_free_resources(h, s, false) == 0 && store_forget(h, s->info.id, &ev, &e) < 0)
		log_error("journal not closed sandbox=%s error=%s", s->info.id, e.text);
	gate_leave(&h->gate, &s->ticket);
	pthread_mutex_lock(&h->lock);
	h->create_failures++;
	host_release(h, s);
	host_remove(h, s);
	pthread_mutex_unlock(&h->lock);
}

// 1 with *ret filled: this very operation was done before. A failed create leaves nothing, so it
// may be tried again.
static int told_before(
	struct host *h, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	int rc = operation_told(h, req->op_id, req->id, e);
	if (rc <= 0)
		return rc;
	pthread_mutex_lock(&h->lock);
	const struct sandbox *s = host_find(h, req->id);
	if (s)
		*ret = s->info;
	pthread_mutex_unlock(&h->lock);
	return s ? 1
		 : err_set(e, ERR_CONFLICT, "sandbox '%s' was made by this operation and is gone",
			   req->id);
}

int create_sandbox(struct host *h, const struct host_create *req, const char *hidden,
	struct host_sandbox *ret, struct err *e)
{
	_cleanup_(origin_done) struct origin o = {0};
	struct host_sandbox info;
	struct volume_info volume;
	struct sandbox *s = NULL;
	struct err local = {0};
	uint64_t asked = clock_monotonic_ns();
	bool turn = true;
	if (!e)
		e = &local;
	int rc = told_before(h, req, ret, e);
	if (rc == 0)
		rc = volume_open(h->data_dir, &volume, e);
	if (rc != 0)
		return MIN(rc, 0);
	// From here until the jail has opened them, the layers named in a header read must stay.
	pthread_rwlock_rdlock(&h->layers_lock);
	rc = find_origin(h, req, &o, &info, e);
	if (rc == 0)
		rc = claim(h, req, &info, hidden != NULL, &s, ret, e);
	if (s && !hidden) {
		pthread_mutex_lock(&h->lock);
		turn = turn_join(h, s);
		pthread_mutex_unlock(&h->lock);
	}
	if (!turn) {
		pthread_rwlock_unlock(&h->layers_lock);
		rc = turn_wait(h, s, e);
		pthread_rwlock_rdlock(&h->layers_lock);
		if (rc == 0)
			rc = find_again(h, req, &o, s, e);
	}
	if (o.boots || rc != 0)
		pthread_rwlock_unlock(&h->layers_lock);
	if (rc == 0) {
		rc = build(h, req, s, &o, hidden, asked, e);
		if (!o.boots)
			pthread_rwlock_unlock(&h->layers_lock);
	}
	if (rc == 0 && s) {
		gate_leave(&h->gate, &s->ticket);
		pthread_mutex_lock(&h->lock);
		*ret = s->info;
		if (!hidden)
			host_release(h, s);
		pthread_mutex_unlock(&h->lock);
		monitor_wake(h);
		if (!o.boots)
			upkeep_wake(h); // to take the record
		return 0;
	}
	if (!s)
		return rc < 0 ? rc : 0;
	log_warn("create failed sandbox=%s error=%s", req->id, err_text(e, rc));
	undo(h, s, err_text(e, rc));
	return rc;
}

int host_create(
	struct host *h, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	return create_sandbox(h, req, NULL, ret, e);
}
