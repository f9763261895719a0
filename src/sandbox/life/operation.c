// SPDX-License-Identifier: Apache-2.0
// The runner: operation.h says what it does, in the order of operation_do.
#include "sandbox/life/operation.h"
#include <string.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/json.h"
#include "sandbox/life/silent.h"
#include "sandbox/life/still.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/claim.h"
#include "sandbox/table/state.h"

json_t *operation_error(const struct err *why)
{
	return json_pack("{s:s%}", "error", why->text, MIN(strlen(why->text), (size_t)400));
}

void operation_phase(struct operation *o, const char *name)
{
	sandbox_phase(&o->s->info, name, &o->at_ns);
}

static int fault_at(const struct operation *o, const char *step, struct err *e)
{
	char name[64];
	snprintf(name, sizeof name, "%s.%s", o->kind->name, step);
	return fault_hit(name, e);
}

// Whether a destroy wants it to end.
static bool is_ending(const struct operation *o)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&o->h->lock);
	return o->s->ending || o->s->removed;
}

int operation_claim(struct operation *o, struct host *h, const struct operation_kind *kind,
	const char *op_id, const char *id, struct host_sandbox *ret, struct err *e)
{
	*o = (struct operation){.h = h, .kind = kind, .asked_ns = clock_monotonic_ns()};
	snprintf(o->id, sizeof o->id, "%s", op_id);
	return sandbox_claim(h, op_id, id, kind->name, kind->from, &o->s, ret, e);
}

// The row of the operation under way. Nothing was touched before it is durable.
static int begin(struct operation *o, struct err *e)
{
	struct sandbox *s = o->s;
	struct sandbox row;
	pthread_mutex_lock(&o->h->lock);
	struct host_sandbox before = s->info;
	bool ending = s->ending || s->removed;
	if (!ending && o->kind->during != SANDBOX_STATE_MAX)
		sandbox_move(&s->info, o->kind->during, o->id);
	row = *s;
	pthread_mutex_unlock(&o->h->lock);
	if (ending)
		return err_set(e, ERR_CONFLICT, "sandbox '%s' is being removed", s->info.id);
	row.full_next = o->full_next;
	int rc = o->layer[0] ? refs_hold_layer(o->h->refs, o->layer) : 0;
	if (rc < 0)
		err_errno(e, rc, "layer");
	else
		rc = store_op_begin(
			o->h, o->id, o->kind->name, s->info.id, &row, o->journal, o->layer, e);
	if (rc < 0) {
		pthread_mutex_lock(&o->h->lock);
		if (!s->removed) {
			s->info.state = before.state;
			s->info.generation = before.generation;
		}
		pthread_mutex_unlock(&o->h->lock);
	}
	return rc;
}

static json_t *event_data(struct operation *o, const struct err *failed)
{
	json_t *data = o->data ? json_incref(o->data) : json_object();
	if (failed)
		json_object_update_new(data, operation_error(failed));
	if (o->next.info.agent_silent)
		json_object_set_new(data, "agent", json_string("silent"));
	json_object_set_new(data, "duration_us",
		json_integer((json_int_t)((clock_monotonic_ns() - o->began_ns) / 1000)));
	json_object_set_new(data, "phases", sandbox_phases_json(&o->next.info));
	return data;
}

