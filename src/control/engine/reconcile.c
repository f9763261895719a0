// SPDX-License-Identifier: Apache-2.0
// How this works. All inputs are sorted by id, then walked side by side; an operation that is open
// shields what it concerns from any judgement. The rules in one place: judge_row and judge_unknown,
// and the table of tests/unit/control/test_reconcile.c.
#include "control/engine/reconcile.h"
#include <stdarg.h>
#include <string.h>
#include "base/str.h"

static const char *const names[] = {
	[RECONCILE_NONE] = "none",
	[RECONCILE_UNREACHABLE] = "unreachable",
	[RECONCILE_MARK_RUNNING] = "mark_running",
	[RECONCILE_MARK_PAUSED] = "mark_paused",
	[RECONCILE_MARK_STOPPED] = "mark_stopped",
	[RECONCILE_FINISH_OPERATION] = "finish_operation",
	[RECONCILE_REMOVE_UNKNOWN] = "remove_unknown",
	[RECONCILE_REPORT_UNKNOWN] = "report_unknown",
	[RECONCILE_DROP_SNAPSHOT] = "drop_snapshot",
};

const char *reconcile_kind_name(enum reconcile_kind k)
{
	return names[k];
}

struct result {
	struct reconcile_action *list;
	size_t n, cap;
	bool explain, failed;
};

struct run {
	const struct reconcile_input *in;
	const struct reconcile_row **rows;
	const struct reconcile_sandbox **boxes;
	const struct reconcile_op **by_sandbox, **by_snapshot;
	const char **named;
	size_t n_by_sandbox, n_by_snapshot;
	struct result out;
};

static struct reconcile_action *add(struct result *r, enum reconcile_kind kind, const char *id,
	const char *fmt, ...) _printf_(4, 5);
static struct reconcile_action *add(
	struct result *r, enum reconcile_kind kind, const char *id, const char *fmt, ...)
{
	static struct reconcile_action spare; // never read
	if ((kind == RECONCILE_NONE && !r->explain) || r->failed)
		return &spare;
	if (r->n == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 64;
		void *p = reallocarray(r->list, cap, sizeof *r->list);
		if (!p) {
			r->failed = true;
			return &spare;
		}
		r->list = p;
		r->cap = cap;
	}
	struct reconcile_action *a = &r->list[r->n++];
	*a = (struct reconcile_action){.kind = kind};
	snprintf(a->id, sizeof a->id, "%s", id);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(a->reason, sizeof a->reason, fmt, ap);
	va_end(ap);
	return a;
}

// --- sorting: arrays of pointers to what starts with an id

static int by_id(const void *a, const void *b)
{
	const char *const *x = *(void *const *)a, *const *y = *(void *const *)b;
	return strcmp(*x, *y);
}

static int by_op_sandbox(const void *a, const void *b)
{
	const struct reconcile_op *const *x = a, *const *y = b;
	int d = strcmp((*x)->sandbox, (*y)->sandbox);
	return d ? d : (*x > *y) - (*x < *y); // in the order given
}

