// SPDX-License-Identifier: Apache-2.0
// How this works. A look reads the rows and the open operations, then asks the host, then asks it
// once more about each that its list lacks (the list has no ended ones, and their cause is wanted),
// and the journal about what no row knows. What follows is reconcile()'s to say. Since the world
// goes on meanwhile, each action is applied only if the row is what it was (version) and no
// operation has come in between.
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/engine/engine.h"

#define REPORTED_MAX 256

struct engine_reported {
	pthread_mutex_t events; // one applies them at a time
	pthread_mutex_t lock;
	char id[REPORTED_MAX][64];
	size_t next;
};

struct look {
	bool reachable, volume_ok;
	bool single; // of one sandbox: operations only shield it
	char why[200];
	struct row **rows; // references, as the next two
	uint64_t *versions;
	struct reconcile_row *rec_rows;
	size_t n_rows;
	struct host_sandbox *boxes, *more; // the list, and those asked about one by one
	size_t n_boxes, n_more, n_missing;
	struct host_snapshot *snaps;
	size_t n_snaps;
	struct template *named;
	struct template_op *notes;
	size_t n_named, n_notes;
	struct operation_ref *open;
	size_t n_open;
	struct operation_word *words; // one for each of unknown
	char (*unknown)[64];
	size_t n_words;
	struct reconcile_action *actions;
	size_t n_actions;
};

int engine_init(struct engine *en, struct err *e)
{
	en->reported = calloc(1, sizeof *en->reported);
	if (!en->reported)
		return err_errno(e, ENOMEM, "engine");
	pthread_mutex_init(&en->reported->lock, NULL);
	pthread_mutex_init(&en->reported->events, NULL);
	return engine_claim_rows(en, e);
}

void engine_done(struct engine *en)
{
	if (en->reported) {
		pthread_mutex_destroy(&en->reported->lock);
		pthread_mutex_destroy(&en->reported->events);
	}
	free(en->reported);
	en->reported = NULL;
}

struct look *look_free(struct look *l)
{
	if (!l)
		return NULL;
	for (size_t i = 0; i < l->n_rows; i++)
		row_unref(l->rows[i]);
	free(l->rows);
	free(l->versions);
	free(l->rec_rows);
	free(l->boxes);
	free(l->more);
	free(l->snaps);
	free(l->named);
	free(l->notes);
	operations_refs_free(l->open, l->n_open);
	free(l->words);
	free(l->unknown);
	free(l->actions);
	free(l);
	return NULL;
}

const struct reconcile_action *look_actions(const struct look *l, size_t *ret_n)
{
	*ret_n = l->n_actions;
	return l->actions;
}

// --- reading

static int no_memory(struct err *e)
{
	return err_errno(e, ENOMEM, "reconciler");
}

static int read_rows(struct engine *en, struct look *l, const char *id, struct err *e)
{
	size_t cap = (id ? 1 : rows_count(en->rows)) + 64;
	l->rows = calloc(cap, sizeof(struct row *));
	l->versions = calloc(cap, sizeof *l->versions);
	l->rec_rows = calloc(cap, sizeof *l->rec_rows);
	if (!l->rows || !l->versions || !l->rec_rows)
		return no_memory(e);
	if (id) {
		l->rows[0] = rows_get(en->rows, id);
		l->n_rows = l->rows[0] != NULL;
	} else {
		l->n_rows = rows_older(en->rows, UINT64_MAX, l->rows, cap);
	}
	for (size_t i = 0; i < l->n_rows; i++) {
		struct row *row = l->rows[i];
		// The version first: what changes after it was read is seen when the action is
		// applied.
		l->versions[i] = row->version;
		const struct host_sandbox *ended = row_ended(row);
		l->rec_rows[i] = (struct reconcile_row){.id = row->id,
			.state = ended			   ? ROW_STOPPED
				 : row->now == ROW_STOPPED ? ROW_RUNNING
							   : row->now,
			.generation = row->generation,
			.cause = ended ? ended->cause : NULL};
	}
	return 0;
}

static void see_reach(struct engine *en, struct look *l)
{
	static const char *const names[] = {"answers", "does not answer", "has no volume"};
	struct host_info info = {0};
	struct err e = {0};
	l->reachable = en->host.ops->info(en->host.host, &info, &e) == 0;
	l->volume_ok = l->reachable && info.volume_ok;
	snprintf(l->why, sizeof l->why, "%s", l->reachable ? info.volume_reason : e.text);
	enum engine_reach now = !l->reachable	? ENGINE_SILENT
				: !l->volume_ok ? ENGINE_NO_VOLUME
						: ENGINE_REACHED;
	enum engine_reach before = atomic_exchange(&en->reach, now);
	if (now != before)
		log_warn("the host %s now: %s", names[now],
			now == ENGINE_REACHED ? "its sandboxes are back"
					      : "its sandboxes are unreachable");
}

