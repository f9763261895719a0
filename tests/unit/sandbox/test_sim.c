// SPDX-License-Identifier: Apache-2.0
// Random histories. Users do random things to a few sandboxes; steps fail, players are in trouble,
// the server is killed and started again, guests end, and the host's database is lost or an older
// one. After each step and each start the host is compared with the model: what was told to be done
// is there to the last byte, and what is there is known.
//
// "sim/N" is the history of seed N (PLAYED_TRACE=1 tells its steps). "more/WHAT" is a longer one
// with something that today's code does not bear, and that the others therefore do without; an
// entry that is mended goes into all (struct trouble_set). "finds/FAULT": a fault is played, by
// what it would leave behind; the comparison has to find it.
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "played/lost.h"
#include "played/play.h"
#include "snapshot/header.h"

#define SESSIONS 6
#define MORE_SESSIONS 24
#define STEPS 8

enum wrong { WRONG_NOTHING, WRONG_DATABASE, WRONG_LAYERS, WRONG_END };

// What may go wrong besides single faults and lost answers.
struct trouble_set {
	bool stuck;    // processes do not end for longer than they are waited for
	bool still;    // a guest is not let go on, or the answer of its freeze is lost
	bool commit;   // a step fails between whole files and the row
	bool database; // host.db is lost or an older one
};

static struct sim {
	struct play is, after, middle; // before the step, after it, halfway
	bool under_way;
	bool copied; // there is an older copy of the database
	struct trouble_set with;
	uint64_t random;
	unsigned session, step;
	enum wrong wrong;
	char did[120];
} * sim;

static unsigned pick(unsigned n)
{
	sim->random ^= sim->random << 13;
	sim->random ^= sim->random >> 7;
	sim->random ^= sim->random << 17;
	return (unsigned)(sim->random >> 11) % n;
}

_printf_(1, 2) static void trace(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(sim->did, sizeof sim->did, fmt, ap);
	va_end(ap);
	if (getenv("PLAYED_TRACE"))
		fprintf(stderr, "%u.%u %s\n", sim->session, sim->step, sim->did);
}

// One in a state, or -1.
static int pick_box(enum box_state state)
{
	unsigned from = pick(PLAY_BOXES);
	for (unsigned i = 0; i < PLAY_BOXES; i++)
		if (sim->is.box[(from + i) % PLAY_BOXES].state == state)
			return (int)((from + i) % PLAY_BOXES);
	return -1;
}

static int pick_snap(bool there, const char *of)
{
	unsigned from = pick(PLAY_SNAPS);
	for (unsigned i = 0; i < PLAY_SNAPS; i++) {
		const struct snap *s = &sim->is.snap[(from + i) % PLAY_SNAPS];
		if (s->there == there && (!of || str_eq(s->box, of)))
			return (int)((from + i) % PLAY_SNAPS);
	}
	return -1;
}

// Ids serve once.
static void new_box(unsigned box)
{
	id_new_sandbox(sim->is.box[box].id);
	memcpy(sim->after.box[box].id, sim->is.box[box].id, SANDBOX_ID_SIZE);
	memcpy(sim->middle.box[box].id, sim->is.box[box].id, SANDBOX_ID_SIZE);
}

// ---- steps: 1 where there is nothing to do it to; else what the host says

static int step_create(struct host *h, struct err *e)
{
	int box = pick_box(BOX_NONE), snap = pick(2) ? pick_snap(true, NULL) : -1;
	if (box < 0)
		return 1;
	bool cold = pick(3) == 0;
	new_box((unsigned)box);
	then_created(&sim->after, (unsigned)box, snap);
	trace("create %d of %d%s", box, snap, cold ? " cold" : "");
	return play_create(h, &sim->after, (unsigned)box, snap, cold, NULL, e);
}

static int step_pause(struct host *h, struct err *e)
{
	int box = pick_box(BOX_RUNNING);
	if (box < 0)
		return 1;
	then_paused(&sim->after, (unsigned)box);
	trace("pause %d", box);
	return play_pause(h, &sim->after, (unsigned)box, NULL, e);
}

static int step_resume(struct host *h, struct err *e)
{
	int box = pick_box(BOX_PAUSED);
	if (box < 0)
		return 1;
	bool disk_only = pick(5) == 0;
	then_resumed(&sim->after, (unsigned)box, -1, disk_only);
	trace("resume %d%s", box, disk_only ? " from its disk" : "");
	return play_resume(h, &sim->after, (unsigned)box, -1, disk_only, NULL, e);
}