static int by_op_snapshot(const void *a, const void *b)
{
	const struct reconcile_op *const *x = a, *const *y = b;
	int d = strcmp((*x)->snapshot, (*y)->snapshot);
	return d ? d : (*x > *y) - (*x < *y);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void sort(void *list, size_t n, int (*cmp)(const void *, const void *))
{
	if (n > 1)
		qsort(list, n, sizeof(void *), cmp);
}

static bool there(const char *text)
{
	return text && *text;
}

static int prepare(struct run *r)
{
	const struct reconcile_input *in = r->in;
	r->rows = calloc(in->n_rows + 1, sizeof(void *));
	r->boxes = calloc(in->n_sandboxes + 1, sizeof(void *));
	r->by_sandbox = calloc(in->n_ops + 1, sizeof(void *));
	r->by_snapshot = calloc(in->n_ops + 1, sizeof(void *));
	r->named = calloc(in->n_named + 1, sizeof(void *));
	if (!r->rows || !r->boxes || !r->by_sandbox || !r->by_snapshot || !r->named)
		return -ENOMEM;
	for (size_t i = 0; i < in->n_rows; i++)
		r->rows[i] = &in->rows[i];
	for (size_t i = 0; i < in->n_sandboxes; i++)
		r->boxes[i] = &in->sandboxes[i];
	for (size_t i = 0; i < in->n_named; i++)
		r->named[i] = in->named[i];
	for (size_t i = 0; i < in->n_ops; i++) {
		if (there(in->ops[i].sandbox))
			r->by_sandbox[r->n_by_sandbox++] = &in->ops[i];
		if (there(in->ops[i].snapshot))
			r->by_snapshot[r->n_by_snapshot++] = &in->ops[i];
	}
	sort(r->rows, in->n_rows, by_id);
	sort(r->boxes, in->n_sandboxes, by_id);
	sort(r->named, in->n_named, by_text);
	sort(r->by_sandbox, r->n_by_sandbox, by_op_sandbox);
	sort(r->by_snapshot, r->n_by_snapshot, by_op_snapshot);
	return 0;
}

// The open operation on an id, else the newest that ended, else NULL.
static const struct reconcile_op *find_op(struct run *r, const char *id, bool snapshot)
{
	const struct reconcile_op **list = snapshot ? r->by_snapshot : r->by_sandbox;
	size_t lo = 0, hi = snapshot ? r->n_by_snapshot : r->n_by_sandbox, n = hi;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (strcmp(snapshot ? list[mid]->snapshot : list[mid]->sandbox, id) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	const struct reconcile_op *found = NULL;
	for (; lo < n && strcmp(snapshot ? list[lo]->snapshot : list[lo]->sandbox, id) == 0; lo++)
		if (!found || found->state != RECONCILE_OP_OPEN ||
			list[lo]->state == RECONCILE_OP_OPEN)
			found = list[lo];
	return found;
}

// --- the rules

static bool in_motion(enum sandbox_state s)
{
	return s == SANDBOX_PENDING || s == SANDBOX_PAUSING || s == SANDBOX_RESUMING ||
	       s == SANDBOX_STOPPING;
}

// The row has ended.
static void judge_ended(struct run *r, const struct reconcile_row *row,
	const struct reconcile_sandbox *s, const struct reconcile_op *op)
{
	struct result *out = &r->out;
	if (!s || s->state == SANDBOX_STOPPED) {
		add(out, RECONCILE_NONE, row->id, "it has ended");
	} else if (op && op->state == RECONCILE_OP_OPEN) {
		add(out, RECONCILE_NONE, row->id, "an operation on it is under way");
	} else if (in_motion(s->state)) {
		add(out, RECONCILE_NONE, row->id, "it has ended, the host is at it");
	} else if (str_eq(row->cause, "killed")) {
		struct reconcile_action *a = add(out, RECONCILE_REMOVE_UNKNOWN, row->id,
			"it was ended by a call, and the host has it %s",
			sandbox_state_name(s->state));
		snprintf(a->cause, sizeof a->cause, "killed");
	} else {
		add(out, RECONCILE_REPORT_UNKNOWN, row->id,
			"it ended here (%s), and the host has it %s: kept",
			row->cause ? row->cause : "?", sandbox_state_name(s->state));
	}
}

static bool is_stored(const struct run *r, const struct reconcile_sandbox *s)
{
	bool stored = s->state != SANDBOX_PAUSED || !there(s->snapshot);
	for (size_t i = 0; !stored && i < r->in->n_snapshots; i++)
		stored = str_eq(r->in->snapshots[i].id, s->snapshot);
	return stored;
}

// Both sides have it running or paused.
static void judge_both(
	struct run *r, const struct reconcile_row *row, const struct reconcile_sandbox *s)
{
	bool paused = s->state == SANDBOX_PAUSED;
	if (!is_stored(r, s))
		add(&r->out, RECONCILE_REPORT_UNKNOWN, row->id,
			"paused, but the store has no snapshot %s: kept", s->snapshot);
	if (row->state == (paused ? ROW_PAUSED : ROW_RUNNING) && row->generation == s->generation) {
		add(&r->out, RECONCILE_NONE, row->id, "%s on both sides",
			row_state_name(row->state));
		return;
	}
	struct reconcile_action *a =
		add(&r->out, paused ? RECONCILE_MARK_PAUSED : RECONCILE_MARK_RUNNING, row->id,
			"%s, generation %lu here; %s, generation %lu at the host",
			row_state_name(row->state), row->generation, sandbox_state_name(s->state),
			s->generation);
	a->generation = s->generation;
	a->row = (size_t)(row - r->in->rows);
}

static void judge_lost(struct run *r, const struct reconcile_row *row)
{
	bool never = row->state == ROW_CREATING;
	struct reconcile_action *a =
		add(&r->out, RECONCILE_MARK_STOPPED, row->id, "%s, and the host does not have it",
			never ? "its create was cut short" : row_state_name(row->state));
	snprintf(a->cause, sizeof a->cause, never ? "create_failed" : "host_lost");
	a->row = (size_t)(row - r->in->rows);
}

// The table "The reconciler" of docs/architecture.md, line by line.
static void judge_row(
	struct run *r, const struct reconcile_row *row, const struct reconcile_sandbox *s)
{
	struct result *out = &r->out;
	const struct reconcile_op *op = find_op(r, row->id, false);
	if (row->state == ROW_STOPPED) {
		judge_ended(r, row, s, op);
	} else if (op && op->state == RECONCILE_OP_OPEN) {
		add(out, RECONCILE_NONE, row->id, "an operation on it is under way");
	} else if (!s) {
		judge_lost(r, row);
	} else if (in_motion(s->state)) {
		add(out, RECONCILE_NONE, row->id, "the host is at it: %s",
			sandbox_state_name(s->state));
	} else if (s->state == SANDBOX_STOPPED) {
		struct reconcile_action *a = add(
			out, RECONCILE_MARK_STOPPED, row->id, "the host says that it has ended");
		snprintf(a->cause, sizeof a->cause, "%s", there(s->cause) ? s->cause : "host_lost");
		a->generation = s->generation;
		a->row = (size_t)(row - r->in->rows);
	} else if (s->state == SANDBOX_ERROR) {
		add(out, RECONCILE_NONE, row->id, "its guest stands still, and the host tries on");
	} else {
		judge_both(r, row, s);
	}
}

static void judge_unknown(struct run *r, const struct reconcile_sandbox *s)
{
	struct result *out = &r->out;
	const struct reconcile_op *op = find_op(r, s->id, false);
	struct reconcile_action *a;
	if (s->state == SANDBOX_STOPPED) {
		add(out, RECONCILE_NONE, s->id, "ended, and forgotten here");
	} else if (op && op->state == RECONCILE_OP_OPEN) {
		add(out, RECONCILE_NONE, s->id, "an operation on it is under way");
	} else if (in_motion(s->state)) {
		add(out, RECONCILE_NONE, s->id, "unknown here, the host is at it: %s",
			sandbox_state_name(s->state));
	} else if (op && (op->removes || op->makes)) {
		a = add(out, RECONCILE_REMOVE_UNKNOWN, s->id, "its %s %s, by the journal",
			op->removes ? "destroy" : "create",
			op->state == RECONCILE_OP_FAILED ? "was given up" : "has ended");
		snprintf(a->op, sizeof a->op, "%s", op->id);
	} else {
		add(out, RECONCILE_REPORT_UNKNOWN, s->id,
			"%s at the host, unknown here and to the journal: kept",
			sandbox_state_name(s->state));
	}
}

static void judge_snapshot(struct run *r, const struct reconcile_snapshot *s)
{
	struct result *out = &r->out;
	if (!str_eq(s->kind, "template")) {
		add(out, RECONCILE_NONE, s->id, "a %s, the host's own", s->kind);
		return;
	}
	const struct reconcile_op *op = find_op(r, s->id, true);
	bool named = r->in->n_named &&
		     bsearch(&s->id, r->named, r->in->n_named, sizeof(void *), by_text);
	struct reconcile_action *a;
	if (op && op->state == RECONCILE_OP_OPEN) {
		add(out, RECONCILE_NONE, s->id, "an operation on it is under way");
	} else if (named) {
		add(out, RECONCILE_NONE, s->id, "it has its name");
	} else if (op) {
		a = add(out, RECONCILE_DROP_SNAPSHOT, s->id, "its %s %s, by the journal",
			op->removes ? "deletion" : "creation",
			op->state == RECONCILE_OP_FAILED ? "was given up" : "has ended");
		snprintf(a->op, sizeof a->op, "%s", op->id);
	} else {
		add(out, RECONCILE_REPORT_UNKNOWN, s->id,
			"a snapshot without a name, unknown to the journal: kept");
	}
}

static void finish_operations(struct run *r)
{
	for (size_t i = 0; i < r->in->n_ops; i++) {
		const struct reconcile_op *op = &r->in->ops[i];
		if (op->state != RECONCILE_OP_OPEN)
			continue;
		bool again = false; // a fork has an entry for each child
		for (size_t k = i; k > 0 && !again && str_eq(r->in->ops[k - 1].id, op->id); k--)
			again = true;
		if (again)
			continue;
		struct reconcile_action *a =
			add(&r->out, op->active ? RECONCILE_NONE : RECONCILE_FINISH_OPERATION,
				there(op->sandbox)    ? op->sandbox
				: there(op->snapshot) ? op->snapshot
						      : "",
				op->active ? "operation %s is under way"
					   : "operation %s was cut short: the host is asked again",
				op->id);
		snprintf(a->op, sizeof a->op, "%s", op->id);
	}
}

static void nothing_known(struct run *r)
{
	const char *why =
		r->in->reachable ? "the host's volume is absent" : "the host does not answer";
	for (size_t i = 0; i < r->in->n_rows; i++)
		if (r->in->rows[i].state != ROW_STOPPED)
			add(&r->out, RECONCILE_UNREACHABLE, r->in->rows[i].id, "%s", why);
}

static void compare(struct run *r)
{
	const struct reconcile_input *in = r->in;
	finish_operations(r);
	size_t i = 0, k = 0;
	while (i < in->n_rows || k < in->n_sandboxes) {
		int d = i == in->n_rows	       ? 1
			: k == in->n_sandboxes ? -1
					       : strcmp(r->rows[i]->id, r->boxes[k]->id);
		if (d < 0)
			judge_row(r, r->rows[i++], NULL);
		else if (d > 0)
			judge_unknown(r, r->boxes[k++]);
		else
			judge_row(r, r->rows[i++], r->boxes[k++]);
	}
	for (i = 0; i < in->n_snapshots; i++)
		judge_snapshot(r, &in->snapshots[i]);
}

int reconcile(const struct reconcile_input *in, struct reconcile_action **ret, size_t *ret_n,
	struct err *e)
{
	struct run r = {.in = in, .out.explain = in->explain};
	int rc = prepare(&r);
	if (rc == 0 && (!in->reachable || !in->volume_ok))
		nothing_known(&r);
	else if (rc == 0)
		compare(&r);
	free(r.rows);
	free(r.boxes);
	free(r.by_sandbox);
	free(r.by_snapshot);
	free(r.named);
	if (rc < 0 || r.out.failed) {
		free(r.out.list);
		return err_errno(e, ENOMEM, "reconciler");
	}
	*ret = r.out.list;
	*ret_n = r.out.n;
	return 0;
}
