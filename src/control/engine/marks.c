// SPDX-License-Identifier: Apache-2.0
#include "control/engine/marks.h"
#include "base/log.h"
#include "control/engine/effect.h"

static int mark_stopped(struct engine *en, const struct look *l, struct sandbox_row *row,
	const struct reconcile_action *a, struct err *e)
{
	const struct host_sandbox *s = look_report(l, a->id);
	// Nobody was told of it.
	if (row->now == ROW_CREATING && !s)
		return rows_unmake(en->rows, row, NULL, e);
	struct host_sandbox last;
	effect_last(en, row, en->now_ns(en->ctx), a->cause, &last);
	if (s && s->state == SANDBOX_STOPPED)
		last = *s;
	snprintf(last.cause, sizeof last.cause, "%s", a->cause);
	return rows_end(en->rows, row, &last, NULL, e);
}

int marks_apply(
	struct engine *en, const struct look *l, const struct reconcile_action *a, struct err *e)
{
	struct sandbox_row *row = l->rows[a->row];
	if (!en->guards->unchanged(en, row, l->versions[a->row]))
		return 0;
	if (a->kind == RECONCILE_MARK_STOPPED)
		return mark_stopped(en, l, row, a, e);
	return rows_live(en->rows, row, a->kind == RECONCILE_MARK_PAUSED ? ROW_PAUSED : ROW_RUNNING,
		a->generation, true, NULL, e);
}

void marks_log(const struct reconcile_action *a, int rc, const struct err *e)
{
	if (rc < 0)
		log_warn("%s is tried again later id=%s operation=%s: %s",
			reconcile_kind_name(a->kind), a->id, a->op, err_text(e, rc));
	else
		log_debug("%s id=%s operation=%s: %s", reconcile_kind_name(a->kind), a->id, a->op,
			a->reason);
}
