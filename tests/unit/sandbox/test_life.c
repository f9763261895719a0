// SPDX-License-Identifier: Apache-2.0
// Each operation of the life cycle in the played world, without a fault: states, events, files,
// slots, bytes of memory and disk; nothing is left over.
#include <pthread.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>
#include "base/buildid.h"
#include "base/clock.h"
#include "base/str.h"
#include "net/resolvers.h"
#include "played/play.h"

#define OK(call)                                                                                   \
	do {                                                                                       \
		struct err e = {0};                                                                \
		check((call) == 0, "%s: %s", #call, e.text);                                       \
	} while (0)

// Events since the last look, as "kind kind ...", of one box.
static uint64_t seen;
static void check_events(struct host *h, const struct play *p, unsigned box, const char *want)
{
	_cleanup_strbuf_ struct strbuf is = {0};
	struct host_event *list = NULL;
	size_t n = 0;
	struct err e = {0};
	check(host_events(h, seen, 1000, 0, &list, &n, &e) == 0, "events: %s", e.text);
	for (size_t i = 0; i < n; i++) {
		seen = MAX(seen, list[i].seq);
		if (str_eq(list[i].sandbox, p->box[box].id))
			strbuf_addf(&is, "%s%s", is.len ? " " : "", list[i].kind);
		host_event_done(&list[i]);
	}
	free(list);
	check(str_eq(is.data ? is.data : "", want), "events are '%s', should be '%s'",
		is.data ? is.data : "", want);
}

static void creates(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	play_check(h, p, "at first");
	OK(play_create(h, p, 0, -1, true, NULL, &e));
	then_created(p, 0, -1);
	play_check(h, p, "after a boot");
	check_events(h, p, 0, "running");
	OK(play_create(h, p, 1, -1, false, NULL, &e));
	then_created(p, 1, -1);
	play_check(h, p, "after a load");
	check_events(h, p, 1, "running");
	play_mark(p, 0);
	play_mark(p, 1);
	play_check(h, p, "after writing");
	OK(play_destroy(h, p, 0, NULL, &e));
	then_destroyed(p, 0);
	play_check(h, p, "after a destroy");
	check_events(h, p, 0, "stopped");
	play_close(h);
	h = play_open();
	play_check(h, p, "after a restart");
	play_close(h);
}

static void pauses(const void *arg)
{
	const bool *cold = arg;
	struct play *p = play_new();
	struct host *h = play_open();
	OK(play_create(h, p, 0, -1, *cold, NULL, &e));
	then_created(p, 0, -1);
	for (int i = 0; i < 12; i++) { // long enough for a merge
		play_mark(p, 0);
		OK(play_pause(h, p, 0, NULL, &e));
		then_paused(p, 0);
		play_check(h, p, "after a pause");
		if (i % 4 == 3) {
			play_close(h);
			h = play_open();
			play_check(h, p, "after a restart");
		}
		OK(play_resume(h, p, 0, -1, false, NULL, &e));
		then_resumed(p, 0, -1, false);
		play_check(h, p, "after a resume");
	}
	play_mark(p, 0);
	OK(play_pause(h, p, 0, NULL, &e));
	OK(play_resume(h, p, 0, -1, true, NULL, &e));
	then_resumed(p, 0, -1, true);
	play_check(h, p, "after a resume from the disk alone");
	play_mark(p, 0);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	play_check(h, p, "after a pause");
	OK(play_destroy(h, p, 0, NULL, &e));
	then_destroyed(p, 0);
	play_check(h, p, "after a destroy");
	play_close(h);
}

static void snapshots(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	play_mark(p, 0);
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	play_check(h, p, "after a snapshot");
	play_mark(p, 0);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	OK(play_snapshot(h, p, 0, 1, NULL, &e));
	then_snapshot(p, 0, 1);
	play_check(h, p, "after a snapshot of a paused one");
	OK(play_create(h, p, 1, 0, false, NULL, &e));
	then_created(p, 1, 0);
	OK(play_create(h, p, 2, 1, false, NULL, &e));
	then_created(p, 2, 1);
	play_check(h, p, "after creates from snapshots");
	play_mark(p, 1);
	OK(play_resume(h, p, 0, 0, false, NULL, &e));
	then_resumed(p, 0, 0, false);
	play_check(h, p, "after a roll-back of a paused one");
	play_mark(p, 0);
	play_mark(p, 0);
	OK(play_resume(h, p, 0, 1, false, NULL, &e));
	then_resumed(p, 0, 1, false);
	play_check(h, p, "after a roll-back of a running one");
	OK(play_delete(h, p, 0, NULL, &e));
	then_deleted(p, 0);
	play_check(h, p, "after a deletion");
	play_mark(p, 1);
	OK(play_pause(h, p, 1, NULL, &e));
	then_paused(p, 1);
	OK(play_destroy(h, p, 0, NULL, &e));
	then_destroyed(p, 0);
	OK(play_delete(h, p, 1, NULL, &e));
	then_deleted(p, 1);
	play_check(h, p, "at the end");
	play_close(h);
}

// What retention asks for: it takes only what is as it was looked at.
static void expires(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	struct err why = {0};
	struct host_sandbox s;
	char op[UUID_SIZE];
	id_new_uuid(op);
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	const char *id = p->box[0].id;
	OK(host_get(h, id, &s, &e));
	check(host_expire(h, op, id, s.generation, "retention", &why) < 0 &&
			why.code == ERR_CONFLICT,
		"one that runs goes");
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	uint64_t before = s.generation;
	OK(host_get(h, id, &s, &e));
	check(host_expire(h, op, id, before, "retention", &why) < 0 && why.code == ERR_CONFLICT,
		"one of another generation goes");
	uint64_t seen_paused = s.generation;
	OK(play_resume(h, p, 0, -1, false, NULL, &e));
	then_resumed(p, 0, -1, false);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	check(host_expire(h, op, id, seen_paused, "retention", &why) < 0 &&
			why.code == ERR_CONFLICT,
		"one that was resumed and paused again goes");
	play_check(h, p, "after what was refused");
	OK(host_get(h, id, &s, &e));
	check_events(h, p, 0, "running paused resumed paused");
	OK(host_expire(h, op, id, s.generation, "retention", &e));
	OK(host_expire(h, op, id, s.generation, "retention", &e)); // done once
	char gone[SANDBOX_ID_SIZE];
	snprintf(gone, sizeof gone, "%s", id);
	OK(host_get(h, gone, &s, &e));
	check(str_eq(s.cause, "retention"), "its cause is '%s'", s.cause);
	check_events(h, p, 0, "stopped");
	then_destroyed(p, 0);
	play_check(h, p, "after an end by retention");
	play_close(h);
}

static void forks(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	play_mark(p, 0);
	then_forked(p, 0, 2);
	OK(play_fork(h, p, 0, 2, NULL, &e));
	play_check(h, p, "after a fork");
	play_mark(p, 0);
	play_mark(p, 2);
	play_mark(p, 3);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	then_forked(p, 0, 4);
	OK(play_fork(h, p, 0, 4, NULL, &e));
	play_check(h, p, "after a fork of a paused one");
	play_mark(p, 4);
	OK(play_destroy(h, p, 0, NULL, &e));
	then_destroyed(p, 0);
	OK(play_pause(h, p, 2, NULL, &e));
	then_paused(p, 2);
	play_check(h, p, "without their source");
	play_close(h);
}

// The guest was told what the host says it has. want NULL: those of this machine.
static void check_dns(struct host *h, struct play *p, unsigned box, const char *want)
{
	struct host_sandbox s = {0};
	struct resolvers r;
	char own[RESOLVERS_TEXT_SIZE], from[RESOLVERS_FROM_SIZE], told[48] = "";
	resolvers_of_host(&r, from);
	resolvers_format(&r, own);
	OK(host_get(h, p->box[box].id, &s, &e));
	check(str_eq(s.dns, want ? want : own), "box %u has '%s'", box, s.dns);
	check(guest_dns(p->box[box].id, told) && str_eq(told, s.dns), "box %u was told '%s'", box,
		told);
}

static void resolvers_kept(const void *arg)
{
	static const char own[] = "10.0.0.53,9.9.9.9";
	struct play *p = play_new();
	struct host *h = play_open();
	struct host_sandbox s;
	struct err why = {0};
	struct host_create req = {.token = play_token(p, 0), .template = "base"};
	id_new_uuid(req.op_id);
	snprintf(req.id, sizeof req.id, "%s", p->box[0].id);
	snprintf(req.dns, sizeof req.dns, "10.0.0.53,127.0.0.1");
	check(host_create(h, &req, &s, &why) < 0 && strstr(why.text, "127.0.0.1"), "%s", why.text);
	id_new_uuid(req.op_id);
	snprintf(req.dns, sizeof req.dns, " 10.0.0.53, 9.9.9.9");
	OK(host_create(h, &req, &s, &e));
	then_created(p, 0, -1);
	check_dns(h, p, 0, own);
	OK(play_create(h, p, 1, -1, false, NULL, &e));
	then_created(p, 1, -1);
	check_dns(h, p, 1, NULL);
	then_forked(p, 0, 2);
	OK(play_fork(h, p, 0, 2, NULL, &e));
	check_dns(h, p, 2, own);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	OK(play_pause(h, p, 1, NULL, &e));
	then_paused(p, 1);
	// Another server knows them from its database.
	play_close(h);
	h = play_open();
	check_dns(h, p, 2, own);
	for (unsigned i = 0; i < 2; i++) {
		OK(play_resume(h, p, i, -1, false, NULL, &e));
		then_resumed(p, i, -1, false);
		check_dns(h, p, i, i ? NULL : own);
	}
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	OK(play_create(h, p, 4, 0, false, NULL, &e));
	then_created(p, 4, 0);
	check_dns(h, p, 4, NULL);
	then_forked(p, 4, 5);
	OK(play_fork(h, p, 4, 5, NULL, &e));
	check_dns(h, p, 5, NULL);
	play_check(h, p, "with resolvers of their own");
	play_close(h);
}

static void time_outs(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	char op[UUID_SIZE];
	for (unsigned i = 0; i < 3; i++) {
		OK(play_create(h, p, i, -1, false, NULL, &e));
		then_created(p, i, -1);
		play_mark(p, i);
	}
	id_new_uuid(op);
	OK(host_set_on_timeout(h, op, p->box[1].id, ON_TIMEOUT_PAUSE, &e));
	for (unsigned i = 0; i < 2; i++) {
		id_new_uuid(op);
		OK(host_set_timeout(h, op, p->box[i].id, clock_realtime_ns(), &e));
	}
	then_destroyed(p, 0);
	then_paused(p, 1);
	play_check(h, p, "after their time");
	check_events(h, p, 0, "running timeout_set stopped");
	play_close(h);
}

static void ends(const void *arg)
{
	static const struct {
		const char *says, *cause;
	} how[] = {{"vmm_exit", "guest_poweroff"}, {"vmm_crash", "vmm_crash"}, {NULL, "shim_lost"}};
	struct play *p = play_new();
	struct host *h = play_open();
	for (unsigned i = 0; i < ARRAY_SIZE(how); i++) {
		struct host_sandbox s = {0};
		OK(play_create(h, p, i, -1, false, NULL, &e));
		guest_crash(p->box[i].id, how[i].says);
		play_check(h, p, "after its end");
		OK(host_get(h, p->box[i].id, &s, &e));
		check(str_eq(s.cause, how[i].cause), "cause is %s", s.cause);
	}
	// And one that ends while there is no server.
	OK(play_create(h, p, 5, -1, false, NULL, &e));
	play_close(h);
	guest_crash(p->box[5].id, "vmm_crash");
	h = play_open();
	play_check(h, p, "after an end without a server");
	play_close(h);
}

static void guest_says(const struct play *p, unsigned box, const char *line)
{
	char path[256];
	snprintf(path, sizeof path, "%s/sandboxes/%s/console.log", world.data, p->box[box].id);
	FILE *f = fopen(path, "a");
	check(f && fputs(line, f) >= 0 && fclose(f) == 0, "%s", path);
}

struct boot {
	struct host *h;
	struct play *p;
	bool disk_only;
	int rc;
	struct err e;
};

static void *boot_in_thread(void *arg)
{
	struct boot *b = arg;
	b->rc = b->disk_only ? play_resume(b->h, b->p, 0, -1, true, NULL, &b->e)
			     : play_create(b->h, b->p, 0, -1, true, NULL, &b->e);
	return NULL;
}

// It writes this on its console and ends before its agent is there.
static void boot_and_die(struct boot *b, const char *says)
{
	pthread_t thread;
	b->e = (struct err){0};
	stage_fault(b->disk_only ? "resume.after_start" : "create.after_start", FAULT_HOLD);
	check(pthread_create(&thread, NULL, boot_in_thread, b) == 0, "thread");
	stage_wait_holding();
	guest_says(b->p, 0, says);
	guest_crash(b->p->box[0].id, "vmm_exit");
	while (atomic_load(&world.stage->vms))
		clock_sleep_ns(NSEC_PER_MSEC);
	stage_calm();
	pthread_join(thread, NULL);
	check(b->rc < 0, "a guest that died has booted");
}

// The error says why, as far as the guest does.
static void dies_while_it_boots(const void *arg)
{
	static const struct {
		const char *says, *told; // told NULL: nothing of a console
	} cases[] = {
		{"Linux version 6.1\nKernel panic - not syncing: VFS: Unable to mount root fs\n"
		 "---[ end Kernel panic ]---\nRebooting in 1 seconds..\n",
			"its console: Kernel panic - not syncing: VFS: Unable to mount root fs"},
		{"Linux version 6.1\r\nstasis-init: /dev/vda: no such device\r\n\r\n",
			"its console: stasis-init: /dev/vda: no such device"},
		{"no end", "its console: no end"},
		{"\033[2J\033]0;title\007bells\007\n", "its console: bells?"},
		{"\n\n", NULL},
		{"", NULL},
	};
	struct play *p = play_new();
	struct boot b = {.h = play_open(), .p = p};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		boot_and_die(&b, cases[i].says);
		check(strstr(b.e.text, "vmm_exit"), "%s", b.e.text);
		const char *told = strstr(b.e.text, "its console");
		check(cases[i].told ? told && str_eq(told, cases[i].told) : !told, "%s", b.e.text);
	}
	// Of a console that goes on from before, only what is new.
	OK(play_create(b.h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	guest_says(p, 0, "Kernel panic - not syncing: of old\n");
	OK(play_pause(b.h, p, 0, NULL, &e));
	then_paused(p, 0);
	b.disk_only = true;
	boot_and_die(&b, "");
	check(!strstr(b.e.text, "of old"), "%s", b.e.text);
	boot_and_die(&b, "of today\n");
	check(strstr(b.e.text, "its console: of today"), "%s", b.e.text);
	play_check(b.h, p, "after boots that died");
	play_close(b.h);
}

// A guest has the same time with KVM, which may itself be nested on a busy machine.
static void slow_boots(const void *arg)
{
	char path[160];
	struct err first = {0}, second = {0};
	struct play *p = play_new();
	struct host *h = play_open();
	stage_trouble("envd_probe", "", TROUBLE_SILENT, false);
	check(play_create(h, p, 0, -1, true, NULL, &first) < 0, "a silent guest");
	play_close(h);
	stage_calm();
	snprintf(path, sizeof path, "%s/probe.json", world.run);
	unlink(path);
	atomic_store(&world.stage->emulated, 1);
	h = play_open();
	stage_trouble("envd_probe", "", TROUBLE_SILENT, false);
	check(play_create(h, p, 1, -1, true, NULL, &second) < 0, "a silent guest");
	check(first.code == ERR_TIMEOUT && str_eq(first.text, second.text),
		"with KVM '%s', emulated '%s'", first.text, second.text);
	stage_calm();
	play_close(h);
}

static void kill_all(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	for (unsigned i = 0; i < 3; i++) {
		OK(play_create(h, p, i, -1, i == 1, NULL, &e));
		then_created(p, i, -1);
		play_mark(p, i);
	}
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	host_close(h, true);
	then_destroyed(p, 1);
	then_destroyed(p, 2);
	h = play_open();
	play_check(h, p, "after a stop that ends all");
	play_close(h);
}

// Merging fails again and again, as on a full volume: the chain grows, and stays usable.
static void long_chain(const void *arg)
{
	enum { LAYERS = 120 };
	struct play *p = play_new();
	struct host *h = play_open();
	stage_fault("merge.after_data", FAULT_FAIL_ALWAYS);
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	for (uint32_t i = 0; i < LAYERS; i++) {
		check(guest_write(p->box[0].id, 100 + i, 1 + i), "the guest writes");
		p->box[0].c.page[100 + i] = 1 + i;
		OK(play_pause(h, p, 0, NULL, &e));
		OK(play_resume(h, p, 0, -1, false, NULL, &e));
	}
	play_check(h, p, "with a long chain");
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	OK(play_create(h, p, 1, 0, false, NULL, &e));
	then_created(p, 1, 0);
	then_forked(p, 0, 2);
	OK(play_fork(h, p, 0, 2, NULL, &e));
	stage_calm();
	play_check(h, p, "with children");
	play_close(h);
}

// How many events tell of kills, and of how many.
static unsigned count_kills(struct host *h, uint64_t *ret_kills)
{
	struct host_event *list = NULL;
	size_t n = 0;
	unsigned events = 0;
	struct err e = {0};
	*ret_kills = 0;
	check(host_events(h, 0, 10000, 0, &list, &n, &e) == 0, "events: %s", e.text);
	for (size_t i = 0; i < n; i++) {
		if (str_eq(list[i].kind, "oom")) {
			events++;
			*ret_kills += (uint64_t)json_integer_value(
				json_object_get(list[i].data, "count"));
		}
		host_event_done(&list[i]);
	}
	free(list);
	return events;
}

static void wait_kills(struct host *h, unsigned events, uint64_t kills)
{
	uint64_t told;
	unsigned n, tries = 0;
	while ((n = count_kills(h, &told)) < events) {
		check(tries++ < 30000, "%u events of kills, should be %u", n, events);
		stage_skip_ms(500);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	check(n == events && told == kills, "%u events of %lu kills, should be %u of %lu", n, told,
		events, kills);
}

// What a guest's kernel killed for lack of memory.
static void kills(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	struct stage *st = world.stage;
	uint64_t told;
	unsigned n;
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	// A console that says something else asks for nothing.
	guest_says(p, 0, "stasis-init: envd started\n");
	for (int i = 0; i < 100; i++) {
		stage_skip_ms(2000);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	check(st->asked_for_kills == 0, "an idle guest was asked");
	st->kills = 3;
	guest_says(p, 0, "x\nwarn envd: out of memory: killed n=3 process=python3\n");
	wait_kills(h, 1, 3);
	// Once more only when there is word of more.
	atomic_fetch_add(&st->kills, 2);
	unsigned asked = st->asked_for_kills;
	for (int i = 0; i < 100; i++) {
		stage_skip_ms(2000);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	check(st->asked_for_kills <= asked + 1, "it was asked again"); // the word that it was told
	// What is still untold is told before a snapshot: its copies must not tell of it.
	guest_says(p, 0, "Out of memory: Killed process 7 (x)\n");
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	n = count_kills(h, &told);
	check(n == 2 && told == 5, "after a pause %u events of %lu kills", n, told);
	check_events(h, p, 0, "running oom oom paused");
	// A guest that lies is asked ever more rarely.
	OK(play_resume(h, p, 0, -1, false, NULL, &e));
	then_resumed(p, 0, -1, false);
	st->kills = UINT32_MAX;
	st->kills_lie = 1; // from here on the number stays
	for (int i = 0; i < 1200; i++) {
		guest_says(p, 0, "Out of memory: Killed process 7 (x)\n");
		stage_skip_ms(1000);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	n = count_kills(h, &told);
	check(n > 2 && n <= 16, "%u events of a guest that lies for 20 minutes", n);
	OK(play_destroy(h, p, 0, NULL, &e));
	then_destroyed(p, 0);
	play_close(h);
}

static enum sandbox_state state_of(struct host *h, struct play *p, unsigned box, char cause[64])
{
	struct host_sandbox s = {0};
	OK(host_get(h, p->box[box].id, &s, &e));
	snprintf(cause, 64, "%s", s.cause);
	return s.state;
}

static void runs_on_for_minutes(struct host *h, struct play *p, unsigned box, const char *what)
{
	char cause[64];
	for (int i = 0; i < 300; i++) {
		stage_skip_ms(1000);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	check(state_of(h, p, box, cause) == SANDBOX_RUNNING, "%s: ended (%s)", what, cause);
}

// Where the guest has no power switch: its last words, and that it answers nothing any more.
static void halts(const void *arg)
{
	static const char *const last[] = {"[   35.1] reboot: System halted\n",
		"reboot: System halted\r\n",
		"[    9.0] reboot: Power down\n[    9.1] Buffer I/O error on dev vda\n"};
	struct play *p = play_new();
	struct host *h = play_open();
	char cause[64];
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	for (unsigned i = 0; i < ARRAY_SIZE(last); i++) {
		guest_says(p, 0, last[i]); // a program that logs it
		runs_on_for_minutes(h, p, 0, last[i]);
	}
	// What stands still for a pause is not halted.
	OK(play_pause(h, p, 0, NULL, &e));
	OK(play_resume(h, p, 0, -1, false, NULL, &e));
	runs_on_for_minutes(h, p, 0, "after a pause");
	// One that does not answer, and has said nothing of it, or something else since.
	stage_trouble("envd_reach", p->box[0].id, TROUBLE_SILENT, false);
	for (int i = 0; i < 100; i++)
		guest_says(p, 0, "what comes after it fills the part that is looked at\n");
	guest_says(p, 0, "reboot: System halted\nmore\n");
	runs_on_for_minutes(h, p, 0, "other last words");
	guest_says(p, 0, "no reboot: System halted, nor reboot: Power down, it says\n");
	runs_on_for_minutes(h, p, 0, "in the middle of a line");
	for (unsigned i = 0; i < ARRAY_SIZE(last); i++) {
		OK(play_create(h, p, i + 1, -1, false, NULL, &e));
		stage_trouble("envd_reach", p->box[i + 1].id, TROUBLE_SILENT, false);
		guest_says(p, i + 1, "x\n");
		guest_says(p, i + 1, last[i]);
		for (int n = 0; state_of(h, p, i + 1, cause) != SANDBOX_STOPPED; n++) {
			check(n < 30000, "'%s': goes on", last[i]);
			stage_skip_ms(500);
			clock_sleep_ns(NSEC_PER_MSEC);
		}
		check(str_eq(cause, "guest_poweroff"), "cause is %s", cause);
	}
	play_close(h);
}

static void check_agent(struct host *h, const struct play *p, unsigned box, const char *want)
{
	struct host_sandbox s;
	struct host_snapshot_check c = {0};
	OK(host_get(h, p->box[box].id, &s, &e));
	check(str_eq(s.agent, want), "agent is '%s', should be '%s'", s.agent, want);
	if (s.snapshot[0]) {
		OK(host_snapshot_check(h, s.snapshot, &c, &e));
		check(str_eq(c.agent, want), "snapshot's agent is '%s', should be '%s'", c.agent,
			want);
	}
}

static void forget_agents(void)
{
	char path[200];
	sqlite3 *db = NULL;
	snprintf(path, sizeof path, "%s/host.db", world.data);
	check(sqlite3_open(path, &db) == SQLITE_OK &&
			sqlite3_exec(db, "UPDATE sandboxes SET agent = ''", NULL, NULL, NULL) ==
				SQLITE_OK,
		"host.db: %s", sqlite3_errmsg(db));
	sqlite3_close(db);
}

// What the agent tells is in the row, in the state file and in snapshot.json; of a guest that an
// older server has started it is asked for.
static void agents_told(const void *arg)
{
	static const char *const told[][2] = {
		{"0.1.0-3+0123456789abcdef init=0.1.0-3 can=replace",
			"0.1.0-3+0123456789abcdef init=0.1.0-3"},
		{"9999.0.0-9999+ffffffffffffffff", "9999.0.0-9999+ffffffffffffffff"},
		{"0.1.0-3+0123456789abcdef\x1b[31m can=replace", "unknown-2"},
		{"-", "unknown-2"},
		{"--", "unknown-1"},
	};
	struct play *p = play_new();
	struct host *h = play_open();
	for (unsigned i = 0; i < ARRAY_SIZE(told); i++) {
		snprintf(world.stage->agent, sizeof world.stage->agent, "%s", told[i][0]);
		OK(play_create(h, p, i, -1, true, NULL, &e));
		then_created(p, i, -1);
		check_agent(h, p, i, told[i][1]);
		OK(play_pause(h, p, i, NULL, &e));
		then_paused(p, i);
		check_agent(h, p, i, told[i][1]);
	}
	play_close(h);
	h = play_open();
	check_agent(h, p, 0, told[0][1]);
	OK(play_resume(h, p, 4, -1, false, NULL, &e));
	check_agent(h, p, 4, "unknown-1");
	play_close(h);
	// As an older server leaves them: a row and a state file without it.
	forget_agents();
	h = play_open();
	struct host_sandbox s = {0};
	for (int n = 0; !s.agent[0]; n++) {
		check(n < 30000, "it is not asked who it is");
		OK(host_get(h, p->box[4].id, &s, &e));
		stage_skip_ms(500);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	check_agent(h, p, 4, "unknown-1");
	play_close(h);
}

// What the guest that is resumed has to tell, and what its agent is then.
static void resume_and_see(struct host *h, struct play *p, unsigned box, const char *want)
{
	OK(play_pause(h, p, box, NULL, &e));
	OK(play_resume(h, p, box, -1, false, NULL, &e));
	check(guest_goes_on(p->box[box].id), "it stands still");
	struct host_sandbox s;
	OK(host_get(h, p->box[box].id, &s, &e));
	check(str_starts(s.agent, want), "agent is '%s', should be '%s'", s.agent, want);
}

static unsigned calls_of(const char *name)
{
	unsigned n = 0, all = MIN(atomic_load(&world.stage->n_calls), (unsigned)STAGE_HITS);
	for (unsigned i = 0; i < all; i++)
		n += str_eq(world.stage->calls[i], name);
	return n;
}

#define OLDER "0.0.9-3+0123456789abcdef"
// An older agent that can be replaced is, once; what it refuses, and whoever does not answer, costs
// no resume. One of before, and one that claims to be newer, are left alone.
static void agents_replaced(const void *arg)
{
	static const char *const left[] = {"-", "--", "9999.0.0-9999+0123456789abcdef can=replace",
		OLDER, "0.1.0-9999+0123456789abcdef can=replace"};
	static const enum trouble met[] = {TROUBLE_FAILS, TROUBLE_LOST, TROUBLE_SILENT};
	char ours[64], own[BUILD_ID_SIZE];
	setenv("STASIS_AGENT", "/proc/self/exe", 1);
	build_id_own(own);
	snprintf(ours, sizeof ours, STASIS_VERSION "-3+%s", own);
	struct play *p = play_new();
	struct host *h = play_open();
	unsigned box = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(met); i++, box++) {
		snprintf(world.stage->agent, sizeof world.stage->agent, OLDER " can=replace");
		stage_trouble("envd_call_replace", "", met[i], false);
		OK(play_create(h, p, box, -1, true, NULL, &e));
		check_agent(h, p, box, met[i] == TROUBLE_LOST ? ours : OLDER);
		stage_calm();
		resume_and_see(h, p, box, ours);
		unsigned n = calls_of("envd_call_replace");
		resume_and_see(h, p, box, ours);
		check(calls_of("envd_call_replace") == n, "one that is ours is sent again");
	}
	snprintf(world.stage->agent, sizeof world.stage->agent, OLDER " can=replace stays");
	OK(play_create(h, p, box, -1, true, NULL, &e));
	resume_and_see(h, p, box++, OLDER);
	unsigned n = calls_of("envd_call_replace");
	for (unsigned i = 0; i < ARRAY_SIZE(left); i++, box++) {
		snprintf(world.stage->agent, sizeof world.stage->agent, "%s", left[i]);
		OK(play_create(h, p, box, -1, true, NULL, &e));
		resume_and_see(h, p, box, i < 2 ? "unknown-" : i == 3 ? OLDER : "");
	}
	check(calls_of("envd_call_replace") == n, "one is sent that is not to be");
	play_close(h);
}

static void all_of(const void *arg)
{
	world.firecracker = true;
	((void (*)(const void *))arg)(NULL);
}

static const bool yes = true, no = false;
// What a VMM writes without having changed is not kept: play_mark changes three pages.
static void supersets(const void *arg)
{
	struct play *p = play_new();
	struct host_sandbox s;
	world.superset = true;
	world.firecracker = arg != NULL;
	struct host *h = play_open();
	OK(play_create(h, p, 0, -1, true, NULL, &e));
	then_created(p, 0, -1);
	for (int i = 0; i < 12; i++) {
		play_mark(p, 0);
		OK(play_pause(h, p, 0, NULL, &e));
		then_paused(p, 0);
		play_check(h, p, "after a pause");
		OK(host_get(h, p->box[0].id, &s, &e));
		check(s.memory_written_bytes > 0, "written: %lu", s.memory_written_bytes);
		check(i == 0 || s.memory_kept_bytes <= 3 * PLAYED_PAGE, "pause %d kept %lu of %lu",
			i, s.memory_kept_bytes, s.memory_written_bytes);
		OK(play_resume(h, p, 0, -1, false, NULL, &e));
		then_resumed(p, 0, -1, false);
		play_check(h, p, "after a resume");
	}
	OK(play_snapshot(h, p, 0, 0, NULL, &e)); // nothing was changed since
	then_snapshot(p, 0, 0);
	OK(host_get(h, p->box[0].id, &s, &e));
	check(s.memory_kept_bytes == 0 && s.memory_written_bytes > 0, "a snapshot of nothing");
	play_check(h, p, "after a snapshot of nothing");
	play_mark(p, 0);
	OK(play_fork(h, p, 0, 1, NULL, &e));
	then_forked(p, 0, 1);
	play_mark(p, 1);
	OK(play_resume(h, p, 0, 0, false, NULL, &e));
	then_resumed(p, 0, 0, false);
	play_check(h, p, "after a roll-back");
	OK(play_pause(h, p, 0, NULL, &e)); // nothing was changed since
	then_paused(p, 0);
	OK(play_pause(h, p, 1, NULL, &e));
	then_paused(p, 1);
	play_check(h, p, "after pauses");
	play_close(h);
}

static void fc_pauses(const void *arg)
{
	world.firecracker = true;
	pauses(arg);
}

int main(int argc, char **argv)
{
	static const struct played_case cases[] = {
		{"create", creates},
		{"pause/booted", pauses, &yes},
		{"pause/loaded", pauses, &no},
		{"snapshot", snapshots},
		{"expire", expires},
		{"fork", forks},
		{"resolvers", resolvers_kept},
		{"timeout", time_outs},
		{"end", ends},
		{"dies-while-it-boots", dies_while_it_boots},
		{"slow-boots", slow_boots},
		{"kill-all", kill_all},
		{"long-chain", long_chain},
		{"kills", kills},
		{"halts", halts},
		{"agents", agents_told},
		{"superset", supersets},
		{"firecracker/superset", supersets, &yes},
		{"agents-replaced", agents_replaced},
		{"firecracker/create", all_of, (const void *)creates},
		{"firecracker/pause", fc_pauses, &yes},
		{"firecracker/snapshot", all_of, (const void *)snapshots},
		{"firecracker/fork", all_of, (const void *)forks},
	};
	static const struct known_fault known[] = {{"", ""}};
	return cases_run(argc, argv, cases, ARRAY_SIZE(cases), known, ARRAY_SIZE(known));
}
