// SPDX-License-Identifier: Apache-2.0
// Shims, VMMs and agents that fail, are slow, or fall silent; and users who do not wait.
//
//	OPERATION/CALL/fails	a call to a player fails, nothing was done
//	OPERATION/CALL/lost	it is done, but the answer comes after the time-out
//	OPERATION/CALL/silent	nothing is done, nothing is answered
//	starved/OPERATION	the guest has no processor for most of a minute: it is waited for
//	late/told		processes that end after a moment are no news
//	late/...		processes that need longer to die than they are waited for
//	adopt/CALL/...		the server was killed with the machine stopped; the next one meets a
//				VMM or an agent in trouble
//	adopt/rm/POINT		killed there; the next one's VMM answers nothing, and it is
//				destroyed
//	adopt/lost/...		its diff cannot become a layer, and it is settled once more
//	adopt/between/POINT	the same, while that is about to be tried again
//	twice/OPERATION		asked again, with the same id, while it is at work
//	rm/OPERATION		destroyed while it is at work
//	rm/late/OPERATION	the same, and it lets go only when the destroy has long been
// answered 	rm/again		destroyed again and again while its processes do not end
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/str.h"
#include "played/judge.h"
#include "played/points.h"

static const char *call;

static void trouble(enum trouble t)
{
	run = act_prepare(act);
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	stage_trouble(call, NULL, t, true);
	act_run(h, act, run);
	bool failed = run->rc < 0;
	if (failed)
		check(run->e.text[0], "the error says nothing");
	judge_one_of(
		h, !failed || act->gone_is_fine, failed || act->gone_is_fine, "after the trouble");
	stage_calm();
	judge_again(h);
	judge_use(h);
	play_close(h);
	h = play_open();
	play_check(h, &run->after, "after a restart");
	play_close(h);
}

static void fails(const void *arg)
{
	trouble(TROUBLE_FAILS);
}

static void lost(const void *arg)
{
	trouble(TROUBLE_LOST);
}

static void silent(const void *arg)
{
	trouble(TROUBLE_SILENT);
}

static const struct act *find_act(const char *name)
{
	for (size_t i = 0; i < n_acts; i++)
		if (str_eq(acts[i].name, name))
			return &acts[i];
	check(false, "no operation %s", name);
}

static void starved(const void *arg)
{
	act = find_act(arg);
	call = "@(envd_call_init|envd_call_health)";
	trouble(TROUBLE_LATE);
	check(run->rc == 0, "%s: %s", act->name, run->e.text);
}

// ---- processes that die late

// The operation that arg names ends while the processes do not; later they do. It is what it was
// told to be, or (where an error was told) what it was before.
static void late(const void *arg)
{
	act = find_act(arg);
	run = act_prepare(act);
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	atomic_store(&world.stage->stuck, 1);
	act_run(h, act, run);
	atomic_store(&world.stage->stuck, 0);
	judge_one_of(h, true, run->rc < 0, "when its processes have ended");
	judge_again(h);
	judge_use(h);
	play_close(h);
}

// What the server says while arg's processes do not end for a few tries.
static void late_told(const void *arg)
{
	char said[4096] = "";
	FILE *log = tmpfile();
	int console = dup(STDERR_FILENO);
	act = find_act(arg);
	run = act_prepare(act);
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	check(log && dup2(fileno(log), STDERR_FILENO) >= 0, "log");
	atomic_store(&world.stage->stuck, 1);
	unsigned before = atomic_load(&world.stage->n_calls);
	act_run(h, act, run);
	while (atomic_load(&world.stage->n_calls) < before + 8)
		usleep(1000);
	atomic_store(&world.stage->stuck, 0);
	judge_one_of(h, true, run->rc < 0, "when its processes have ended");
	play_close(h);
	dup2(console, STDERR_FILENO);
	check(pread(fileno(log), said, sizeof said - 1, 0) >= 0, "read the log");
	check(!strstr(said, " warn "), "%s", said);
	fclose(log);
	close(console);
}