static int step_roll_back(struct host *h, struct err *e)
{
	int box = pick_box(pick(2) ? BOX_PAUSED : BOX_RUNNING);
	int snap = box < 0 ? -1 : pick_snap(true, sim->is.box[box].id);
	if (snap < 0)
		return 1;
	then_resumed(&sim->after, (unsigned)box, snap, false);
	then_resumed(&sim->middle, (unsigned)box, snap, false);
	then_paused(&sim->middle, (unsigned)box);
	trace("roll %d back to %d", box, snap);
	return play_resume(h, &sim->after, (unsigned)box, snap, false, NULL, e);
}

static int step_snapshot(struct host *h, struct err *e)
{
	int box = pick_box(pick(3) ? BOX_RUNNING : BOX_PAUSED), snap = pick_snap(false, NULL);
	if (box < 0 || snap < 0)
		return 1;
	id_new_uuid(sim->is.snap[snap].id);
	memcpy(sim->after.snap[snap].id, sim->is.snap[snap].id, UUID_SIZE);
	memcpy(sim->middle.snap[snap].id, sim->is.snap[snap].id, UUID_SIZE);
	then_snapshot(&sim->after, (unsigned)box, (unsigned)snap);
	trace("snapshot %d of %d", snap, box);
	return play_snapshot(h, &sim->after, (unsigned)box, (unsigned)snap, NULL, e);
}

static int step_delete(struct host *h, struct err *e)
{
	int snap = pick_snap(true, NULL);
	if (snap < 0)
		return 1;
	then_deleted(&sim->after, (unsigned)snap);
	trace("delete snapshot %d", snap);
	return play_delete(h, &sim->after, (unsigned)snap, NULL, e);
}

static int step_fork(struct host *h, struct err *e)
{
	int box = pick_box(pick(3) ? BOX_RUNNING : BOX_PAUSED), first = -1;
	for (unsigned i = 0; i + 1 < PLAY_BOXES && first < 0; i++)
		if (!sim->is.box[i].state && !sim->is.box[i + 1].state)
			first = (int)i;
	if (box < 0 || first < 0)
		return 1;
	new_box((unsigned)first);
	new_box((unsigned)first + 1);
	then_forked(&sim->after, (unsigned)box, (unsigned)first);
	trace("fork %d into %d and the next", box, first);
	return play_fork(h, &sim->after, (unsigned)box, (unsigned)first, NULL, e);
}

static int step_destroy(struct host *h, struct err *e)
{
	int box = pick_box(pick(2) ? BOX_RUNNING : BOX_PAUSED);
	if (box < 0)
		return 1;
	then_destroyed(&sim->after, (unsigned)box);
	trace("destroy %d", box);
	return play_destroy(h, &sim->after, (unsigned)box, NULL, e);
}

static int step_time_out(struct host *h, struct err *e)
{
	char op[UUID_SIZE];
	int box = pick_box(BOX_RUNNING);
	if (box < 0)
		return 1;
	then_destroyed(&sim->after, (unsigned)box);
	id_new_uuid(op);
	trace("time-out of %d", box);
	return host_set_timeout(h, op, sim->is.box[box].id, clock_realtime_ns(), e);
}

static int step_crash(struct host *h, struct err *e)
{
	int box = pick_box(BOX_RUNNING);
	if (box < 0)
		return 1;
	then_destroyed(&sim->after, (unsigned)box);
	trace("end of %d", box);
	guest_crash(sim->is.box[box].id, pick(2) ? "vmm_crash" : NULL);
	return 0;
}

typedef int (*step_fn)(struct host *h, struct err *e);
static step_fn pick_step(void)
{
	static const step_fn steps[] = {step_create, step_create, step_create, step_pause,
		step_pause, step_resume, step_resume, step_roll_back, step_snapshot, step_delete,
		step_fork, step_destroy, step_time_out, step_crash};
	return steps[pick(ARRAY_SIZE(steps))];
}

// ---- what goes wrong meanwhile

// After these nobody lets the guest go on (see the table of known faults).
static bool leaves_it_standing(const char *call, enum trouble t)
{
	return str_eq(call, "envd_call_thaw") || str_eq(call, "vmm_resume") ||
	       (str_eq(call, "envd_call_freeze") && t == TROUBLE_LOST);
}

