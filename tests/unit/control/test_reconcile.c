// SPDX-License-Identifier: Apache-2.0
// The reconciler's decision table, row by row.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>
#include "base/str.h"
#include "control/engine/reconcile.h"

#define NO_ROW ((enum row_state) - 1)
#define NO_BOX SANDBOX_STATE_MAX
#define OP "11111111-1111-4111-8111-111111111111"
#define SNAP "22222222-2222-4222-8222-222222222222"

enum op_case {
	NO_OP,
	OPEN,	     // a thread of this process is at it
	ORPHAN,	     // open, left by an earlier process
	CREATE_DONE, // ended ones, of what no row knows
	CREATE_FAILED,
	DESTROY_DONE,
	PAUSE_DONE, // says nothing about whether it should exist
};

struct row_case {
	const char *what;
	enum row_state row;
	const char *cause; // of a stopped row
	enum op_case op;
	enum sandbox_state box;
	const char *box_cause;
	bool other_generation;
	enum reconcile_kind want;
	const char *want_cause, *want_reason;
};

#define R ROW_RUNNING
#define P ROW_PAUSED
#define C ROW_CREATING
#define S ROW_STOPPED

static const struct row_case table[] = {
	// what both sides agree on
	{"running", R, 0, NO_OP, SANDBOX_RUNNING, 0, 0, RECONCILE_NONE, 0, "running on both sides"},
	{"paused", P, 0, NO_OP, SANDBOX_PAUSED, 0, 0, RECONCILE_NONE, 0, "paused on both sides"},
	{"ended", S, "timeout", NO_OP, SANDBOX_STOPPED, "timeout", 0, RECONCILE_NONE, 0,
		"has ended"},
	{"ended and forgotten by the host", S, "timeout", NO_OP, NO_BOX, 0, 0, RECONCILE_NONE, 0,
		"has ended"},
	// the host went on without us
	{"paused by its time-out", R, 0, NO_OP, SANDBOX_PAUSED, 0, 1, RECONCILE_MARK_PAUSED, 0,
		"running, generation 1 here; paused, generation 9 at the host"},
	{"resumed unseen", P, 0, NO_OP, SANDBOX_RUNNING, 0, 1, RECONCILE_MARK_RUNNING, 0,
		"paused, generation 1 here"},
	{"paused and resumed unseen", R, 0, NO_OP, SANDBOX_RUNNING, 0, 1, RECONCILE_MARK_RUNNING, 0,
		"generation 9"},
	{"resumed and paused unseen", P, 0, NO_OP, SANDBOX_PAUSED, 0, 1, RECONCILE_MARK_PAUSED, 0,
		"generation 9"},
	{"ended unseen", R, 0, NO_OP, SANDBOX_STOPPED, "guest_panic", 0, RECONCILE_MARK_STOPPED,
		"guest_panic", "has ended"},
	{"paused one ended unseen", P, 0, NO_OP, SANDBOX_STOPPED, "killed", 0,
		RECONCILE_MARK_STOPPED, "killed", "has ended"},
	{"ended without a cause", R, 0, NO_OP, SANDBOX_STOPPED, "", 0, RECONCILE_MARK_STOPPED,
		"host_lost", "has ended"},
	// missing
	{"running one missing", R, 0, NO_OP, NO_BOX, 0, 0, RECONCILE_MARK_STOPPED, "host_lost",
		"running, and the host does not have it"},
	{"paused one missing", P, 0, NO_OP, NO_BOX, 0, 0, RECONCILE_MARK_STOPPED, "host_lost",
		"paused, and the host does not have it"},
	{"create of an older version, missing", C, 0, NO_OP, NO_BOX, 0, 0, RECONCILE_MARK_STOPPED,
		"create_failed", "cut short"},
	{"create of an older version, made", C, 0, NO_OP, SANDBOX_RUNNING, 0, 0,
		RECONCILE_MARK_RUNNING, 0, "creating"},
	{"create of an older version, paused by now", C, 0, NO_OP, SANDBOX_PAUSED, 0, 1,
		RECONCILE_MARK_PAUSED, 0, "creating"},
	// never judged
	{"being created", C, 0, OPEN, NO_BOX, 0, 0, RECONCILE_NONE, 0, "on it is under way"},
	{"being created, the host has begun", C, 0, OPEN, SANDBOX_PENDING, 0, 0, RECONCILE_NONE, 0,
		"on it is under way"},
	{"being paused, gone from the host", R, 0, OPEN, NO_BOX, 0, 0, RECONCILE_NONE, 0,
		"on it is under way"},
	{"being resumed", P, 0, OPEN, SANDBOX_RUNNING, 0, 1, RECONCILE_NONE, 0,
		"on it is under way"},
	{"being destroyed, ended", R, 0, OPEN, SANDBOX_STOPPED, "killed", 0, RECONCILE_NONE, 0,
		"on it is under way"},
	{"the host creates", C, 0, NO_OP, SANDBOX_PENDING, 0, 0, RECONCILE_NONE, 0, "pending"},
	{"the host pauses by its time-out", R, 0, NO_OP, SANDBOX_PAUSING, 0, 0, RECONCILE_NONE, 0,
		"pausing"},
	{"the host resumes", P, 0, NO_OP, SANDBOX_RESUMING, 0, 0, RECONCILE_NONE, 0, "resuming"},
	{"the host ends it", R, 0, NO_OP, SANDBOX_STOPPING, 0, 0, RECONCILE_NONE, 0, "stopping"},
	{"the host failed to end it", R, 0, NO_OP, SANDBOX_ERROR, 0, 0, RECONCILE_NONE, 0,
		"tries on"},
	// operations that nobody is at any more
	{"create left over", C, 0, ORPHAN, NO_BOX, 0, 0, RECONCILE_FINISH_OPERATION, 0, OP},
	{"pause left over", R, 0, ORPHAN, SANDBOX_PAUSED, 0, 1, RECONCILE_FINISH_OPERATION, 0, OP},
	{"operation left over on what is gone", NO_ROW, 0, ORPHAN, NO_BOX, 0, 0,
		RECONCILE_FINISH_OPERATION, 0, OP},
	// unknown here
	{"unknown to all", NO_ROW, 0, NO_OP, SANDBOX_RUNNING, 0, 0, RECONCILE_REPORT_UNKNOWN, 0,
		"kept"},
	{"unknown and paused", NO_ROW, 0, NO_OP, SANDBOX_PAUSED, 0, 0, RECONCILE_REPORT_UNKNOWN, 0,
		"kept"},
	{"unknown, its create under way", NO_ROW, 0, OPEN, SANDBOX_RUNNING, 0, 0, RECONCILE_NONE, 0,
		"on it is under way"},
	{"unknown, its create refused", NO_ROW, 0, CREATE_FAILED, SANDBOX_RUNNING, 0, 0,
		RECONCILE_REMOVE_UNKNOWN, 0, "its create was given up"},
	{"unknown, its create ended long ago", NO_ROW, 0, CREATE_DONE, SANDBOX_PAUSED, 0, 0,
		RECONCILE_REMOVE_UNKNOWN, 0, "its create has ended"},
	{"unknown, it was destroyed", NO_ROW, 0, DESTROY_DONE, SANDBOX_RUNNING, 0, 0,
		RECONCILE_REMOVE_UNKNOWN, 0, "its destroy has ended"},
	{"unknown, it was paused once", NO_ROW, 0, PAUSE_DONE, SANDBOX_RUNNING, 0, 0,
		RECONCILE_REPORT_UNKNOWN, 0, "kept"},
	{"unknown, refused, still in the making", NO_ROW, 0, CREATE_FAILED, SANDBOX_PENDING, 0, 0,
		RECONCILE_NONE, 0, "the host is at it"},
	{"unknown and ended", NO_ROW, 0, NO_OP, SANDBOX_STOPPED, 0, 0, RECONCILE_NONE, 0,
		"forgotten here"},
	// ended here, alive there
	{"killed here, alive there", S, "killed", NO_OP, SANDBOX_RUNNING, 0, 0,
		RECONCILE_REMOVE_UNKNOWN, 0, "ended by a call"},
	{"killed here, being ended there", S, "killed", NO_OP, SANDBOX_STOPPING, 0, 0,
		RECONCILE_NONE, 0, "the host is at it"},
	{"lost here, alive there", S, "host_lost", NO_OP, SANDBOX_PAUSED, 0, 0,
		RECONCILE_REPORT_UNKNOWN, 0, "it ended here (host_lost)"},
	{"killed here, an operation at work", S, "killed", OPEN, SANDBOX_RUNNING, 0, 0,
		RECONCILE_NONE, 0, "on it is under way"},
};