static void serve_stuck(void *arg)
{
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	atomic_store(&world.stage->stuck, 1);
	act_run(h, act, run);
	kill(getpid(), SIGKILL);
}

static void serve_while_stuck(void *arg)
{
	struct host *h = world_open();
	atomic_store(&world.stage->stuck, 0);
	judge_one_of(h, true, run->rc < 0, "when its processes have ended");
	judge_again(h);
	judge_use(h);
	play_close(h);
}

static void late_and_restart(const void *arg)
{
	act = find_act(arg);
	run = act_prepare(act);
	check(!served(serve_stuck, NULL), "it lives");
	check(served(serve_while_stuck, NULL), "killed");
}

static void *create_anew(void *h)
{
	run->rc = act->run(h, run, NULL, true, &run->e);
	return NULL;
}

static void serve_and_create(void *arg)
{
	pthread_t thread;
	stage_trouble("shim_kill", run->after.box[NEW].id, TROUBLE_HOLDS, false);
	struct host *h = world_open();
	stage_wait_holding();
	check(pthread_create(&thread, NULL, create_anew, h) == 0, "thread");
	clock_sleep_ns(50 * NSEC_PER_MSEC); // either order must do
	stage_calm();
	pthread_join(thread, NULL);
	check(run->rc == 0, "made anew: %s", run->e.text);
	play_check(h, &run->after, "after it was made anew");
	play_close(h);
}

static const char *killed_at;
static void serve_and_stop_it(void *arg);

// What a killed server left of a create is freed while another operation makes the same sandbox.
static void create_while_freed(const void *arg)
{
	act = find_act("create-image");
	run = act_prepare(act);
	killed_at = arg;
	check(!served(serve_and_stop_it, NULL), "it lives");
	stage_calm();
	check(served(serve_and_create, NULL), "created");
}

// ---- a server that adopts a stopped machine

static void serve_and_stop_it(void *arg)
{
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	stage_fault(killed_at ? killed_at : "capture.after_stop", FAULT_KILL);
	act_run(h, act, run);
}

