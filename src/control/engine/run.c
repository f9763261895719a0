// SPDX-License-Identifier: Apache-2.0
#include "control/engine/run.h"
#include <string.h>
#include "base/fault.h"
#include "base/log.h"
#include "base/request_id.h"
#include "control/engine/fork.h"
#include "control/engine/kinds.h"
#include "control/engine/timings.h"
#include "control/state/event_log.h"
#include "control/state/render.h"
#include "base/json.h"

struct ending {
	struct engine *en;
	struct task *t;
};

// --- begin

static int write_begin(void *ctx, struct db *db, struct err *e)
{
	struct ending *x = ctx;
	int rc = db_run_also(db, x->t->first, e);
	return rc == 0 ? operations_insert(db, &x->t->op, e) : rc;
}

// For what is open in memory; the transaction reads it again.
static void find_snapshot(struct engine *en, struct task *t)
{
	struct template old;
	if (t->op.kind == OPERATION_SNAPSHOT_DELETE &&
		templates_get(en->db, task_text(t, "name"), &old, NULL) == 0)
		memcpy(t->op.snapshot, old.snapshot, sizeof t->op.snapshot);
}

static int write_first(
	struct engine *en, struct task *t, const struct row_new *new, size_t n, struct err *e)
{
	struct ending x = {en, t};
	const struct db_also also = {write_begin, &x};
	int rc = fault_hit("control.before_begin", e);
	if (rc < 0)
		return rc;
	return kind_begin(en, t, new, n, &also, e);
}

int engine_begin(
	struct engine *en, struct task *t, const struct row_new *new, size_t n, struct err *e)
{
	int rc = kind_rules(t).waits ? engine_settle_on(en, t->op.sandbox, e) : 0;
	if (rc < 0)
		return rc;
	if (t->op.kind != OPERATION_CREATE && t->op.sandbox[0] && !t->row)
		t->row = rows_get(en->rows, t->op.sandbox);
	find_snapshot(en, t);
	if (!t->op.owner[0])
		snprintf(t->op.owner, sizeof t->op.owner, "%s",
			t->row		  ? t->row->owner
			: n && new->owner ? new->owner
					  : "");
	en->new_uuid(en->ctx, t->op.id);
	t->op.created_ns = en->now_ns(en->ctx);
	t->op.state = OPERATION_OPEN;
	snprintf(t->op.request_id, sizeof t->op.request_id, "%s", request_id_current());
	rc = underway_activate(en->underway, &t->op, e);
	if (rc == 0)
		rc = write_first(en, t, new, n, e);
	if (rc < 0) {
		underway_ended(en->underway, t->op.id);
		return rc;
	}
	task_set(t, OUTCOME_OPEN);
	fault_hit("control.after_begin", NULL);
	return 0;
}

// --- ask

static bool is_overtaken(const struct engine *en, const struct task *t)
{
	return kind_rules(t).yields && en->guards->overtaken(t);
}

void engine_ask(struct engine *en, struct task *t)
{
	const struct kind_rules rules = kind_rules(t);
	t->e = (struct err){0};
	if (is_overtaken(en, t))
		return; // engine_finish gives it up
	int rc = rules.looks_first || task_may_ask(en, t) ? kind_ask(en, t) : task_too_old(t);
	if (rules.tells)
		t->has_info = rc == 0;
	if (rc < 0 && !err_is_set(&t->e))
		err_errno(&t->e, rc, "host");
	if (t->outcome != OUTCOME_OPEN)
		return;
	bool unknown = rc < 0 && (hostagent_lost(&t->e) || task_is_no_word(en, t));
	task_set(t, rc == 0 ? OUTCOME_DONE : unknown ? OUTCOME_UNKNOWN : OUTCOME_REFUSED);
}

// --- the end of it, in the transaction of its effect

static bool leaves_key_free(const struct task *t)
{
	return kind_rules(t).retries && !task_is_done(t) &&
	       (t->e.code == ERR_LIMIT || t->e.code == ERR_NO_SPACE ||
		       t->e.code == ERR_UNAVAILABLE || t->e.code == ERR_TIMEOUT);
}

static int keep_answer(const struct engine *en, struct task *t, struct err *e)
{
	_cleanup_json_ json_t *body = en->answer ? en->answer(t, &t->op.status) : NULL;
	free(t->op.answer);
	t->op.answer = NULL;
	if (body && !(t->op.answer = json_compact(body)))
		return err_errno(e, ENOMEM, "answer");
	return 0;
}

// Of what the control plane does by itself: told once, whoever brings it to its end.
static int write_event(struct task *t, struct db *db, struct err *e)
{
	json_t *data = json_object_get(t->op.request, "tells");
	struct host_event ev = {.at_ns = t->op.ended_ns, .kind = "retention_removed", .data = data};
	if (!data || t->op.state != OPERATION_DONE)
		return 0;
	snprintf(ev.sandbox, sizeof ev.sandbox, "%s", t->op.sandbox);
	snprintf(ev.cause, sizeof ev.cause, "%s", task_text(t, "rule"));
	return event_log_add(db, &ev, &t->event, e);
}

// Of what starts or stops a machine; any other leaves the phases of the last that did.
static bool has_phases(enum operation_kind k)
{
	return k == OPERATION_CREATE || k == OPERATION_PAUSE || k == OPERATION_RESUME ||
	       k == OPERATION_ROLLBACK || k == OPERATION_FORK || k == OPERATION_SNAPSHOT;
}

