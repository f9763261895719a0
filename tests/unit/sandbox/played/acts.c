// SPDX-License-Identifier: Apache-2.0
#include "played/acts.h"
#include <string.h>
#include <sys/mman.h>
#include "base/clock.h"
#include "base/str.h"

#define DO(call)                                                                                   \
	do {                                                                                       \
		struct err e = {0};                                                                \
		check((call) == 0, "%s: %s", #call, e.text);                                       \
	} while (0)

// ---- creates

static int create_boot(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return play_create(h, &r->after, NEW, -1, true, op, e);
}

static int create_image(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return play_create(h, &r->after, NEW, -1, false, op, e);
}

static int create_snapshot(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return play_create(h, &r->after, NEW, 0, false, op, e);
}

static void then_new(struct play *p, bool again)
{
	then_created(p, NEW, -1);
}

static void then_new_of_snapshot(struct play *p, bool again)
{
	then_created(p, NEW, 0);
}

// ---- pause, resume, roll back

static void be_paused(struct host *h, struct play *p)
{
	DO(play_pause(h, p, SUBJECT, NULL, &e));
	then_paused(p, SUBJECT);
}

static int do_pause(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return play_pause(h, &r->after, SUBJECT, op, e);
}

// Its agent refuses from now on.
static void lose_agent(struct host *h, struct play *p)
{
	check(guest_set_agent(p->box[SUBJECT].id, NULL, "stolen"), "no agent");
}

static void then_pause(struct play *p, bool again)
{
	then_paused(p, SUBJECT);
}

static int resume(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return play_resume(h, &r->after, SUBJECT, -1, false, op, e);
}

static void then_resume(struct play *p, bool again)
{
	then_resumed(p, SUBJECT, -1, false);
}

// Paused without its agent: its memory is resumed once. Tried again it boots.
static void be_paused_alone(struct host *h, struct play *p)
{
	lose_agent(h, p);
	be_paused(h, p);
}

static int resume_once(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return play_resume(h, &r->after, SUBJECT, -1, again, op, e);
}

static void then_resume_once(struct play *p, bool again)
{
	then_resumed(p, SUBJECT, -1, again);
}

static int resume_disk(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return play_resume(h, &r->after, SUBJECT, -1, true, op, e);
}

static void then_resume_disk(struct play *p, bool again)
{
	then_resumed(p, SUBJECT, -1, true);
}

static int roll_back(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return play_resume(h, &r->after, SUBJECT, 0, false, op, e);
}

static void then_roll_back(struct play *p, bool again)
{
	then_resumed(p, SUBJECT, 0, false);
}

// Paused at the snapshot that it goes back to.
static void halfway_back(struct play *p)
{
	then_resumed(p, SUBJECT, 0, false);
	then_paused(p, SUBJECT);
}

// ---- forks and snapshots

static int do_fork(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return play_fork(h, &r->after, SUBJECT, again ? AGAIN : CHILD, op, e);
}

static void then_fork(struct play *p, bool again)
{
	then_forked(p, SUBJECT, again ? AGAIN : CHILD);
}

static int snapshot(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return play_snapshot(h, &r->after, SUBJECT, again ? 2 : 1, op, e);
}

static void then_snap(struct play *p, bool again)
{
	then_snapshot(p, SUBJECT, again ? 2 : 1);
}

static int delete_snapshot(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return play_delete(h, &r->after, 0, op, e);
}

static void then_delete(struct play *p, bool again)
{
	then_deleted(p, 0);
}

// ---- ends

static int destroy(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	int rc = play_destroy(h, &r->after, SUBJECT, op, e);
	return rc < 0 && e->code == ERR_NOT_FOUND ? 0 : rc;
}

static void then_destroy(struct play *p, bool again)
{
	then_destroyed(p, SUBJECT);
}

static bool is_settled(const char *kind)
{
	static const char *const kinds[] = {"stopped", "paused", "pause_failed"};
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (str_eq(kind, kinds[i]))
			return true;
	return false;
}

// Its time is over; waits until that had its consequence.
static int let_time_end(struct host *h, struct run *r, const char *op, struct err *e)
{
	const char *id = r->after.box[SUBJECT].id;
	struct host_info info;
	char made[UUID_SIZE];
	if (!op) {
		id_new_uuid(made);
		op = made;
		stage_skip_ms(60000); // one that could not be paused waits before it is tried again
	}
	check(host_info(h, &info, NULL) == 0, "info");
	int rc = host_set_timeout(h, op, id, clock_realtime_ns(), e);
	for (int i = 0; rc == 0 && i < 8000; i++) {
		struct host_event *list = NULL;
		size_t n = 0;
		bool settled = false;
		host_events(h, info.last_event, 1000, 0, &list, &n, NULL);
		for (size_t k = 0; k < n; k++) {
			settled |= str_eq(list[k].sandbox, id) && is_settled(list[k].kind);
			host_event_done(&list[k]);
		}
		free(list);
		if (settled)
			return 0;
		clock_sleep_ns(NSEC_PER_MSEC);
		if (i % 256 == 255) { // it met this very call, and was put off by half a minute
			stage_skip_ms(60000);
			id_new_uuid(made);
			rc = host_set_timeout(h, made, id, clock_realtime_ns(), e);
		}
	}
	return rc < 0 ? rc : err_set(e, ERR_TIMEOUT, "nothing came of the time-out");
}

static int due_kill(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	return let_time_end(h, r, op, e);
}

static int due_pause(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	char made[UUID_SIZE];
	id_new_uuid(made);
	int rc = host_set_on_timeout(h, made, r->after.box[SUBJECT].id, ON_TIMEOUT_PAUSE, e);
	return rc < 0 ? rc : let_time_end(h, r, op, e);
}

// ---- a base image's machine, made anew because the image is another one

static int prewarm(struct host *h, struct run *r, const char *op, bool again, struct err *e)
{
	if (op)
		world_new_image();
	return host_freeze(h, "base", e);
}

static void then_nothing(struct play *p, bool again)
{
}

const struct act acts[] = {
	{"create-boot", NULL, create_boot, then_new, NULL, false, false},
	{"create-image", NULL, create_image, then_new, NULL, false, false},
	{"create-snapshot", NULL, create_snapshot, then_new_of_snapshot, NULL, false, false},
	{"pause", NULL, do_pause, then_pause, NULL, false, false},
	{"pause-refused", lose_agent, do_pause, then_pause, NULL, false, false},
	{"resume", be_paused, resume, then_resume, NULL, false, false},
	{"resume-once", be_paused_alone, resume_once, then_resume_once, NULL, false, false},
	{"resume-disk", be_paused, resume_disk, then_resume_disk, NULL, false, false},
	{"rollback-running", NULL, roll_back, then_roll_back, halfway_back, false, false},
	{"rollback-paused", be_paused, roll_back, then_roll_back, halfway_back, false, false},
	{"fork-running", NULL, do_fork, then_fork, NULL, false, false},
	{"fork-paused", be_paused, do_fork, then_fork, NULL, false, false},
	{"snapshot-running", NULL, snapshot, then_snap, NULL, false, false},
	{"snapshot-paused", be_paused, snapshot, then_snap, NULL, false, false},
	{"delete", NULL, delete_snapshot, then_delete, NULL, false, true},
	{"destroy-running", NULL, destroy, then_destroy, NULL, false, true},
	{"destroy-paused", be_paused, destroy, then_destroy, NULL, false, true},
	{"due-kill", NULL, due_kill, then_destroy, NULL, true, true},
	{"due-pause", NULL, due_pause, then_pause, NULL, true, true},
	{"due-refused", lose_agent, due_pause, then_pause, NULL, true, true},
	{"prewarm", NULL, prewarm, then_nothing, NULL, false, false},
};
const size_t n_acts = ARRAY_SIZE(acts);

void act_prepare_in(struct host *h, const struct act *a, struct run *r, bool others)
{
	struct play *p = &r->before;
	static const unsigned boxes[] = {SUBJECT, OTHER, DUE, PAUSED, ENDS};
	for (size_t i = 0; i < (others ? ARRAY_SIZE(boxes) : 2); i++) {
		DO(play_create(h, p, boxes[i], -1, false, NULL, &e));
		then_created(p, boxes[i], -1);
		play_mark(p, boxes[i]);
	}
	DO(play_snapshot(h, p, SUBJECT, 0, NULL, &e));
	then_snapshot(p, SUBJECT, 0);
	play_mark(p, SUBJECT);
	if (others) {
		DO(play_pause(h, p, PAUSED, NULL, &e));
		then_paused(p, PAUSED);
	}
	if (a->prepare)
		a->prepare(h, p);
	play_idle(h, p, "before");
	r->after = r->middle = *p;
	a->then(&r->after, false);
	if (a->middle)
		a->middle(&r->middle);
	atomic_store(&world.stage->n_hits, 0);
	atomic_store(&world.stage->n_calls, 0);
}

struct run *act_prepare(const struct act *a)
{
	struct run *r =
		mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(r != MAP_FAILED, "mmap");
	struct play *p = play_new();
	r->before = *p;
	munmap(p, sizeof *p);
	id_new_uuid(r->op);
	return r;
}

void act_run(struct host *h, const struct act *a, struct run *r)
{
	r->e = (struct err){0};
	r->rc = a->run(h, r, r->op, false, &r->e);
	r->returned = true;
}