// next becomes the row and the sandbox.
static int commit(struct operation *o, const struct err *failed, struct err *e)
{
	struct sandbox *s = o->s;
	_cleanup_json_ json_t *data = event_data(o, failed);
	const struct store_event ev = {.kind = failed ? o->kind->failed : o->event,
		.cause = failed ? o->kind->failed : o->cause,
		.data = data,
		.failed = failed};
	struct store_change c = o->change;
	c.op_id = o->id;
	c.row = &o->next;
	c.event = &ev;
	int rc = store_apply(o->h, &c, e);
	if (rc < 0)
		return rc;
	sandbox_phase(&o->next.info, "commit", &o->at_ns);
	pthread_mutex_lock(&o->h->lock);
	uint64_t ends_at = s->info.ends_at_ns;
	enum on_timeout on_timeout = s->info.on_timeout;
	bool removed = s->removed; // meanwhile, by a destroy that had the last word
	if (!removed)
		s->info = o->next.info;
	s->owed = o->next.owed;
	s->full_next = o->next.full_next;
	if (!removed)
		s->info.on_timeout = on_timeout;
	if (c.sets_time && !removed)
		sandbox_set_end(s, o->next.info.ends_at_ns);
	else if (!removed)
		s->info.ends_at_ns = ends_at;
	pthread_mutex_unlock(&o->h->lock);
	o->succeeded = !failed;
	return 0;
}

static void fail(struct operation *o, struct err *why)
{
	struct err e = {0};
	if (is_ending(o)) {
		*why = (struct err){0};
		err_set(why, ERR_CONFLICT, "sandbox '%s' was removed during the %s", o->s->info.id,
			o->kind->name);
		return;
	}
	o->change = (struct store_change){0};
	o->next = *o->s;
	if (o->kind->undo)
		o->kind->undo(o, why);
	if (commit(o, why, &e) == 0)
		return;
	log_error("failure not recorded operation=%s sandbox=%s error=%s", o->kind->name,
		o->s->info.id, e.text);
	pthread_mutex_lock(&o->h->lock);
	if (!o->s->removed)
		o->s->info = o->next.info;
	o->s->full_next = o->next.full_next || o->full_next; // as the row says
	pthread_mutex_unlock(&o->h->lock);
}

int operation_do(struct operation *o, void *work, struct err *e)
{
	const struct operation_kind *k = o->kind;
	o->work = work;
	o->began_ns = o->at_ns = clock_monotonic_ns();
	o->full_next = o->s->full_next;
	int rc = k->prepare ? k->prepare(o, e) : 0;
	if (rc == 0)
		rc = begin(o, e);
	if (rc < 0)
		goto done;
	operation_phase(o, "journal");
	o->next = *o->s;
	rc = fault_at(o, "after_journal", e);
	if (rc == 0)
		rc = k->steps(o, e);
	if (rc == 0)
		rc = fault_at(o, "before_commit", e);
	if (rc == 0 && (rc = commit(o, NULL, e)) < 0)
		err_prefix(e, rc, "commit");
	if (rc < 0)
		fail(o, e);
	else if (k->finish)
		k->finish(o);
done:
	if (k->done)
		k->done(o);
	if (o->layer[0])
		refs_release_layer(o->h->refs, o->layer);
	json_decref(o->data);
	o->data = NULL;
	if (rc < 0)
		log_warn("%s failed sandbox=%s error=%s", k->name, o->s->info.id, err_text(e, rc));
	else
		log_info("%s done sandbox=%s", k->name, o->s->info.id);
	return rc;
}

void operation_release(struct operation *o, struct host_sandbox *ret)
{
	struct host *h = o->h;
	struct sandbox *s = o->s;
	pthread_mutex_lock(&h->lock);
	if (ret)
		*ret = s->info;
	host_release(h, s);
	if (s->info.state == SANDBOX_ERROR && !s->freeing)
		still_retry(h, s, false);
	silent_ask(h, s);
	pthread_mutex_unlock(&h->lock);
	monitor_wake(h);
	upkeep_wake(h);
}

int operation_run(struct host *h, const struct operation_kind *kind, const char *op_id,
	const char *id, void *work, struct host_sandbox *ret, struct err *e)
{
	struct operation o;
	struct host_sandbox info;
	int rc = operation_claim(&o, h, kind, op_id, id, ret ? ret : &info, e);
	if (rc != 0)
		return MIN(rc, 0);
	rc = operation_do(&o, work, e);
	operation_release(&o, ret);
	return rc;
}
