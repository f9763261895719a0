// SPDX-License-Identifier: Apache-2.0
// How this works. Since the world goes on after a look, each action is applied only if what it was
// judged by still holds (struct engine_guards).
#include "control/engine/upkeep.h"
#include "base/log.h"
#include "base/str.h"
#include "control/engine/marks.h"
#include "control/engine/run.h"

static int remove_unknown(struct engine *en, const struct reconcile_action *a, struct err *e)
{
	char op[UUID_SIZE];
	if (!en->guards->unwanted(en, a->id))
		return 0;
	en->new_uuid(en->ctx, op);
	int rc = en->host.ops->destroy(
		en->host.host, op, a->id, a->cause[0] ? a->cause : "unknown", e);
	return rc < 0 && e->code == ERR_NOT_FOUND ? 0 : rc;
}

static int drop_snapshot(struct engine *en, const struct reconcile_action *a, struct err *e)
{
	char op[UUID_SIZE];
	if (underway_is_on_snapshot(en->underway, a->id))
		return 0;
	int rc = templates_has_snapshot(en->db, a->id, e);
	if (rc != 0)
		return MIN(rc, 0);
	en->new_uuid(en->ctx, op);
	return en->host.ops->snapshot_delete(en->host.host, op, a->id, e);
}

// Said once.
static void report(struct engine *en, const struct reconcile_action *a)
{
	bool said = false;
	pthread_mutex_lock(&en->lock);
	for (size_t i = 0; i < ENGINE_REPORTED_MAX && !said; i++)
		said = str_eq(en->reported[i], a->id);
	if (!said)
		snprintf(en->reported[en->next_reported++ % ENGINE_REPORTED_MAX],
			sizeof en->reported[0], "%s", a->id);
	pthread_mutex_unlock(&en->lock);
	if (!said)
		log_warn("the host has what is not known here id=%s: %s", a->id, a->reason);
}

static void apply(struct engine *en, const struct look *l, const struct reconcile_action *a)
{
	struct err e = {0};
	int rc = 0;
	switch (a->kind) {
	case RECONCILE_MARK_RUNNING:
	case RECONCILE_MARK_PAUSED:
	case RECONCILE_MARK_STOPPED:
		rc = marks_apply(en, l, a, &e);
		break;
	case RECONCILE_FINISH_OPERATION:
		rc = engine_settle(en, a->op, &e);
		break;
	case RECONCILE_REMOVE_UNKNOWN:
		rc = remove_unknown(en, a, &e);
		break;
	case RECONCILE_DROP_SNAPSHOT:
		rc = drop_snapshot(en, a, &e);
		break;
	case RECONCILE_REPORT_UNKNOWN:
		report(en, a);
		return;
	default:
		return;
	}
	marks_log(a, rc, &e);
}

void engine_apply(struct engine *en, struct look *l)
{
	for (size_t i = 0; i < l->n_actions; i++)
		apply(en, l, &l->actions[i]);
}

void engine_expire(struct engine *en)
{
	struct err e = {0};
	uint64_t now = en->now_ns(en->ctx);
	if (rows_expire(en->rows, now - ROW_KEEP_NS, &e) < 0)
		log_warn("old sandboxes are kept: %s", e.text);
	if (operations_expire(en->db, now, &e) < 0)
		log_warn("old operations are kept: %s", e.text);
}
