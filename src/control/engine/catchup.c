// SPDX-License-Identifier: Apache-2.0
// How this works. Events are applied by one thread at a time. An event of an end has all that is
// needed; any other leads to a look at its sandbox, which asks the host and corrects the row, and
// finishes no operation: nothing here comes back to an operation, whose steps call this.
#include "control/engine/catchup.h"
#include <string.h>
#include "base/str.h"
#include "control/engine/effect.h"
#include "control/engine/marks.h"

// Actions of a look at one sandbox are marks, for it knows of no operation that could be finished.
static void apply_marks(struct engine *en, const struct look *l)
{
	for (size_t i = 0; i < l->n_actions; i++) {
		const struct reconcile_action *a = &l->actions[i];
		struct err e = {0};
		if (a->kind == RECONCILE_MARK_RUNNING || a->kind == RECONCILE_MARK_PAUSED ||
			a->kind == RECONCILE_MARK_STOPPED)
			marks_log(a, marks_apply(en, l, a, &e), &e);
	}
}

// --- events

struct seen {
	int64_t seq, at_ns;
	char sandbox[64], kind[32], cause[64];
};

static int take_event(void *ctx, sqlite3_stmt *st)
{
	struct seen *s = ctx;
	s->seq = sqlite3_column_int64(st, 0);
	s->at_ns = sqlite3_column_int64(st, 1);
	snprintf(s->sandbox, sizeof s->sandbox, "%s", db_text(st, 2));
	snprintf(s->kind, sizeof s->kind, "%s", db_text(st, 3));
	snprintf(s->cause, sizeof s->cause, "%s", db_text(st, 4));
	return 1;
}

static int write_cursor(void *ctx, struct db *db, struct err *e)
{
	const struct seen *s = ctx;
	return db_exec(db, e, "UPDATE hosts SET applied = ? WHERE name = 'local'", "i", s->seq);
}

static int move_cursor(struct engine *en, struct seen *s, struct err *e)
{
	return DB_LOCKED(en->db, write_cursor(s, en->db, e));
}

// The next look at all of them makes up for a host that does not answer now.
static void look_at(struct engine *en, const char *id)
{
	_cleanup_(look_freep) struct look *l = NULL;
	struct err why = {0};
	if (!underway_is_on(en->underway, id) && look_collect(en, id, &l, &why) == 0 &&
		look_judge(en, l, false, &why) == 0 && l->n_missing == 0)
		apply_marks(en, l);
}

static int apply_event(struct engine *en, struct seen *s, struct err *e)
{
	struct db_also also = {write_cursor, s};
	struct err why = {0};
	_cleanup_(row_unrefp) struct sandbox_row *row =
		s->sandbox[0] ? rows_get(en->rows, s->sandbox) : NULL;
	if (!row || row_ended(row))
		return move_cursor(en, s, e);
	if (!str_eq(s->kind, "stopped")) {
		look_at(en, s->sandbox);
		return move_cursor(en, s, e);
	}
	// The host's last report has more, and it may have forgotten it by now.
	struct host_sandbox last;
	int rc = en->host.ops->get(en->host.host, s->sandbox, &last, &why);
	if (rc < 0 || last.state != SANDBOX_STOPPED)
		effect_last(en, row, (uint64_t)s->at_ns, s->cause, &last);
	return rows_end(en->rows, row, &last, &also, e);
}

static int apply_events(struct engine *en, size_t max, struct err *e)
{
	size_t n = 0;
	while (n < max) {
		struct seen s;
		int rc = DB_LOCKED(en->db, db_query(en->db, e, take_event, &s,
						   "SELECT seq, at_ns, sandbox, kind, cause FROM "
						   "events WHERE seq > (SELECT applied FROM hosts "
						   "WHERE name = 'local') ORDER BY seq LIMIT 1",
						   ""));
		if (rc == 1)
			rc = apply_event(en, &s, e);
		else if (rc == 0)
			break;
		if (rc < 0)
			return rc;
		n++;
	}
	return (int)n;
}

int engine_apply_events(struct engine *en, size_t max, struct err *e)
{
	pthread_mutex_lock(&en->events);
	int rc = apply_events(en, max, e);
	pthread_mutex_unlock(&en->events);
	return rc;
}

int engine_catch_up(struct engine *en, struct err *e)
{
	int rc = en->bring_events ? en->bring_events(en->ctx, e) : 0;
	if (rc == 0)
		rc = engine_apply_events(en, SIZE_MAX, e);
	return MIN(rc, 0);
}

// What is judged by a row that changes by its events is void.
static int whole_look(
	struct engine *en, const char *id, bool explain, struct look **ret, struct err *e)
{
	_cleanup_(look_freep) struct look *l = NULL;
	struct err why = {0};
	int rc = look_collect(en, id, &l, e);
	if (rc == 0 && l->n_missing && engine_catch_up(en, &why) < 0)
		look_is_silent(en, l, &why);
	if (rc == 0)
		rc = look_judge(en, l, explain, e);
	if (rc == 0)
		*ret = TAKE_PTR(l);
	return rc;
}

int engine_look(struct engine *en, bool explain, struct look **ret, struct err *e)
{
	return whole_look(en, NULL, explain, ret, e);
}

int engine_correct(struct engine *en, const char *id, struct err *e)
{
	_cleanup_(look_freep) struct look *l = NULL;
	int rc = whole_look(en, id, false, &l, e);
	if (rc == 0)
		apply_marks(en, l);
	return rc;
}