static void serve_in_trouble(void *arg)
{
	struct host *h = world_open();
	for (int i = 0; !atomic_load(&world.stage->reached); i++) {
		check(i < 60000, "%s is not called", call);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	play_close(h);
}

static void serve_and_judge(void *arg)
{
	struct host *h = play_open();
	judge_one_of(h, false, true, "after the next start");
	judge_again(h);
	judge_use(h);
	play_close(h);
}

static void adopt(enum trouble t)
{
	act = find_act("pause");
	run = act_prepare(act);
	check(!served(serve_and_stop_it, NULL), "it lives");
	stage_calm();
	stage_trouble(call, NULL, t, true);
	check(served(serve_in_trouble, NULL), "killed");
	stage_calm();
	check(served(serve_and_judge, NULL), "killed");
}

static void adopt_fails(const void *arg)
{
	call = arg;
	adopt(TROUBLE_FAILS);
}

static void adopt_silent(const void *arg)
{
	call = arg;
	adopt(TROUBLE_SILENT);
}

// The diff of the pause that was cut off is lost to the server that adopts it, which then tries
// again (the agent does not answer), or is killed and leaves it to the next one. What the diff had
// must be in the next snapshot all the same.
static void serve_and_lose_it(void *arg)
{
	struct host *h = world_open();
	for (int i = 0; !guest_goes_on(run->before.box[SUBJECT].id); i++) {
		check(i < 60000, "it never goes on");
		stage_skip_ms(10);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	play_close(h);
}

static void serve_and_be_killed(void *arg)
{
	world_open();
	stage_wait_holding();
	kill(getpid(), SIGKILL);
}

static void adopt_and_lose(const void *arg)
{
	char diff[256];
	killed_at = "capture.after_memory";
	act = find_act("pause");
	run = act_prepare(act);
	check(!served(serve_and_stop_it, NULL), "it lives");
	stage_calm();
	snprintf(diff, sizeof diff, "%s/sandboxes/%s/snap/mem", world.data,
		run->before.box[SUBJECT].id);
	check(truncate(diff, 100) == 0, "%s", diff); // as where the volume was full
	stage_trouble("envd_call_thaw", NULL, arg ? TROUBLE_HOLDS : TROUBLE_FAILS, true);
	check(served(arg ? serve_and_be_killed : serve_and_lose_it, NULL) == !arg, "the server");
	stage_calm();
	check(served(serve_and_judge, NULL), "killed");
}

// Destroyed while its VMM answers nothing to the server that adopts it.
static void serve_a_destroy(void *arg)
{
	struct err e = {0};
	struct host *h = world_open();
	stage_wait_holding();
	check(play_destroy(h, &run->before, SUBJECT, NULL, &e) == 0, "destroy: %s", e.text);
	then_destroyed(&run->before, SUBJECT);
	stage_calm();
	play_check(h, &run->before, "after the destroy");
	play_close(h);
}

static void adopt_and_rm(const void *arg)
{
	killed_at = arg;
	act = find_act("pause");
	run = act_prepare(act);
	check(!served(serve_and_stop_it, NULL), "it lives");
	stage_calm();
	stage_trouble("vmm_*", NULL, TROUBLE_HOLDS, false);
	check(served(serve_a_destroy, NULL), "killed");
}

static void skip_for(unsigned real_ms)
{
	for (unsigned i = 0; i < real_ms; i++) {
		stage_skip_ms(500);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
}

static void serve_a_destroy_between(void *arg)
{
	struct err e = {0};
	struct host *h = world_open();
	skip_for(200); // there is a long time between the tries by now
	check(play_destroy(h, &run->before, SUBJECT, NULL, &e) == 0, "destroy: %s", e.text);
	then_destroyed(&run->before, SUBJECT);
	stage_calm();
	skip_for(100);
	play_check(h, &run->before, "after the destroy");
	play_close(h);
}

static void adopt_and_rm_between(const void *arg)
{
	killed_at = arg;
	act = find_act("pause");
	run = act_prepare(act);
	check(!served(serve_and_stop_it, NULL), "it lives");
	stage_calm();
	stage_trouble("vmm_get_state", NULL, TROUBLE_FAILS, false);
	check(served(serve_a_destroy_between, NULL), "killed");
}

// ---- users who do not wait

static int second_rc;
static struct err second_e;

static void *first(void *h)
{
	act_run(h, act, run);
	return NULL;
}

static void *ask_too(void *h)
{
	second_rc = act->run(h, run, run->op, false, &second_e);
	return NULL;
}

static void *destroy_it(void *h)
{
	second_rc = play_destroy(h, &run->after, SUBJECT, NULL, &second_e);
	return NULL;
}

// Holds the operation at the first of its calls.
static struct host *meet(pthread_t threads[2], void *(*second)(void *))
{
	run = act_prepare(act);
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	stage_fault("*", FAULT_HOLD);
	check(pthread_create(&threads[0], NULL, first, h) == 0, "thread");
	stage_wait_holding();
	check(pthread_create(&threads[1], NULL, second, h) == 0, "thread");
	clock_sleep_ns(5 * NSEC_PER_MSEC); // likely it is there; either order must do
	stage_calm();
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	return h;
}

static void twice(const void *arg)
{
	pthread_t threads[2];
	act = arg;
	struct host *h = meet(threads, ask_too);
	check(run->rc == 0, "the first: %s", run->e.text);
	if (!str_starts(act->name, "fork") ||
		second_e.code != ERR_CONFLICT) // it says where to look
		check(second_rc == 0, "asked again: %s", second_e.text);
	play_check(h, &run->after, "after both");
	judge_use(h);
	play_close(h);
}

static void rm(const void *arg)
{
	pthread_t threads[2];
	act = arg;
	struct host *h = meet(threads, destroy_it);
	check(second_rc == 0, "destroy: %s", second_e.text);
	if (run->rc < 0)
		run->after = run->before;
	then_destroyed(&run->after, SUBJECT);
	play_check(h, &run->after, "after both");
	play_close(h);
}

// A step that is at a disk and not at the VMM ends well, although the machine is dead: after the
// destroy has been answered without it.
struct late_rm {
	const char *operation, *point;
};

static void rm_late(const void *arg)
{
	const struct late_rm *l = arg;
	pthread_t thread;
	struct err e = {0};
	act = find_act(l->operation);
	run = act_prepare(act);
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	unsigned box = str_starts(act->name, "create") ? NEW : SUBJECT;
	stage_fault(l->point, FAULT_HOLD);
	check(pthread_create(&thread, NULL, first, h) == 0, "thread");
	stage_wait_holding();
	check(play_destroy(h, &run->after, box, NULL, &e) == 0, "destroy: %s", e.text);
	stage_calm();
	pthread_join(thread, NULL);
	check(run->rc < 0 && run->e.code == ERR_CONFLICT, "%s: %s", act->name, run->e.text);
	run->after = run->before;
	then_destroyed(&run->after, box);
	play_check(h, &run->after, "after both");
	play_close(h);
}

static void rm_again(const void *arg)
{
	act = find_act("destroy-running");
	run = act_prepare(act);
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	atomic_store(&world.stage->stuck, 1);
	for (unsigned i = 0; i < 4; i++) {
		struct err e = {0};
		int rc = play_destroy(h, &run->after, SUBJECT, NULL, &e);
		check(rc == 0 || (i && e.code == ERR_NOT_FOUND), "destroy %u: %s", i, e.text);
	}
	atomic_store(&world.stage->stuck, 0);
	then_destroyed(&run->before, SUBJECT);
	play_check(h, &run->before, "when its processes have ended");
	play_close(h);
}

// The destroy has killed it and the operation has let go, but the destroy has not taken it up yet:
// the end is the destroy's, not one by itself.
static void rm_and_end(const void *arg)
{
	pthread_t threads[2];
	struct host_sandbox s = {0};
	struct err e = {0};
	act = find_act("snapshot-running");
	run = act_prepare(act);
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	stage_trouble("@(shim_kill|vmm_snapshot_create)", run->before.box[SUBJECT].id,
		TROUBLE_HOLDS, false);
	check(pthread_create(&threads[0], NULL, first, h) == 0, "thread");
	stage_wait_holding();
	check(pthread_create(&threads[1], NULL, destroy_it, h) == 0, "thread");
	pthread_join(threads[0], NULL);	    // its VMM is dead
	clock_sleep_ns(50 * NSEC_PER_MSEC); // who looks for ends has seen it; either order must do
	stage_calm();
	pthread_join(threads[1], NULL);
	check(second_rc == 0, "destroy: %s", second_e.text);
	check(host_get(h, run->before.box[SUBJECT].id, &s, &e) == 0, "%s", e.text);
	check(str_eq(s.cause, "killed"), "the cause is %s", s.cause);
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
	play_close(h);
	points_take_calls(world.stage);
}

struct slow_case {
	const struct act *act;
	char call[48], name[128];
	void (*way)(const void *);
};

static void run_case(const void *arg)
{
	const struct slow_case *c = arg;
	act = c->act;
	call = c->call;
	c->way(NULL);
}

#define MAX_CASES 2000
static struct played_case cases[MAX_CASES];
static struct slow_case slow[MAX_CASES];
static size_t n_cases;

static void add(const struct act *a, const char *name, const char *what, void (*f)(const void *))
{
	struct slow_case *c = &slow[n_cases];
	*c = (struct slow_case){.act = a, .way = f};
	snprintf(c->call, sizeof c->call, "%s", name);
	snprintf(c->name, sizeof c->name, "%s/%s/%s", a->name, name, what);
	cases[n_cases++] = (struct played_case){c->name, run_case, c};
}

static void add_named(const char *first_half, const struct act *a, void (*f)(const void *))
{
	struct slow_case *c = &slow[n_cases];
	snprintf(c->name, sizeof c->name, "%s/%s", first_half, a->name);
	cases[n_cases++] = (struct played_case){c->name, f, a};
}

int main(int argc, char **argv)
{
	static const struct late_rm late_rms[] = {
		{"pause", "ingest.after_layer"},
		{"resume", "resume.after_disk"},
		{"create-image", "create.after_disk"},
		{"rollback-running", "snapshot.after_files"},
	};
	static const struct played_case others[] = {
		{"rm/late/pause", rm_late, &late_rms[0]},
		{"rm/late/resume", rm_late, &late_rms[1]},
		{"rm/late/create", rm_late, &late_rms[2]},
		{"rm/late/rollback", rm_late, &late_rms[3]},
		{"rm/again", rm_again},
		{"starved/create-boot", starved, "create-boot"},
		{"starved/create-image", starved, "create-image"},
		{"starved/resume", starved, "resume"},
		{"starved/rollback", starved, "rollback-running"},
		{"late/told", late_told, "destroy-running"},
		{"anew/create.after_journal", create_while_freed, "create.after_journal"},
		{"anew/create.after_slot", create_while_freed, "create.after_slot"},
		{"anew/create.after_disk", create_while_freed, "create.after_disk"},
		{"late/pause", late, "pause"},
		{"late/rollback-running", late, "rollback-running"},
		{"late/destroy-running", late, "destroy-running"},
		{"late/due-kill", late, "due-kill"},
		{"late/due-pause", late, "due-pause"},
		{"late/restart/pause", late_and_restart, "pause"},
		{"late/restart/destroy-running", late_and_restart, "destroy-running"},
		{"adopt/vmm_get_state/silent", adopt_silent, "vmm_get_state"},
		{"adopt/vmm_resume/silent", adopt_silent, "vmm_resume"},
		{"adopt/vmm_resume/fails", adopt_fails, "vmm_resume"},
		{"adopt/envd_call_thaw/silent", adopt_silent, "envd_call_thaw"},
		{"adopt/envd_call_thaw/fails", adopt_fails, "envd_call_thaw"},
		{"adopt/lost/again", adopt_and_lose, NULL},
		{"adopt/lost/killed", adopt_and_lose, ""},
		{"rm/end", rm_and_end},
		{"adopt/between/capture.after_disk", adopt_and_rm_between, "capture.after_disk"},
		{"adopt/between/ingest.after_layer", adopt_and_rm_between, "ingest.after_layer"},
		{"adopt/between/snapshot.after_files", adopt_and_rm_between,
			"snapshot.after_files"},
		{"adopt/rm/capture.after_freeze", adopt_and_rm, "capture.after_freeze"},
		{"adopt/rm/capture.after_stop", adopt_and_rm, "capture.after_stop"},
		{"adopt/rm/capture.after_memory", adopt_and_rm, "capture.after_memory"},
		{"adopt/rm/capture.after_disk", adopt_and_rm, "capture.after_disk"},
		{"adopt/rm/ingest.after_layer", adopt_and_rm, "ingest.after_layer"},
		{"adopt/rm/snapshot.after_files", adopt_and_rm, "snapshot.after_files"},
		{"adopt/rm/snapshot.after_header", adopt_and_rm, "snapshot.after_header"},
	};
	for (size_t a = 0; a < n_acts; a++) {
		act = &acts[a];
		const struct played_case one = {act->name, discover, NULL};
		points_begin(act->name);
		if (cases_run(1, (char *[]){"discover", NULL}, &one, 1, NULL, 0) != 0)
			return 1;
		for (size_t i = 0; i < points_of_act() && n_cases < MAX_CASES - 100; i++) {
			add(act, point_of_act(i), "fails", fails);
			if (str_starts(point_of_act(i), "vmm_put_"))
				continue;
			add(act, point_of_act(i), "lost", lost);
			add(act, point_of_act(i), "silent", silent);
		}
		if (act->timed)
			continue;
		add_named("twice", act, twice);
		if (!str_starts(act->name, "destroy"))
			add_named("rm", act, rm);
	}
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		cases[n_cases++] = others[i];
	return cases_run(argc, argv, cases, n_cases, NULL, 0);
}