static struct reconcile_op op_of(enum op_case c, const char *sandbox, const char *snapshot)
{
	struct reconcile_op op = {.id = OP, .sandbox = sandbox, .snapshot = snapshot};
	op.state = c == OPEN || c == ORPHAN ? RECONCILE_OP_OPEN
		   : c == CREATE_FAILED	    ? RECONCILE_OP_FAILED
					    : RECONCILE_OP_DONE;
	op.active = c == OPEN;
	op.makes = c == CREATE_DONE || c == CREATE_FAILED;
	op.removes = c == DESTROY_DONE;
	return op;
}

struct world {
	struct reconcile_row row;
	struct reconcile_sandbox box;
	struct reconcile_op op;
	struct reconcile_input in;
};

static void build(const struct row_case *c, struct world *w)
{
	*w = (struct world){
		.row = {"i1", c->row, 1, c->cause},
		.box = {"i1", c->box, c->other_generation ? 9 : 1, "", c->box_cause},
		.op = op_of(c->op, "i1", NULL),
		.in = {.reachable = true, .volume_ok = true, .explain = true},
	};
	w->in.rows = &w->row;
	w->in.n_rows = c->row != NO_ROW;
	w->in.sandboxes = &w->box;
	w->in.n_sandboxes = c->box != NO_BOX;
	w->in.ops = &w->op;
	w->in.n_ops = c->op != NO_OP;
}

