// SPDX-License-Identifier: Apache-2.0
// The volume's space in the played world: whose it is, what a removal gives back, and what is
// refused where it is short. Run on tmpfs, and on XFS, where disks share blocks.
#include <pthread.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/id.h"
#include "base/str.h"
#include "played/play.h"

#define OK(call)                                                                                   \
	do {                                                                                       \
		struct err e = {0};                                                                \
		check((call) == 0, "%s: %s", #call, e.text);                                       \
	} while (0)

#define XFS_MAGIC 0x58465342l
// Directories and maps of extents grow and shrink by blocks.
#define SLACK (128u << 10)

static bool on_xfs(void)
{
	struct statfs fs;
	check(statfs(world.data, &fs) == 0, "statfs");
	return fs.f_type == XFS_MAGIC;
}

static struct host_usage_report look(struct host *h, const char *of)
{
	struct host_usage_report r;
	struct host_usage_ask ask = {.of = of};
	OK(host_usage(h, &ask, &r, &e));
	return r;
}

static const struct host_usage_item *item(const struct host_usage_report *r, const char *id)
{
	for (size_t i = 0; i < r->n_items; i++)
		if (str_eq(r->items[i].id, id))
			return &r->items[i];
	check(false, "%s is in no row of the report", id);
	return NULL;
}

// All but the databases, which grow with each operation.
static uint64_t held(const struct host_usage_report *r)
{
	const struct host_usage *s = &r->sum;
	return s->sandbox_bytes + s->snapshot_bytes + s->image_bytes + s->shared_bytes +
	       s->pending_bytes + s->unknown_bytes + s->program_bytes;
}

static bool is_near(uint64_t a, uint64_t b)
{
	return (a > b ? a - b : b - a) <= SLACK;
}

static void check_sums(const struct host_usage_report *r)
{
	const struct host_usage *s = &r->sum;
	uint64_t all = held(r) + s->database_bytes + s->other_bytes, unique = 0;
	check(all == s->used_bytes, "the sum is %lu, used are %lu", all, s->used_bytes);
	for (size_t i = 0; i < r->n_items; i++) {
		unique += r->items[i].unique_bytes;
		check(r->items[i].unique_bytes <= r->items[i].bytes, "more unique than there is");
		check(r->items[i].frees_bytes <= r->items[i].unique_bytes, "it frees more");
	}
	check(unique == s->sandbox_bytes + s->snapshot_bytes + s->image_bytes, "unique bytes");
}

static struct play *family(struct host **ret)
{
	struct play *p = play_new();
	struct host *h = *ret = play_open();
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	play_mark(p, 0);
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	OK(play_create(h, p, 1, 0, false, NULL, &e));
	then_created(p, 1, 0);
	play_mark(p, 1);
	then_forked(p, 1, 2);
	OK(play_fork(h, p, 1, 2, NULL, &e));
	play_mark(p, 2);
	OK(play_pause(h, p, 2, NULL, &e));
	then_paused(p, 2);
	play_mark(p, 3);
	OK(play_snapshot(h, p, 3, 1, NULL, &e));
	then_snapshot(p, 3, 1);
	play_mark(p, 3);
	OK(play_pause(h, p, 3, NULL, &e));
	then_paused(p, 3);
	play_idle(h, p, "with a family");
	return p;
}

static void is_gone(struct host *h, const char *id)
{
	struct host_usage_report r = look(h, NULL);
	for (size_t i = 0; i < r.n_items; i++)
		check(!str_eq(r.items[i].id, id), "%s is there after its end", id);
	host_usage_report_done(&r);
}

// What is said that a removal frees is what it frees, of each in turn: others come to have alone
// what they shared.
static void frees(const void *arg)
{
	const char *order = arg; // digits: boxes; a, b: snapshots
	struct host *h;
	struct play *p = family(&h);
	for (const char *x = order; *x; x++) {
		bool box = *x >= '0' && *x <= '9';
		unsigned i = (unsigned)(*x - (box ? '0' : 'a'));
		const char *id = box ? p->box[i].id : p->snap[i].id;
		struct host_usage_report before = look(h, NULL);
		check_sums(&before);
		uint64_t said = item(&before, id)->frees_bytes;
		char gone[64];
		snprintf(gone, sizeof gone, "%s", id);
		if (box) {
			OK(play_destroy(h, p, i, NULL, &e));
			then_destroyed(p, i);
		} else {
			OK(play_delete(h, p, i, NULL, &e));
			then_deleted(p, i);
		}
		play_idle(h, p, "after a removal");
		struct host_usage_report after = look(h, NULL);
		uint64_t freed = held(&before) - held(&after);
		check(is_near(freed, said), "%c: said %lu, freed %lu", *x, said, freed);
		host_usage_report_done(&before);
		host_usage_report_done(&after);
		is_gone(h, gone);
	}
	play_close(h);
}

static void shares(const void *arg)
{
	struct host *h;
	struct play *p = family(&h);
	struct host_usage_report r = look(h, p->box[2].id);
	check_sums(&r);
	bool parent = false, image = false;
	for (size_t i = 0; i < r.n_shares; i++) {
		const struct host_usage_share *s = &r.shares[i];
		check(!str_eq(s->id, p->box[2].id), "it shares with itself");
		check(s->bytes <= item(&r, p->box[2].id)->bytes, "it shares more than it has");
		parent |= str_eq(s->id, p->box[1].id) || str_eq(s->id, p->box[3].id);
		image |= str_eq(s->kind, "image");
	}
	check(parent, "a fork shares nothing with its source");
	check(image || !on_xfs(), "it shares no block with its image");
	check(r.sum.shared_bytes > 0, "nothing is shared");
	host_usage_report_done(&r);
	struct host_usage_ask none = {.of = "nobody"};
	struct err e = {0};
	check(host_usage(h, &none, &r, &e) < 0 && e.code == ERR_NOT_FOUND, "nobody is found");
	play_close(h);
}

static bool yes(void *ctx)
{
	return --*(int *)ctx < 0;
}

// Who goes away stops it, whatever it is at.
static void stops(const void *arg)
{
	struct host *h;
	family(&h);
	for (int n = 0; n < 20; n++) {
		int left = n;
		struct host_usage_ask ask = {.stop = yes, .ctx = &left};
		struct host_usage_report r;
		struct err e = {0};
		check(host_usage(h, &ask, &r, &e) == -ECANCELED && e.code == ERR_CANCELED,
			"it went on");
	}
	play_close(h);
}

// --- refusal before the volume is full

#define GIB (1ull << 30)
#define MIB (1ull << 20)
#define RESERVE (5 * GIB) // 5 % of the played volume

static void has_free(uint64_t bytes)
{
	world.stage->disk_used = VOLUME_SIZE - bytes;
}

static void refused(int rc, const struct err *e, const char *what)
{
	check(rc < 0 && e->code == ERR_NO_SPACE, "%s on a low volume: %d %s", what, rc, e->text);
	check(strstr(e->text, "stasis du"), "%s: no remedy in '%s'", what, e->text);
}

// The events of that kind since the last look, of the whole host; cause: of the last one.
static uint64_t seen;
static unsigned events(struct host *h, const char *kind, char cause[64])
{
	unsigned found = 0;
	struct host_event *list = NULL;
	size_t n = 0;
	OK(host_events(h, seen, 1000, 0, &list, &n, &e));
	for (size_t i = 0; i < n; i++) {
		seen = MAX(seen, list[i].seq);
		if (str_eq(list[i].kind, kind)) {
			found++;
			snprintf(cause, 64, "%s", list[i].cause);
		}
		host_event_done(&list[i]);
	}
	free(list);
	return found;
}

static void wait_for_event(struct host *h, const char *kind, const char *want)
{
	char cause[64] = "";
	for (int i = 0; i < 2000 && !events(h, kind, cause); i++) // a dead-man switch
		usleep(5000);
	check(str_eq(cause, want), "%s has the cause '%s', not '%s'", kind, cause, want);
}

static void try_all(struct host *h, struct play *p)
{
	struct err e = {0};
	refused(play_create(h, p, 5, -1, true, NULL, &e), &e, "a boot");
	refused(play_create(h, p, 5, -1, false, NULL, &e), &e, "a create");
	refused(play_create(h, p, 5, 0, false, NULL, &e), &e, "a create from a snapshot");
	refused(play_snapshot(h, p, 0, 1, NULL, &e), &e, "a snapshot of what runs");
	refused(play_snapshot(h, p, 1, 1, NULL, &e), &e, "a snapshot of what is paused");
	refused(play_fork(h, p, 0, 6, NULL, &e), &e, "a fork");
	refused(play_fork(h, p, 1, 6, NULL, &e), &e, "a fork of what is paused");
}

static void low(const void *arg)
{
	const bool *inodes = arg;
	struct play *p = play_new();
	struct host *h = play_open();
	for (unsigned i = 0; i < 2; i++) {
		OK(play_create(h, p, i, -1, false, NULL, &e));
		then_created(p, i, -1);
	}
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	OK(play_pause(h, p, 1, NULL, &e));
	then_paused(p, 1);
	play_idle(h, p, "before");
	if (*inodes)
		world.stage->inodes_used = VOLUME_INODES - 900;
	else
		has_free(RESERVE - 1);
	try_all(h, p);
	wait_for_event(h, "volume_low", "low");
	play_check(h, p, "after what was refused");
	// What makes room, or is kept it for, goes on.
	play_mark(p, 0);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	OK(play_resume(h, p, 0, -1, false, NULL, &e));
	then_resumed(p, 0, -1, false);
	OK(play_destroy(h, p, 1, NULL, &e));
	then_destroyed(p, 1);
	play_check(h, p, "on a low volume");
	// Room that comes back by a little changes nothing yet.
	if (*inodes)
		world.stage->inodes_used = VOLUME_INODES - 1100;
	else
		has_free(RESERVE + GIB);
	struct err why = {0};
	refused(play_create(h, p, 2, 0, false, NULL, &why), &why, "a create with little more room");
	world.stage->inodes_used = 0;
	has_free(RESERVE + 2 * GIB);
	OK(play_create(h, p, 2, 0, false, NULL, &e));
	then_created(p, 2, 0);
	wait_for_event(h, "volume_low", "warning");
	has_free(VOLUME_SIZE / 2);
	OK(play_snapshot(h, p, 2, 1, NULL, &e));
	then_snapshot(p, 2, 1);
	wait_for_event(h, "volume_ok", "ok");
	play_check(h, p, "with room again");
	play_close(h);
}

static const bool no = false, yes_ = true;

static void pause_without_room(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	char cause[64];
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	play_mark(p, 0);
	has_free(16 * MIB + MIB / 2); // its memory is 1 MiB
	struct err why = {0};
	refused(play_pause(h, p, 0, NULL, &why), &why, "a pause");
	play_check(h, p, "after a pause that was refused");
	// By its time-out: it stands still from then on, and that is told once.
	char op[UUID_SIZE];
	id_new_uuid(op);
	OK(host_set_on_timeout(h, op, p->box[0].id, ON_TIMEOUT_PAUSE, &e));
	id_new_uuid(op);
	events(h, "", cause);
	OK(host_set_timeout(h, op, p->box[0].id, clock_realtime_ns() + NSEC_PER_SEC, &e));
	stage_skip_ms(2000);
	wait_for_event(h, "pause_failed", "no_space");
	for (int i = 0; i < 3; i++) { // it is tried again
		stage_skip_ms(31000);
		usleep(20000);
	}
	check(!guest_goes_on(p->box[0].id), "it runs past its time");
	check(events(h, "pause_failed", cause) == 0, "told more than once");
	has_free(VOLUME_SIZE / 2);
	stage_skip_ms(31000);
	wait_for_event(h, "paused", "");
	then_paused(p, 0);
	play_check(h, p, "paused once there was room");
	play_close(h);
}

struct start {
	struct host *h;
	struct play *p;
	unsigned box;
	char kind; // create, resume, fork
	int rc;
	struct err e;
};

static void *start(void *arg)
{
	struct start *s = arg;
	s->rc = s->kind == 'c'	 ? play_create(s->h, s->p, s->box, -1, false, NULL, &s->e)
		: s->kind == 'r' ? play_resume(s->h, s->p, s->box, -1, false, NULL, &s->e)
				 : play_fork(s->h, s->p, 0, s->box, NULL, &s->e);
	return NULL;
}

// What begins to run, at a fault point, is given the room before: of those that come meanwhile
// none has it. A guest's memory is 1 MiB.
static void room_for_each_pause(const void *arg)
{
	const char *how = arg; // kind of start, and of those that come meanwhile
	world.pause_room = true;
	struct play *p = play_new();
	struct host *h = play_open();
	for (unsigned i = 0; i < 3; i++) {
		OK(play_create(h, p, i, -1, false, NULL, &e));
		then_created(p, i, -1);
	}
	for (unsigned i = 1; i < 3; i++) {
		OK(play_pause(h, p, i, NULL, &e));
		then_paused(p, i);
	}
	play_idle(h, p, "before");
	has_free(RESERVE + 2 * MIB + MIB / 2); // of the one that runs, and of one more
	struct start first = {h, p, how[0] == 'r' ? 1 : 3, how[0]};
	stage_fault(how[0] == 'r' ? "resume.after_journal" : "create.after_journal", FAULT_HOLD);
	pthread_t thread;
	check(pthread_create(&thread, NULL, start, &first) == 0, "thread");
	stage_wait_holding();
	for (const char *k = how + 1; *k; k++) {
		struct start other = {h, p, *k == 'r' ? 2 : 4, *k};
		start(&other);
		refused(other.rc, &other.e, "a start while another has the room");
		check(strstr(other.e.text, "may need 0 MiB") == NULL &&
				strstr(other.e.text, "up to 2 MiB"),
			"'%s' does not say what is whose", other.e.text);
	}
	stage_let_go();
	pthread_join(thread, NULL);
	stage_calm();
	check(first.rc == 0, "the first: %s", first.e.text);
	if (how[0] == 'r')
		then_resumed(p, 1, -1, false);
	else
		then_created(p, 3, -1);
	play_check(h, p, "after one start");
	// A start that fails gives the room back; so does a pause.
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	stage_fault("create.after_journal", FAULT_FAIL);
	struct err why = {0};
	check(play_create(h, p, 5, -1, true, NULL, &why) < 0, "it came up");
	stage_calm();
	OK(play_resume(h, p, 2, -1, false, NULL, &e));
	then_resumed(p, 2, -1, false);
	refused(play_create(h, p, 5, -1, false, NULL, &why), &why, "one more than fit");
	play_check(h, p, "with all room given");
	play_close(h);
}

static int try_create(struct host *h, const char *id, uint64_t disk_mb, struct err *e)
{
	struct host_create req = {.disk_mb = disk_mb, .token = "token"};
	struct host_sandbox made;
	*e = (struct err){0};
	id_new_uuid(req.op_id);
	snprintf(req.id, sizeof req.id, "%s", id);
	snprintf(req.template, sizeof req.template, "base");
	return host_create(h, &req, &made, e);
}

static void too_much(int rc, const struct err *e, enum err_code code, const char *setting)
{
	check(rc < 0 && e->code == code && strstr(e->text, setting), "%d, %d: '%s'", rc,
		(int)e->code, e->text);
}

// Disks are promised until their sandbox ends; before anything is made.
static void disks_are_promised(const void *arg)
{
	char op[UUID_SIZE];
	uint64_t all = VOLUME_SIZE / MIB;
	struct err e;
	world.overcommit = (struct host_overcommit){.disk = 100};
	play_new();
	struct host *h = play_open();
	too_much(try_create(h, "ihuge", 16u << 20, &e), &e, ERR_INVALID, "overcommit-disk");
	too_much(try_create(h, "ihuge", all + 1, &e), &e, ERR_INVALID, "overcommit-disk");
	check(try_create(h, "imost", all - 2, &e) == 0, "%s", e.text);
	check(try_create(h, "ione", 1, &e) == 0, "%s", e.text);
	too_much(try_create(h, "itwo", 2, &e), &e, ERR_NO_SPACE, "overcommit-disk");
	check(try_create(h, "itwo", 1, &e) == 0, "%s", e.text);
	too_much(try_create(h, "ithree", 1, &e), &e, ERR_NO_SPACE, "overcommit-disk");
	// A paused one has its disk, also after a restart.
	id_new_uuid(op);
	struct host_sandbox now;
	check(host_pause(h, op, "ione", &now, &e) == 0, "%s", e.text);
	play_close(h);
	h = play_open();
	too_much(try_create(h, "ithree", 1, &e), &e, ERR_NO_SPACE, "overcommit-disk");
	struct host_resume resume = {.id = "ione", .token = "token"};
	id_new_uuid(resume.op_id);
	check(host_resume(h, &resume, &now, &e) == 0, "%s", e.text); // it has its disk
	id_new_uuid(op);
	check(host_destroy(h, op, "ione", "killed", &e) == 0, "%s", e.text);
	check(try_create(h, "ithree", 1, &e) == 0, "%s", e.text);
	play_close(h);
}

// Memory and processors are promised to what runs.
static void what_runs_is_promised(const void *arg)
{
	unsigned cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	char op[UUID_SIZE];
	struct host_sandbox now;
	struct err e;
	world.overcommit = (struct host_overcommit){.vcpus = (200 + cpus - 1) / cpus};
	play_new();
	struct host *h = play_open();
	check(try_create(h, "ione", 0, &e) == 0, "%s", e.text);
	check(try_create(h, "itwo", 0, &e) == 0, "%s", e.text);
	too_much(try_create(h, "ithree", 0, &e), &e, ERR_LIMIT, "overcommit-vcpus");
	struct host_fork_child child = {.id = "ichild", .token = "token", .info = &now};
	struct host_fork fork = {.id = "ione", .children = &child, .n = 1};
	id_new_uuid(child.op_id);
	id_new_uuid(fork.op_id);
	too_much(host_fork(h, &fork, &e), &e, ERR_LIMIT, "overcommit-vcpus");
	id_new_uuid(op);
	check(host_pause(h, op, "ione", &now, &e) == 0, "%s", e.text);
	check(try_create(h, "ithree", 0, &e) == 0, "%s", e.text);
	struct host_resume resume = {.id = "ione", .token = "token"};
	id_new_uuid(resume.op_id);
	too_much(host_resume(h, &resume, &now, &e), &e, ERR_LIMIT, "overcommit-vcpus");
	play_close(h);
	h = play_open();
	id_new_uuid(resume.op_id);
	too_much(host_resume(h, &resume, &now, &e), &e, ERR_LIMIT, "overcommit-vcpus");
	id_new_uuid(op);
	check(host_destroy(h, op, "itwo", "killed", &e) == 0, "%s", e.text);
	id_new_uuid(resume.op_id);
	check(host_resume(h, &resume, &now, &e) == 0, "%s", e.text);
	play_close(h);
}

int main(int argc, char **argv)
{
	static const struct played_case cases[] = {
		{"usage/frees/children-first", frees, "3210ab"},
		{"usage/frees/parents-first", frees, "ab0123"},
		{"usage/frees/in-between", frees, "1a3b02"},
		{"usage/shares", shares},
		{"usage/stops", stops},
		{"low/bytes", low, &no},
		{"low/inodes", low, &yes_},
		{"low/pause", pause_without_room},
		{"promise/disks", disks_are_promised},
		{"promise/what-runs", what_runs_is_promised},
		{"pause-room/create", room_for_each_pause, "crcf"},
		{"pause-room/resume", room_for_each_pause, "rcrf"},
	};
	static const struct known_fault known[] = {{"", ""}};
	return cases_run(argc, argv, cases, ARRAY_SIZE(cases), known, ARRAY_SIZE(known));
}
