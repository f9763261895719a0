// SPDX-License-Identifier: Apache-2.0
// Every operation at every fault point, in four ways. The points are not written down here: each
// operation is run once, and tells which it passes. A point in the code that none of them passes
// fails the test "points".
//
// * OPERATION/POINT/fail: the step fails. The error is told, the state is the one before (or
//   after), nothing is left over, and the operation works when it is tried again.
// * OPERATION/POINT/kill: the server is killed there. The next one finds it before or after.
// * OPERATION/POINT/again: the same, and that server is killed at its first point, the next one at
//   its second, and so on.
// * OPERATION/POINT/slow: the step takes long. Meanwhile users do other things.
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/str.h"
#include "played/judge.h"
#include "played/points.h"

static const char *point; // of this case

static void fail(const void *arg)
{
	run = act_prepare(act);
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	stage_fault(point, FAULT_FAIL);
	act_run(h, act, run);
	bool failed = run->rc < 0;
	if (failed)
		check(run->e.text[0], "the error says nothing");
	judge_one_of(
		h, !failed || act->gone_is_fine, failed || act->gone_is_fine, "after the failure");
	// Behind the users' backs it may come later.
	for (int i = 0; !atomic_load(&world.stage->reached); i++) {
		check(i < 20000, "the point was not reached");
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	stage_calm();
	judge_again(h);
	judge_use(h);
	play_close(h);
	h = play_open();
	play_check(h, &run->after, "after a restart");
	play_close(h);
}

static void serve_prepare(void *arg)
{
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	play_close(h);
}

static void serve_and_die(void *arg)
{
	struct host *h = play_open();
	play_idle(h, &run->before, "after a restart");
	stage_fault(point, FAULT_KILL);
	act_run(h, act, run);
	// It may be reached behind the users' backs only.
	judge_one_of(h, true, false, "after the operation");
	play_idle(h, &run->after, "after the operation");
	check(false, "the point was not reached");
}

static void serve_and_judge(void *arg)
{
	struct host *h = play_open();
	judge_one_of(h, true, true, "after the kill");
	judge_again(h);
	judge_use(h);
	play_close(h);
}

static void kill_at(const void *arg)
{
	run = act_prepare(act);
	check(served(serve_prepare, NULL), "prepared");
	check(!served(serve_and_die, NULL), "it lives");
	stage_calm();
	check(served(serve_and_judge, NULL), "judged");
}

static void serve_at_first(void *arg)
{
	play_close(play_open());
}

static void kill_again(const void *arg)
{
	run = act_prepare(act);
	check(served(serve_prepare, NULL), "prepared");
	check(!served(serve_and_die, NULL), "it lives");
	for (int i = 1; i < 40; i++) {
		stage_fault("*", FAULT_KILL);
		atomic_store(&world.stage->count, i);
		if (served(serve_at_first, NULL))
			break;
	}
	stage_calm();
	check(served(serve_and_judge, NULL), "judged");
}

// ---- slow

static _Atomic(const char *) doing;

static void *operate(void *h)
{
	act_run(h, act, run);
	return NULL;
}

static void wait_for(struct host *h, unsigned box, enum box_state state)
{
	run->before.box[box].state = run->after.box[box].state = state;
	const struct play *p[] = {&run->after};
	while (play_which(h, p, 1, box) < 0)
		clock_sleep_ns(NSEC_PER_MSEC);
}

#define TRY(what, call)                                                                            \
	do {                                                                                       \
		struct err e = {0};                                                                \
		doing = what;                                                                      \
		check((call) == 0, what ": %s", e.text);                                           \
	} while (0)

// What users do beside a slow operation.
static void *use_others(void *arg)
{
	struct host *h = arg;
	struct play *p = &run->after;
	struct host_sandbox *list, s;
	struct host_snapshot *snaps;
	struct host_event *events = NULL;
	size_t n = 0;
	char op[UUID_SIZE];
	TRY("list", host_list(h, &list, &n, &e));
	free(list);
	TRY("snapshots", host_snapshots(h, &snaps, &n, &e));
	free(snaps);
	TRY("get", host_get(h, p->box[SUBJECT].id, &s, &e) && e.code != ERR_NOT_FOUND);
	TRY("events", host_events(h, 1ull << 40, 10, 0, &events, &n, &e));
	free(events);
	TRY("pause of another", play_pause(h, p, OTHER, NULL, &e));
	TRY("resume of another", play_resume(h, p, OTHER, -1, false, NULL, &e));
	id_new_uuid(op);
	TRY("set_timeout of another",
		host_set_timeout(h, op, p->box[DUE].id, clock_realtime_ns(), &e));
	doing = "time-out of another";
	wait_for(h, DUE, BOX_NONE);
	TRY("destroy of a paused one", play_destroy(h, p, PAUSED, NULL, &e));
	wait_for(h, PAUSED, BOX_NONE);
	doing = "end of another";
	guest_crash(p->box[ENDS].id, "vmm_crash");
	wait_for(h, ENDS, BOX_NONE);
	doing = NULL;
	return NULL;
}

static void slow(const void *arg)
{
	pthread_t operation, users;
	run = act_prepare(act);
	struct host *h = play_open();
	act_prepare_in(h, act, run, true);
	stage_fault(point, FAULT_HOLD);
	doing = "nothing";
	check(pthread_create(&operation, NULL, operate, h) == 0, "thread");
	stage_wait_holding();
	check(pthread_create(&users, NULL, use_others, h) == 0, "thread");
	for (int i = 0; doing && i < (case_is_known ? 1000 : 20000); i++)
		clock_sleep_ns(NSEC_PER_MSEC);
	check(!doing, "while it is at %s, this does not go on: %s", point, doing);
	stage_let_go();
	pthread_join(operation, NULL);
	pthread_join(users, NULL);
	check(run->rc == 0, "slow: %s", run->e.text);
	stage_calm();
	play_check(h, &run->after, "after the slow step");
	judge_use(h);
	play_close(h);
}

// ---- the table of cases

static void discover(const void *arg)
{
	run = act_prepare(act);
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	act_run(h, act, run);
	check(run->rc == 0, "%s: %s", act->name, run->e.text);
	play_idle(h, &run->after, act->name);
	play_close(h);
	points_take(world.stage);
}

struct fault_case {
	const struct act *act;
	char point[48], name[128];
	void (*way)(const void *);
};

static void run_case(const void *arg)
{
	const struct fault_case *c = arg;
	act = c->act;
	point = c->point;
	c->way(NULL);
}

static void all_points_are_passed(const void *arg)
{
	points_check();
}

#define MAX_CASES 2000
int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*way)(const void *);
	} ways[] = {{"fail", fail}, {"kill", kill_at}, {"again", kill_again}, {"slow", slow}};
	static struct played_case cases[MAX_CASES];
	static struct fault_case faults[MAX_CASES];
	size_t n = 0;
	for (size_t a = 0; a < n_acts; a++) {
		act = &acts[a];
		const struct played_case one = {act->name, discover, NULL};
		points_begin(act->name);
		if (cases_run(1, (char *[]){"discover", NULL}, &one, 1, NULL, 0) != 0)
			return 1;
		for (size_t i = 0; i < points_of_act(); i++)
			for (size_t w = 0; w < ARRAY_SIZE(ways) && n < MAX_CASES - 1; w++, n++) {
				struct fault_case *c = &faults[n];
				*c = (struct fault_case){.act = act, .way = ways[w].way};
				snprintf(c->point, sizeof c->point, "%s", point_of_act(i));
				snprintf(c->name, sizeof c->name, "%s/%s/%s", act->name, c->point,
					ways[w].name);
				cases[n] = (struct played_case){c->name, run_case, c};
			}
	}
	cases[n++] = (struct played_case){"points", all_points_are_passed, NULL};
	return cases_run(argc, argv, cases, n, NULL, 0);
}