static void run(const struct reconcile_input *in, struct reconcile_action **list, size_t *n)
{
	struct err e = {0};
	if (reconcile(in, list, n, &e) < 0)
		fail_msg("%s", e.text);
}

static bool acts(enum reconcile_kind k)
{
	return k != RECONCILE_NONE && k != RECONCILE_UNREACHABLE && k != RECONCILE_REPORT_UNKNOWN;
}

static void test_table(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		const struct row_case *c = &table[i];
		struct world w;
		struct reconcile_action *list;
		size_t n, matches = 0, others = 0;
		build(c, &w);
		run(&w.in, &list, &n);
		for (size_t k = 0; k < n; k++) {
			bool fits = list[k].kind == c->want &&
				    strstr(list[k].reason, c->want_reason) &&
				    (!c->want_cause || str_eq(list[k].cause, c->want_cause));
			matches += fits;
			others += !fits && acts(list[k].kind);
			assert_true(list[k].reason[0]);
		}
		if (matches != 1 || others != 0)
			fail_msg("%s: %zu actions, first %s (%s), cause '%s'", c->what, n,
				n ? reconcile_kind_name(list[0].kind) : "", n ? list[0].reason : "",
				n ? list[0].cause : "");
		free(list);
		// Without explanations only what is to be done is told.
		w.in.explain = false;
		run(&w.in, &list, &n);
		assert_int_equal(n, c->want != RECONCILE_NONE);
		free(list);
	}
}

// Whatever the database and the journal say: from silence, or without the volume, nothing follows.
static void test_silence_is_no_proof(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		for (int volume = 0; volume < 2; volume++) {
			struct world w;
			struct reconcile_action *list;
			size_t n;
			build(&table[i], &w);
			w.in.reachable = volume;
			w.in.volume_ok = !volume;
			run(&w.in, &list, &n);
			bool live = table[i].row != NO_ROW && table[i].row != ROW_STOPPED;
			assert_int_equal(n, live);
			if (live) {
				assert_int_equal(list[0].kind, RECONCILE_UNREACHABLE);
				assert_string_equal(list[0].id, "i1");
				assert_non_null(strstr(list[0].reason,
					volume ? "volume is absent" : "does not answer"));
			}
			free(list);
		}
}