static int by_id(const void *a, const void *b)
{
	const struct host_sandbox *x = a, *y = b;
	return strcmp(x->id, y->id);
}

static const struct host_sandbox *find_box(const struct look *l, const char *id)
{
	size_t lo = 0, hi = l->n_boxes;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int d = strcmp(l->boxes[mid].id, id);
		if (d == 0)
			return &l->boxes[mid];
		if (d < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

// A failure of the host in the middle of a look: nothing is known then.
static int silent(struct engine *en, struct look *l, const struct err *why)
{
	l->reachable = l->volume_ok = false;
	snprintf(l->why, sizeof l->why, "%s", why->text);
	en->reach = ENGINE_SILENT;
	return 0;
}

static int ask_missing(struct engine *en, struct look *l, struct err *e)
{
	size_t cap = 0;
	for (size_t i = 0; i < l->n_rows; i++) {
		struct err why = {0};
		const char *id = l->rows[i]->id;
		if (l->rec_rows[i].state == ROW_STOPPED || find_box(l, id))
			continue;
		if (l->n_more == cap) {
			cap = cap ? cap * 2 : 16;
			void *p = reallocarray(l->more, cap, sizeof *l->more);
			if (!p)
				return no_memory(e);
			l->more = p;
		}
		int rc = en->host.ops->get(en->host.host, id, &l->more[l->n_more], &why);
		if (rc == 0)
			l->n_more++;
		else if (why.code == ERR_NOT_FOUND)
			l->n_missing++;
		else
			return silent(en, l, &why);
	}
	return 0;
}

static int ask_host(struct engine *en, struct look *l, const char *id, struct err *e)
{
	struct err why = {0};
	int rc = 0;
	if (!id) {
		rc = en->host.ops->list(en->host.host, &l->boxes, &l->n_boxes, &why);
		if (rc == 0)
			rc = en->host.ops->snapshots(en->host.host, &l->snaps, &l->n_snaps, &why);
		if (rc < 0)
			return silent(en, l, &why);
		if (l->n_boxes)
			qsort(l->boxes, l->n_boxes, sizeof *l->boxes, by_id);
	}
	return ask_missing(en, l, e);
}

static int ask_journal(struct engine *en, struct look *l, struct err *e)
{
	bool *known = calloc(l->n_boxes + l->n_snaps + 1, sizeof *known);
	size_t n = 0;
	if (!known)
		return no_memory(e);
	// Rows are in the order of their creation; a walk over them marks what they know.
	for (size_t i = 0; i < l->n_rows; i++) {
		const struct host_sandbox *s = find_box(l, l->rows[i]->id);
		if (s)
			known[s - l->boxes] = true;
	}
	for (size_t i = 0; i < l->n_boxes; i++) {
		if (!known[i]) {
			// Made after the rows were read: it has a row now.
			struct row *row = rows_get(en->rows, l->boxes[i].id);
			known[i] = row != NULL && !en->wrong_stale;
			if (row && !en->wrong_stale)
				l->boxes[i].state = SANDBOX_STOPPED; // not to be judged
			row_unref(row);
		}
		n += !known[i];
	}
	for (size_t i = 0; i < l->n_snaps; i++) {
		bool k = !str_eq(l->snaps[i].kind, "template");
		for (size_t j = 0; j < l->n_named && !k; j++)
			k = str_eq(l->named[j].snapshot, l->snaps[i].id);
		known[l->n_boxes + i] = k;
		n += !k;
	}
	l->words = calloc(n + 1, sizeof *l->words);
	l->unknown = calloc(n + 1, sizeof *l->unknown);
	int rc = l->words && l->unknown ? 0 : no_memory(e);
	for (size_t i = 0; rc >= 0 && i < l->n_boxes + l->n_snaps; i++) {
		bool snap = i >= l->n_boxes;
		const char *id = snap ? l->snaps[i - l->n_boxes].id : l->boxes[i].id;
		if (known[i])
			continue;
		rc = operations_last_word(en->operations,
			snap ? OPERATION_ABOUT_SNAPSHOT : OPERATION_ABOUT_SANDBOX, id,
			&l->words[l->n_words], e);
		if (rc == 1)
			snprintf(l->unknown[l->n_words++], sizeof *l->unknown, "%c%s",
				snap ? '#' : '@', id);
	}
	free(known);
	return MIN(rc, 0);
}

// --- judging

static enum reconcile_progress progress(enum operation_state s)
{
	return s == OPERATION_OPEN   ? RECONCILE_OP_OPEN
	       : s == OPERATION_DONE ? RECONCILE_OP_DONE
				     : RECONCILE_OP_FAILED;
}

static struct reconcile_op *collect_ops(const struct look *l, size_t *ret_n)
{
	size_t cap = l->n_words + l->n_notes + 1, n = 0;
	for (size_t i = 0; i < l->n_open; i++)
		cap += 1 + l->open[i].n_children;
	struct reconcile_op *ops = calloc(cap, sizeof *ops);
	if (!ops)
		return NULL;
	// Without an operation of their own, from an older version: settle_note sees to them.
	for (size_t i = 0; i < l->n_notes; i++)
		ops[n++] = (struct reconcile_op){
			.id = "", .snapshot = l->notes[i].snapshot, .active = true};
	for (size_t i = 0; i < l->n_open; i++) {
		const struct operation_ref *r = &l->open[i];
		ops[n++] = (struct reconcile_op){.id = r->id,
			.sandbox = r->sandbox,
			.snapshot = r->snapshot,
			.active = r->active || l->single};
		for (size_t k = 0; k < r->n_children; k++)
			ops[n++] = (struct reconcile_op){
				.id = r->id, .sandbox = r->children[k], .active = true};
	}
	for (size_t i = 0; i < l->n_words; i++) {
		const struct operation_word *w = &l->words[i];
		bool snap = l->unknown[i][0] == '#';
		ops[n++] = (struct reconcile_op){.id = w->id,
			.sandbox = snap ? NULL : l->unknown[i] + 1,
			.snapshot = snap ? l->unknown[i] + 1 : NULL,
			.state = progress(w->state),
			.active = true, // finishing it is the business of those above
			.removes = w->removes,
			.makes = w->makes};
	}
	*ret_n = n;
	return ops;
}

static int judge(struct engine *en, struct look *l, bool explain, struct err *e)
{
	size_t n = l->n_boxes + l->n_more, n_ops = 0;
	_cleanup_free_ struct reconcile_sandbox *boxes = calloc(n + 1, sizeof *boxes);
	_cleanup_free_ struct reconcile_snapshot *snaps = calloc(l->n_snaps + 1, sizeof *snaps);
	_cleanup_free_ const char **named = calloc(l->n_named + 1, sizeof(char *));
	_cleanup_free_ struct reconcile_op *ops = collect_ops(l, &n_ops);
	if (!boxes || !snaps || !named || !ops)
		return no_memory(e);
	for (size_t i = 0; i < n; i++) {
		const struct host_sandbox *s =
			i < l->n_boxes ? &l->boxes[i] : &l->more[i - l->n_boxes];
		// Without the store's list, as in a look at one sandbox, that is not judged.
		boxes[i] = (struct reconcile_sandbox){.id = s->id,
			.state = s->state,
			.generation = s->generation,
			.snapshot = l->snaps ? s->snapshot : "",
			.cause = s->cause};
	}
	for (size_t i = 0; i < l->n_snaps; i++)
		snaps[i] = (struct reconcile_snapshot){l->snaps[i].id, l->snaps[i].kind};
	for (size_t i = 0; i < l->n_named; i++)
		named[i] = l->named[i].snapshot;
	const struct reconcile_input in = {.reachable = l->reachable,
		.volume_ok = l->volume_ok,
		.rows = l->rec_rows,
		.n_rows = l->n_rows,
		.sandboxes = boxes,
		.n_sandboxes = n,
		.snapshots = snaps,
		.n_snapshots = l->n_snaps,
		.named = named,
		.n_named = l->n_named,
		.ops = ops,
		.n_ops = n_ops,
		.explain = explain,
		.wrong_judge_open = en->wrong_judge_open,
		.wrong_remove_all = en->wrong_remove_all,
		.wrong_silence = en->wrong_silence};
	return reconcile(&in, &l->actions, &l->n_actions, e);
}

static int look(struct engine *en, const char *id, bool explain, bool catch_up, struct look **ret,
	struct err *e)
{
	_cleanup_(look_freep) struct look *l = calloc(1, sizeof *l);
	if (!l)
		return no_memory(e);
	l->single = id != NULL;
	int rc = operations_list_open(en->operations, &l->open, &l->n_open, e);
	if (rc == 0)
		rc = read_rows(en, l, id, e);
	if (rc == 0)
		see_reach(en, l);
	if (rc == 0 && l->reachable && l->volume_ok)
		rc = ask_host(en, l, id, e);
	// How one ended that the host has forgotten is among the events. Its row changes then,
	// which voids what is judged by it here.
	struct err why = {0};
	if (rc == 0 && l->n_missing && catch_up && !en->wrong_silence &&
		engine_catch_up(en, &why) < 0)
		rc = silent(en, l, &why);
	if (rc == 0 && !id)
		rc = templates_state(
			en->templates, &l->named, &l->n_named, &l->notes, &l->n_notes, e);
	if (rc == 0 && l->reachable && l->volume_ok && !id)
		rc = ask_journal(en, l, e);
	if (rc == 0)
		rc = judge(en, l, explain, e);
	if (rc < 0)
		return rc;
	*ret = TAKE_PTR(l);
	return 0;
}

int engine_look(struct engine *en, bool explain, struct look **ret, struct err *e)
{
	return look(en, NULL, explain, true, ret, e);
}

int engine_look_at(struct engine *en, const char *id, struct look **ret, struct err *e)
{
	return look(en, id, false, true, ret, e);
}

// --- applying

static const struct host_sandbox *report_of(const struct look *l, const char *id)
{
	const struct host_sandbox *s = find_box(l, id);
	for (size_t i = 0; i < l->n_more && !s; i++)
		if (str_eq(l->more[i].id, id))
			s = &l->more[i];
	return s;
}

// The row as it was judged, or NULL when something has come in between.
static struct row *unchanged(
	struct engine *en, const struct look *l, const struct reconcile_action *a)
{
	struct row *row = l->rows[a->row];
	if (en->wrong_stale || en->wrong_judge_open)
		return row;
	return row->version == l->versions[a->row] && !operations_open_on(en->operations, a->id)
		       ? row
		       : NULL;
}

static int mark_stopped(struct engine *en, const struct look *l, struct row *row,
	const struct reconcile_action *a, struct err *e)
{
	const struct host_sandbox *s = report_of(l, a->id);
	// Nobody was told of it.
	if (row->now == ROW_CREATING && !s)
		return rows_remove(en->rows, row, NULL, e);
	struct host_sandbox last = {.state = SANDBOX_STOPPED,
		.stopped_ns = en->now_ns(en->ctx),
		.on_timeout = row->on_timeout,
		.created_ns = row->created_ns,
		.generation = row->generation};
	if (s && s->state == SANDBOX_STOPPED)
		last = *s;
	snprintf(last.cause, sizeof last.cause, "%s", a->cause);
	return rows_end(en->rows, row, &last, NULL, e);
}

static int remove_unknown(struct engine *en, const struct reconcile_action *a, struct err *e)
{
	char op[UUID_SIZE];
	struct row *row = rows_get(en->rows, a->id);
	bool wanted = row && !row_ended(row);
	row_unref(row);
	if ((wanted || operations_open_on(en->operations, a->id)) && !en->wrong_stale &&
		!en->wrong_remove_all)
		return 0;
	en->new_uuid(en->ctx, op);
	int rc = en->host.ops->destroy(en->host.host, op, a->id, "unknown", e);
	return rc < 0 && e->code == ERR_NOT_FOUND ? 0 : rc;
}

static int drop_snapshot(struct engine *en, const struct reconcile_action *a, struct err *e)
{
	char op[UUID_SIZE];
	if (templates_is_active(en->templates, a->id) ||
		operations_snapshot_open(en->operations, a->id))
		return 0;
	int rc = templates_has_snapshot(en->templates, a->id, e);
	if (rc != 0)
		return MIN(rc, 0);
	en->new_uuid(en->ctx, op);
	return en->host.ops->snapshot_delete(en->host.host, op, a->id, e);
}

// Said once.
static void report(struct engine *en, const struct reconcile_action *a)
{
	struct engine_reported *r = en->reported;
	bool said = false;
	pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < REPORTED_MAX && !said; i++)
		said = str_eq(r->id[i], a->id);
	if (!said)
		snprintf(r->id[r->next++ % REPORTED_MAX], sizeof r->id[0], "%s", a->id);
	pthread_mutex_unlock(&r->lock);
	if (!said)
		log_warn("the host has what is not known here id=%s: %s", a->id, a->reason);
}

static void apply(struct engine *en, const struct look *l, const struct reconcile_action *a)
{
	struct err e = {0};
	struct row *row;
	int rc = 0;
	switch (a->kind) {
	case RECONCILE_MARK_RUNNING:
	case RECONCILE_MARK_PAUSED:
		row = unchanged(en, l, a);
		if (row)
			rc = rows_live(en->rows, row,
				a->kind == RECONCILE_MARK_PAUSED ? ROW_PAUSED : ROW_RUNNING,
				a->generation, true, NULL, &e);
		break;
	case RECONCILE_MARK_STOPPED:
		row = unchanged(en, l, a);
		if (row)
			rc = mark_stopped(en, l, row, a, &e);
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
	if (rc < 0)
		log_warn("%s is tried again later id=%s operation=%s: %s",
			reconcile_kind_name(a->kind), a->id, a->op, err_text(&e, rc));
	else
		log_debug("%s id=%s operation=%s: %s", reconcile_kind_name(a->kind), a->id, a->op,
			a->reason);
}

// Notes of snapshots whose operation is not in the journal (an older version's), or ended.
static void settle_note(struct engine *en, const struct look *l, const struct template_op *note)
{
	struct err e = {0};
	if (templates_is_active(en->templates, note->snapshot) ||
		operations_snapshot_open(en->operations, note->snapshot))
		return;
	if (note->deletes) {
		engine_delete_noted(en, note->snapshot);
		return;
	}
	const struct host_snapshot *s = NULL;
	for (size_t i = 0; i < l->n_snaps && !s; i++)
		if (str_eq(l->snaps[i].id, note->snapshot))
			s = &l->snaps[i];
	struct template t;
	char old[UUID_SIZE] = "";
	int rc = s ? templates_commit(en->templates, note, s, old, &t, NULL, &e)
		   : err_set(&e, ERR_NOT_FOUND, "it was not made");
	if (rc == 0 && old[0])
		engine_delete_noted(en, old);
	if (rc == 0)
		return;
	log_warn("snapshot failed name=%s snapshot=%s sandbox=%s: %s", note->name, note->snapshot,
		note->sandbox, e.text);
	rc = templates_abandon(en->templates, note->snapshot, NULL, &e);
	if (rc == 0)
		engine_delete_noted(en, note->snapshot);
}

void engine_apply(struct engine *en, struct look *l)
{
	for (size_t i = 0; i < l->n_actions; i++)
		apply(en, l, &l->actions[i]);
	for (size_t i = 0; l->reachable && l->volume_ok && i < l->n_notes; i++)
		settle_note(en, l, &l->notes[i]);
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

static int apply_event(struct engine *en, struct seen *s, struct err *e)
{
	struct db_also also = {write_cursor, s};
	struct err why = {0};
	int rc;
	_cleanup_(row_unrefp) struct row *row =
		s->sandbox[0] ? rows_get(en->rows, s->sandbox) : NULL;
	if (!row || row_ended(row))
		return move_cursor(en, s, e);
	if (!str_eq(s->kind, "stopped")) {
		_cleanup_(look_freep) struct look *l = NULL;
		// The next look at all of them makes up for a host that does not answer now.
		if (!operations_open_on(en->operations, s->sandbox) &&
			look(en, s->sandbox, false, false, &l, &why) == 0 && l->n_missing == 0)
			engine_apply(en, l);
		return move_cursor(en, s, e);
	}
	// The host's last report has more, and it may have forgotten it by now.
	struct host_sandbox last;
	rc = en->host.ops->get(en->host.host, s->sandbox, &last, &why);
	if (rc < 0 || last.state != SANDBOX_STOPPED) {
		last = (struct host_sandbox){.state = SANDBOX_STOPPED,
			.stopped_ns = (uint64_t)s->at_ns,
			.on_timeout = row->on_timeout,
			.generation = row->generation,
			.created_ns = row->created_ns};
		snprintf(last.cause, sizeof last.cause, "%s", s->cause);
	}
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
	pthread_mutex_lock(&en->reported->events);
	int rc = apply_events(en, max, e);
	pthread_mutex_unlock(&en->reported->events);
	return rc;
}

int engine_catch_up(struct engine *en, struct err *e)
{
	int rc = en->bring_events ? en->bring_events(en->ctx, e) : 0;
	if (rc == 0)
		rc = engine_apply_events(en, SIZE_MAX, e);
	return MIN(rc, 0);
}

void engine_expire(struct engine *en)
{
	struct err e = {0};
	uint64_t now = en->now_ns(en->ctx);
	if (rows_expire(en->rows, now - ROW_KEEP_NS, &e) < 0)
		log_warn("old sandboxes are kept: %s", e.text);
	if (operations_expire(en->operations, now, &e) < 0)
		log_warn("old operations are kept: %s", e.text);
}