static int write_end(void *ctx, struct db *db, struct err *e)
{
	struct ending *x = ctx;
	struct task *t = x->t;
	bool failed = !task_is_done(t);
	int rc = 0;
	t->op.ended_ns = x->en->now_ns(x->en->ctx);
	t->op.state = failed ? OPERATION_FAILED : OPERATION_DONE;
	if (failed)
		t->op.failed = t->e;
	json_decref(t->op.phases);
	t->op.phases = t->has_info && has_phases(t->op.kind) ? render_phases(&t->info) : NULL;
	if (leaves_key_free(t))
		t->op.key[0] = '\0';
	if (t->op.key[0])
		rc = keep_answer(x->en, t, e);
	if (rc == 0)
		rc = write_event(t, db, e);
	return rc == 0 ? operations_end(db, &t->op, e) : rc;
}

static int write_effect(struct engine *en, struct task *t, struct err *e)
{
	struct ending x = {en, t};
	const struct db_also also = {write_end, &x};
	int rc = fault_hit("control.before_finish", e);
	return rc == 0 ? kind_finish(en, t, &also, e) : rc;
}

static void stays_open(struct engine *en, struct task *t, const struct err *why)
{
	underway_orphan(en->underway, t->op.id);
	if (t->outcome == OUTCOME_LATER)
		return;
	if (t->outcome != OUTCOME_UNKNOWN) {
		log_error("end not recorded operation=%s: %s", t->op.id, why->text);
		task_set(t, OUTCOME_UNKNOWN);
		t->e = *why;
	}
	if (!err_is_set(&t->e))
		err_set(&t->e, ERR_UNAVAILABLE, "the host did not answer");
}

// The row has ended by a DELETE: what the host says now is no news any more, and what it has made
// goes.
static void yield(struct engine *en, struct task *t)
{
	bool made = t->op.kind == OPERATION_CREATE && t->outcome == OUTCOME_DONE;
	if (t->outcome != OUTCOME_GIVEN_UP)
		task_set(t, OUTCOME_GIVEN_UP);
	t->has_info = false;
	task_overtaken(t->op.sandbox, &t->e);
	if (made)
		engine_sweep(en, t->op.sandbox);
}

static void note_timings(struct engine *en, const struct task *t)
{
	if (!en->timings)
		return;
	timings_add(en->timings, &t->op);
	for (size_t i = 0; i < t->n_children; i++)
		if (t->children[i].info.id[0]) {
			_cleanup_json_ json_t *phases = render_phases(&t->children[i].info);
			timings_add_phases(en->timings, t->op.kind, phases);
		}
}

void engine_finish(struct engine *en, struct task *t)
{
	struct err e = {0};
	if (is_overtaken(en, t))
		yield(en, t);
	int rc = task_is_open(t) ? -EAGAIN : write_effect(en, t, &e);
	if (rc < 0) {
		stays_open(en, t, &e);
		return;
	}
	underway_ended(en->underway, t->op.id);
	note_timings(en, t);
	if (!task_is_done(t))
		log_info("operation failed operation=%s kind=%s sandbox=%s: %s", t->op.id,
			operation_kind_name(t->op.kind), t->op.sandbox, t->e.text);
	// The host follows at once where it can.
	if (t->follow_up[0])
		engine_settle(en, t->follow_up, NULL);
}

// --- orphans

int engine_adopt(struct engine *en, const char *op_id, struct task *t, struct err *e)
{
	*t = (struct task){.adopted = true};
	if (!underway_adopt(en->underway, op_id))
		return 0;
	int rc = operations_get(en->db, op_id, &t->op, e);
	if (rc == 1 && t->op.state != OPERATION_OPEN)
		rc = 0;
	if (rc == 0) // ended by another hand, as far as the database goes
		underway_ended(en->underway, op_id);
	if (rc == 1 && t->op.kind == OPERATION_FORK && fork_adopt(en, t, e) < 0)
		rc = -ENOMEM;
	if (rc < 0)
		underway_orphan(en->underway, op_id);
	if (rc != 1) {
		task_done(t);
		return rc;
	}
	if (t->op.sandbox[0])
		t->row = rows_get(en->rows, t->op.sandbox);
	task_set(t, OUTCOME_OPEN);
	return 1;
}

int engine_settle(struct engine *en, const char *id, struct err *e)
{
	struct task t;
	int rc = engine_adopt(en, id, &t, e);
	if (rc <= 0)
		return rc;
	engine_ask(en, &t);
	engine_finish(en, &t);
	bool open = task_is_open(&t);
	if (open)
		rc = err_set(e, ERR_UNAVAILABLE, "operation %s is not finished: %s", id, t.e.text);
	else
		log_info("operation finished after all operation=%s kind=%s sandbox=%s state=%s",
			id, operation_kind_name(t.op.kind), t.op.sandbox,
			operation_state_name(t.op.state));
	task_done(&t);
	return open ? rc : 0;
}

int engine_settle_on(struct engine *en, const char *sandbox, struct err *e)
{
	char id[UUID_SIZE];
	while (underway_orphan_on(en->underway, sandbox, id)) {
		int rc = engine_settle(en, id, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}