static void test_snapshots(void **state)
{
	static const struct {
		const char *kind;
		bool named;
		enum op_case op;
		enum reconcile_kind want;
		const char *reason;
	} cases[] = {
		{"template", true, NO_OP, RECONCILE_NONE, "has its name"},
		{"template", false, OPEN, RECONCILE_NONE, "on it is under way"},
		{"template", true, OPEN, RECONCILE_NONE, "on it is under way"},
		{"template", false, CREATE_FAILED, RECONCILE_DROP_SNAPSHOT,
			"creation was given up"},
		{"template", false, CREATE_DONE, RECONCILE_DROP_SNAPSHOT, "creation has ended"},
		{"template", false, DESTROY_DONE, RECONCILE_DROP_SNAPSHOT, "deletion has ended"},
		{"template", true, CREATE_DONE, RECONCILE_NONE, "has its name"},
		{"template", false, NO_OP, RECONCILE_REPORT_UNKNOWN, "kept"},
		{"pause", false, NO_OP, RECONCILE_NONE, "the host's own"},
		{"pause", false, CREATE_FAILED, RECONCILE_NONE, "the host's own"},
		{"checkpoint", false, NO_OP, RECONCILE_NONE, "the host's own"},
		{"frozen", false, NO_OP, RECONCILE_NONE, "the host's own"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *const named[] = {SNAP};
		const struct reconcile_snapshot s = {SNAP, cases[i].kind};
		struct reconcile_op op = op_of(cases[i].op, NULL, SNAP);
		struct reconcile_input in = {.reachable = true,
			.volume_ok = true,
			.explain = true,
			.snapshots = &s,
			.n_snapshots = 1,
			.named = named,
			.n_named = cases[i].named,
			.ops = &op,
			.n_ops = cases[i].op != NO_OP};
		struct reconcile_action *list;
		size_t n;
		run(&in, &list, &n);
		const struct reconcile_action *last = &list[n - 1];
		if (last->kind != cases[i].want || !strstr(last->reason, cases[i].reason))
			fail_msg("case %zu: %s (%s)", i, reconcile_kind_name(last->kind),
				last->reason);
		assert_string_equal(last->id, SNAP);
		free(list);
	}
}

static void test_paused_must_be_in_the_store(void **state)
{
	const struct reconcile_row row = {"i1", ROW_PAUSED, 1, NULL};
	const struct reconcile_sandbox box = {"i1", SANDBOX_PAUSED, 1, SNAP, ""};
	const struct reconcile_snapshot snap = {SNAP, "pause"};
	struct reconcile_input in = {.reachable = true,
		.volume_ok = true,
		.rows = &row,
		.n_rows = 1,
		.sandboxes = &box,
		.n_sandboxes = 1,
		.snapshots = &snap,
		.n_snapshots = 1};
	struct reconcile_action *list;
	size_t n;
	run(&in, &list, &n);
	assert_int_equal(n, 0);
	free(list);
	in.n_snapshots = 0;
	run(&in, &list, &n);
	assert_int_equal(n, 1);
	assert_int_equal(list[0].kind, RECONCILE_REPORT_UNKNOWN);
	assert_non_null(strstr(list[0].reason, "no snapshot " SNAP));
	free(list);
}

// A fork's entries: one operation, and each child shielded by it.
static void test_fork_shields_its_children(void **state)
{
	const struct reconcile_row rows[] = {{"i3", ROW_CREATING, 0, NULL},
		{"i1", ROW_RUNNING, 1, NULL}, {"i2", ROW_CREATING, 0, NULL}};
	const struct reconcile_sandbox boxes[] = {
		{"i2", SANDBOX_RUNNING, 1, "", ""}, {"i1", SANDBOX_RUNNING, 1, "", ""}};
	const struct reconcile_op ops[] = {{.id = OP, .sandbox = "i1"},
		{.id = OP, .sandbox = "i2", .makes = true},
		{.id = OP, .sandbox = "i3", .makes = true}};
	struct reconcile_input in = {.reachable = true,
		.volume_ok = true,
		.rows = rows,
		.n_rows = ARRAY_SIZE(rows),
		.sandboxes = boxes,
		.n_sandboxes = ARRAY_SIZE(boxes),
		.ops = ops,
		.n_ops = ARRAY_SIZE(ops)};
	struct reconcile_action *list;
	size_t n;
	run(&in, &list, &n);
	assert_int_equal(n, 1);
	assert_int_equal(list[0].kind, RECONCILE_FINISH_OPERATION);
	assert_string_equal(list[0].op, OP);
	free(list);
}

// Of several entries about one id the open one counts, else the newest.
static void test_newest_entry_counts(void **state)
{
	const struct reconcile_sandbox box = {"i1", SANDBOX_RUNNING, 1, "", ""};
	struct reconcile_op ops[] = {
		{.id = OP, .sandbox = "i1", .state = RECONCILE_OP_DONE, .makes = true},
		{.id = "b", .sandbox = "i1", .state = RECONCILE_OP_OPEN, .active = true},
		{.id = "c", .sandbox = "i1", .state = RECONCILE_OP_FAILED, .makes = true}};
	struct reconcile_input in = {.reachable = true,
		.volume_ok = true,
		.sandboxes = &box,
		.n_sandboxes = 1,
		.ops = ops,
		.n_ops = 3};
	struct reconcile_action *list;
	size_t n;
	run(&in, &list, &n);
	assert_int_equal(n, 0);
	free(list);
	ops[1].state = RECONCILE_OP_DONE;
	run(&in, &list, &n);
	assert_int_equal(n, 1);
	assert_string_equal(list[0].op, "c");
	free(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_silence_is_no_proof),
		cmocka_unit_test(test_snapshots),
		cmocka_unit_test(test_paused_must_be_in_the_store),
		cmocka_unit_test(test_fork_shields_its_children),
		cmocka_unit_test(test_newest_entry_counts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