static void pick_call(void)
{
	static const char *const calls[] = {"vmm_snapshot_create", "vmm_snapshot_load", "vmm_pause",
		"vmm_resume", "vmm_start", "envd_call_freeze", "envd_call_thaw", "envd_call_init",
		"envd_call_health", "shim_start", "shim_stop", "slot_pool_take"};
	static const enum trouble troubles[] = {TROUBLE_FAILS, TROUBLE_LOST, TROUBLE_SILENT};
	const char *call;
	enum trouble t;
	do {
		call = calls[pick(ARRAY_SIZE(calls))];
		t = troubles[pick(ARRAY_SIZE(troubles))];
	} while (sim->with.still && !leaves_it_standing(call, t));
	if (str_eq(call, "shim_stop") && !sim->with.stuck)
		return;
	if (sim->with.still || !leaves_it_standing(call, t))
		stage_trouble(call, NULL, t, true);
}

static void pick_trouble(void)
{
	static const char *const commits[] = {"snapshot.before_commit", "fork.before_commit"};
	atomic_store(&world.stage->spare_commits, !sim->with.commit);
	switch (pick(6)) {
	case 0:
		stage_fault(sim->with.commit ? commits[pick(2)] : "*", FAULT_FAIL);
		atomic_store(&world.stage->count, sim->with.commit ? 1 : (int)pick(14) + 1);
		break;
	case 1:
		stage_fault("*", FAULT_KILL);
		atomic_store(&world.stage->count, (int)pick(14) + 1);
		break;
	case 2:
		pick_call();
		break;
	case 3:
		if (sim->with.still)
			pick_call();
		atomic_store(&world.stage->stuck, sim->with.stuck);
		break;
	default:
		break;
	}
}

static void judge(struct host *h, bool done, const char *when)
{
	const struct play *may[] = {&sim->after, &sim->is, &sim->middle};
	size_t n = done ? 1 : 3;
	const char *wrong = play_never(h, may, n);
	check(!wrong, "%u.%u %s, %s: %s", sim->session, sim->step, sim->did, when, wrong);
	// From here on it is what it is.
	struct play is = sim->after;
	for (unsigned i = 0; i < PLAY_BOXES; i++)
		is.box[i] = may[play_which(h, may, n, i)]->box[i];
	struct host_snapshot *rows = NULL;
	size_t n_rows = 0;
	check(host_snapshots(h, &rows, &n_rows, NULL) == 0, "snapshots");
	for (unsigned i = 0; i < PLAY_SNAPS; i++) {
		is.snap[i].there = false;
		for (size_t k = 0; k < n_rows; k++)
			is.snap[i].there |= str_eq(rows[k].id, is.snap[i].id);
		if (is.snap[i].there && !sim->after.snap[i].there)
			is.snap[i] = sim->is.snap[i];
	}
	free(rows);
	sim->is = sim->after = sim->middle = is;
	sim->under_way = false;
}

static void one_step(struct host *h)
{
	struct err e = {0};
	sim->after = sim->middle = sim->is;
	sim->under_way = true;
	pick_trouble();
	int rc = pick_step()(h, &e);
	stage_calm();
	if (rc > 0) {
		sim->under_way = false;
		return;
	}
	judge(h, rc == 0, rc < 0 ? e.text : "done");
	for (unsigned i = 0; i < PLAY_BOXES; i++)
		if (sim->is.box[i].state == BOX_RUNNING && pick(2))
			play_mark(&sim->is, i);
	sim->after = sim->middle = sim->is;
}

static void session(void *arg)
{
	struct host *h = play_open();
	if (sim->under_way || sim->session == 0)
		judge(h, false, "after a start");
	else
		play_check(h, &sim->is, "after a start");
	for (unsigned i = 0; i < STEPS; i++, sim->step++)
		one_step(h);
	play_close(h);
}

// ---- the database, lost or an older one

// An older copy is of whenever a session ended; the newest is kept aside while it is tried.
static void try_wrong_ones(void)
{
	database_move("", "newest.");
	must_refuse();
	if (sim->copied) {
		trace("an older database");
		database_copy("older.", "");
		must_refuse();
	}
	database_copy("newest.", "");
	database_of_another();
	trace("another volume's database");
	must_refuse();
}

// What ended by itself has a console and no row any more: that is not known.
static void open_rebuilt(void *arg)
{
	size_t n = 0;
	struct err e = {0};
	struct host *h = play_open();
	check(host_remove_unknown(h, &n, &e) == 0, "remove what is unknown: %s", e.text);
	play_check(h, &sim->is, "with a database made anew");
	play_close(h);
}

