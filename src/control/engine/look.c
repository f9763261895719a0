// SPDX-License-Identifier: Apache-2.0
// How this works. A look reads the rows and the open operations, then asks the host, then asks it
// once more about each that its list lacks (the list has no ended ones, and their cause is wanted),
// and the journal about what no row knows. What follows is reconcile()'s to say.
#include "control/engine/look.h"
#include <string.h>
#include "base/log.h"
#include "base/str.h"

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
	operation_refs_free(l->open, l->n_open);
	free(l->words);
	free(l->unknown);
	free(l->actions);
	free(l);
	return NULL;
}

// --- reading

static int no_memory(struct err *e)
{
	return err_errno(e, ENOMEM, "reconciler");
}

static int read_rows(struct engine *en, struct look *l, const char *id, struct err *e)
{
	size_t cap = (id ? 1 : rows_count(en->rows)) + 64;
	l->rows = calloc(cap, sizeof(struct sandbox_row *));
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
		struct sandbox_row *row = l->rows[i];
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

void look_is_silent(struct engine *en, struct look *l, const struct err *why)
{
	l->reachable = l->volume_ok = false;
	snprintf(l->why, sizeof l->why, "%s", why->text);
	en->reach = ENGINE_SILENT;
}

static int silent(struct engine *en, struct look *l, const struct err *why)
{
	look_is_silent(en, l, why);
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
			rows_learn_sizes(en->rows, l->boxes, l->n_boxes);
		if (rc == 0)
			rc = en->host.ops->snapshots(en->host.host, &l->snaps, &l->n_snaps, &why);
		if (rc < 0)
			return silent(en, l, &why);
		if (l->n_boxes)
			qsort(l->boxes, l->n_boxes, sizeof *l->boxes, by_id);
	}
	return ask_missing(en, l, e);
}

// Rows are in the order of their creation; a walk over them marks what they know.
static size_t mark_known(struct engine *en, struct look *l, bool *known)
{
	size_t n = 0;
	for (size_t i = 0; i < l->n_rows; i++) {
		const struct host_sandbox *s = find_box(l, l->rows[i]->id);
		if (s)
			known[s - l->boxes] = true;
	}
	for (size_t i = 0; i < l->n_boxes; i++) {
		if (!known[i] && en->guards->made_since(en, l->boxes[i].id)) {
			known[i] = true;
			l->boxes[i].state = SANDBOX_STOPPED; // not to be judged
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
	return n;
}

static int ask_journal(struct engine *en, struct look *l, struct err *e)
{
	_cleanup_free_ bool *known = calloc(l->n_boxes + l->n_snaps + 1, sizeof *known);
	if (!known)
		return no_memory(e);
	size_t n = mark_known(en, l, known);
	l->words = calloc(n + 1, sizeof *l->words);
	l->unknown = calloc(n + 1, sizeof *l->unknown);
	int rc = l->words && l->unknown ? 0 : no_memory(e);
	for (size_t i = 0; rc >= 0 && i < l->n_boxes + l->n_snaps; i++) {
		bool snap = i >= l->n_boxes;
		const char *id = snap ? l->snaps[i - l->n_boxes].id : l->boxes[i].id;
		if (known[i])
			continue;
		rc = operations_last_word(en->db,
			snap ? OPERATION_ABOUT_SNAPSHOT : OPERATION_ABOUT_SANDBOX, id,
			&l->words[l->n_words], e);
		if (rc == 1)
			snprintf(l->unknown[l->n_words++], sizeof *l->unknown, "%c%s",
				snap ? '#' : '@', id);
	}
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
	size_t cap = l->n_words + 1, n = 0;
	for (size_t i = 0; i < l->n_open; i++)
		cap += 1 + l->open[i].n_children;
	struct reconcile_op *ops = calloc(cap, sizeof *ops);
	if (!ops)
		return NULL;
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
		.explain = explain};
	return en->guards->judge(&in, &l->actions, &l->n_actions, e);
}

int look_collect(struct engine *en, const char *id, struct look **ret, struct err *e)
{
	_cleanup_(look_freep) struct look *l = calloc(1, sizeof *l);
	if (!l)
		return no_memory(e);
	l->single = id != NULL;
	int rc = underway_list(en->underway, &l->open, &l->n_open, e);
	if (rc == 0)
		rc = read_rows(en, l, id, e);
	if (rc == 0)
		see_reach(en, l);
	if (rc == 0 && l->reachable && l->volume_ok)
		rc = ask_host(en, l, id, e);
	if (rc == 0)
		*ret = TAKE_PTR(l);
	return rc;
}

int look_judge(struct engine *en, struct look *l, bool explain, struct err *e)
{
	int rc = l->single ? 0 : templates_list(en->db, &l->named, &l->n_named, e);
	if (rc == 0 && l->reachable && l->volume_ok && !l->single)
		rc = ask_journal(en, l, e);
	return rc == 0 ? judge(en, l, explain, e) : rc;
}

const struct host_sandbox *look_report(const struct look *l, const char *id)
{
	const struct host_sandbox *s = find_box(l, id);
	for (size_t i = 0; i < l->n_more && !s; i++)
		if (str_eq(l->more[i].id, id))
			s = &l->more[i];
	return s;
}