static void lose_database(void)
{
	try_wrong_ones();
	if (pick(3) == 0) {
		trace("the database is put back");
		database_move("newest.", "");
		sim->copied = false;
		return;
	}
	trace("the database is made anew");
	rebuild(false);
	check(served(open_rebuilt, NULL), "killed");
	sim->copied = false;
}

// ---- faults, by what they would leave

// Of the layers that only running sandboxes name.
static void collect_layers_of_running(void)
{
	char path[512];
	for (unsigned i = 0; i < PLAY_BOXES; i++) {
		_cleanup_(header_freep) struct header *hd = NULL;
		snprintf(path, sizeof path, "%s/sandboxes/%s/base.hdr", world.data,
			sim->is.box[i].id);
		if (sim->is.box[i].state != BOX_RUNNING ||
			header_read(AT_FDCWD, path, &hd, NULL) < 0 || !hd->n_layers)
			continue;
		snprintf(path, sizeof path, "%s/layers/%s", world.data,
			hd->layers[hd->n_layers - 1]);
		unlink(path);
	}
}

static void go_wrong(void)
{
	switch (sim->wrong) {
	case WRONG_DATABASE:
		database_sql("DELETE FROM sandboxes; DELETE FROM snapshots WHERE kind <> 'frozen'");
		break;
	case WRONG_LAYERS:
		collect_layers_of_running();
		break;
	case WRONG_END:
		database_sql(
			"UPDATE sandboxes SET state = 'stopped', cause = 'shim_lost' WHERE state = "
			"'paused'");
		break;
	case WRONG_NOTHING:
		break;
	}
}

static void live(uint64_t seed, unsigned sessions, enum wrong wrong, struct trouble_set with)
{
	sim = mmap(NULL, sizeof *sim, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(sim != MAP_FAILED, "mmap");
	sim->random = seed * 0x9e3779b97f4a7c15ull + 1;
	sim->wrong = wrong;
	sim->with = with;
	world.firecracker = seed % 4 == 3;
	struct play *p = play_new();
	sim->is = sim->after = sim->middle = *p;
	for (sim->session = 0; sim->session < sessions; sim->session++) {
		served(session, NULL);
		stage_calm();
		if (sim->with.database && pick(3) == 0 && !sim->under_way)
			lose_database();
		else if (sim->with.database && pick(3) == 0) {
			database_copy("", "older.");
			sim->copied = true;
		}
		go_wrong();
	}
}

static void history(const void *arg)
{
	live(*(const uint64_t *)arg, SESSIONS, WRONG_NOTHING, (struct trouble_set){0});
}

static void more(const void *arg)
{
	live(1000, MORE_SESSIONS, WRONG_NOTHING, *(const struct trouble_set *)arg);
}

static void finds(const void *arg)
{
	int status;
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		case_is_known = true; // it is to fail
		live(1, MORE_SESSIONS, *(const enum wrong *)arg, (struct trouble_set){0});
		exit(0);
	}
	check(pid > 0 && waitpid(pid, &status, 0) == pid, "fork");
	check(WIFEXITED(status) && WEXITSTATUS(status) == CHECK_FAILED, "it was not found");
}

#define N_SEEDS 40
int main(int argc, char **argv)
{
	static struct played_case cases[N_SEEDS + 16];
	static uint64_t seeds[N_SEEDS];
	static char names[N_SEEDS][16];
	static const enum wrong wrongs[] = {WRONG_DATABASE, WRONG_LAYERS, WRONG_END};
	static const struct trouble_set sets[] = {
		{.stuck = true}, {.still = true}, {.commit = true}, {.database = true}};
	size_t n = 0;
	for (; n < N_SEEDS; n++) {
		seeds[n] = n;
		snprintf(names[n], sizeof names[n], "sim/%zu", n);
		cases[n] = (struct played_case){names[n], history, &seeds[n]};
	}
	cases[n++] = (struct played_case){"finds/database", finds, &wrongs[0]};
	cases[n++] = (struct played_case){"finds/layers", finds, &wrongs[1]};
	cases[n++] = (struct played_case){"finds/end", finds, &wrongs[2]};
	cases[n++] = (struct played_case){"more/stuck", more, &sets[0]};
	cases[n++] = (struct played_case){"more/still", more, &sets[1]};
	cases[n++] = (struct played_case){"more/commit", more, &sets[2]};
	cases[n++] = (struct played_case){"more/database", more, &sets[3]};
	return cases_run(argc, argv, cases, n, NULL, 0);
}
