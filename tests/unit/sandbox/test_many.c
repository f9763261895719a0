// SPDX-License-Identifier: Apache-2.0
// The start of a server that finds many sandboxes, some of them stuck: killed in the middle of a
// pause, with VMMs that answer nothing.
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "played/play.h"

#define ALL 200u
#define STUCK 20u // the first ones
#define TOKEN "t"
#define MARK(i) (1000 + (i)) // what guest i has in page 20

static const char *name_of(unsigned i)
{
	static _Thread_local char id[SANDBOX_ID_SIZE];
	snprintf(id, sizeof id, "i%s%015u", i < STUCK ? "stuck" : "other", i);
	return id;
}

static void create(struct host *h, unsigned i)
{
	struct host_create req = {.token = TOKEN, .template = "base"};
	struct host_sandbox s;
	struct err e = {0};
	snprintf(req.id, sizeof req.id, "%s", name_of(i));
	id_new_uuid(req.op_id);
	check(host_create(h, &req, &s, &e) == 0, "create %u: %s", i, e.text);
	check(guest_write(req.id, 20, MARK(i)), "guest %u does not write", i);
}

static int pause_it(struct host *h, unsigned i, struct err *e)
{
	struct host_sandbox s;
	char op[UUID_SIZE];
	id_new_uuid(op);
	return host_pause(h, op, name_of(i), &s, e);
}

// The one in which the first server is killed.
static int cut_pause(struct host *h, unsigned i, struct err *e)
{
	struct host_sandbox s;
	char op[UUID_SIZE];
	snprintf(op, sizeof op, "00000000-0000-4000-8000-%012u", i);
	return host_pause(h, op, name_of(i), &s, e);
}

static void pause_and_resume(struct host *h, unsigned i)
{
	struct host_resume req = {.token = TOKEN};
	struct host_sandbox s;
	struct err e = {0};
	check(pause_it(h, i, &e) == 0, "pause %u: %s", i, e.text);
	snprintf(req.id, sizeof req.id, "%s", name_of(i));
	id_new_uuid(req.op_id);
	check(host_resume(h, &req, &s, &e) == 0, "resume %u: %s", i, e.text);
}

static enum sandbox_state state_of(struct host *h, unsigned i)
{
	struct host_sandbox s;
	struct err e = {0};
	return host_get(h, name_of(i), &s, &e) < 0 ? SANDBOX_STATE_MAX : s.state;
}

static void check_content(unsigned i)
{
	struct content want = content_booted, is;
	want.page[20] = MARK(i);
	check(guest_read(name_of(i), &is), "guest %u is not there", i);
	const char *differs = content_differs(&want, &is);
	check(!differs, "guest %u: %s", i, differs);
}

static void wait_for(bool (*f)(void *, unsigned), void *ctx, unsigned i, const char *what)
{
	for (int n = 0; !f(ctx, i); n++) {
		check(n < 60000, "%u: never %s", i, what);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
}

// ---- the first server

static struct host *host;

static void *stuck_pause(void *arg)
{
	struct err e = {0};
	cut_pause(host, (unsigned)(uintptr_t)arg, &e);
	return NULL;
}

static bool all_hold(void *ctx, unsigned n)
{
	return atomic_load(&world.stage->holding) == (int)n;
}

static void serve_and_die(void *arg)
{
	pthread_t t;
	host = play_open();
	for (unsigned i = 0; i < ALL; i++)
		create(host, i);
	stage_trouble("vmm_snapshot_create", "istuck*", TROUBLE_HOLDS, false);
	for (unsigned i = 0; i < STUCK; i++)
		check(pthread_create(&t, NULL, stuck_pause, (void *)(uintptr_t)i) == 0, "thread");
	wait_for(all_hold, NULL, STUCK, "stopped, all of them");
	kill(getpid(), SIGKILL);
}

// ---- the next one

static bool runs(void *h, unsigned i)
{
	return state_of(h, i) == SANDBOX_RUNNING && guest_goes_on(name_of(i));
}

static bool is_gone(void *h, unsigned i)
{
	enum sandbox_state s = state_of(h, i);
	return s == SANDBOX_STOPPED || s == SANDBOX_STATE_MAX;
}

// While those that are stuck answer nothing.
static void use_the_others(struct host *h)
{
	char op[UUID_SIZE];
	struct host_place at;
	struct err e = {0};
	for (unsigned i = STUCK; i < ALL; i++) {
		check(runs(h, i), "%u is %s", i, sandbox_state_name(state_of(h, i)));
		check(host_address(h, name_of(i), &at, &e) == 0, "%u: %s", i, e.text);
		check_content(i);
	}
	for (unsigned i = STUCK; i < ALL; i += 9)
		pause_and_resume(h, i);
	id_new_uuid(op);
	check(host_destroy(h, op, name_of(ALL - 1), "killed", &e) == 0, "destroy: %s", e.text);
	create(h, ALL);
}

static void look_at_stuck(struct host *h)
{
	struct host_sandbox s;
	for (unsigned i = 0; i < STUCK; i++) {
		struct err e = {0};
		check(host_get(h, name_of(i), &s, &e) == 0, "%u: %s", i, e.text);
		check(s.state == SANDBOX_PAUSING, "%u is %s", i, sandbox_state_name(s.state));
		check(pause_it(h, i, &e) < 0 && e.code == ERR_UNAVAILABLE, "%u: %s", i, e.text);
		check(cut_pause(h, i, &e) < 0 && e.code == ERR_UNAVAILABLE, "%u: %s", i, e.text);
	}
}

static void serve_beside_stuck(void *arg)
{
	char op[UUID_SIZE];
	struct err e = {0};
	struct host *h = world_open();
	wait_for(all_hold, NULL, STUCK, "asked, all of them at once");
	look_at_stuck(h);
	use_the_others(h);
	look_at_stuck(h);
	id_new_uuid(op);
	check(host_destroy(h, op, name_of(0), "killed", &e) == 0, "destroy: %s", e.text);
	check(is_gone(h, 0), "%u is %s", 0u, sandbox_state_name(state_of(h, 0)));
	stage_calm();
	for (unsigned i = 1; i < STUCK; i++) {
		wait_for(runs, h, i, "runs again");
		check_content(i);
	}
	for (unsigned i = 1; i < STUCK; i += 3) {
		pause_and_resume(h, i);
		check_content(i);
	}
	host_close(h, false);
}

static bool all_live(void *ctx, unsigned n)
{
	return atomic_load(&world.stage->vms) == (int)n;
}

static void recovery(const void *arg)
{
	check(!served(serve_and_die, NULL), "it lives");
	stage_calm();
	stage_trouble("vmm_*", "istuck*", TROUBLE_HOLDS, false);
	check(served(serve_beside_stuck, NULL), "killed");
	wait_for(all_live, NULL, ALL - 1, "alone");
}

// ---- all of their times are over at once

// A job of the pool that ends one must not wait for another job of the pool: all threads would.
static void due(const void *arg)
{
	struct host *h = play_open();
	char op[UUID_SIZE];
	struct err e = {0};
	for (unsigned i = 0; i < ALL; i++)
		create(h, i);
	uint64_t end = clock_realtime_ns() + 60 * NSEC_PER_SEC;
	for (unsigned i = 0; i < ALL; i++) {
		id_new_uuid(op);
		check(host_set_timeout(h, op, name_of(i), end, &e) == 0, "%u: %s", i, e.text);
	}
	uint64_t began = clock_monotonic_ns() + 60 * NSEC_PER_SEC;
	stage_skip_ms(60000);
	for (unsigned i = 0; i < ALL; i++)
		wait_for(is_gone, h, i, "ended");
	wait_for(all_live, NULL, 0, "gone");
	uint64_t ms = (clock_monotonic_ns() - began) / NSEC_PER_MSEC;
	check(ms < 8000, "%u ended after %lu ms", ALL, ms);
	host_close(h, false);
}

// ---- a time that is moved while the pool has not come to the end yet

#define BUSY 40u // more than the pool has threads

static bool some_hold(void *ctx, unsigned n)
{
	return atomic_load(&world.stage->holding) >= (int)n;
}

static void moved(const void *arg)
{
	struct host *h = play_open();
	bool told[BUSY] = {false};
	char op[UUID_SIZE];
	struct err e = {0};
	for (unsigned i = 0; i < BUSY; i++)
		create(h, i);
	stage_trouble("shim_kill", NULL, TROUBLE_HOLDS, false);
	for (unsigned i = 0; i < BUSY; i++) {
		id_new_uuid(op);
		check(host_set_timeout(h, op, name_of(i), clock_realtime_ns(), &e) == 0, "%u: %s",
			i, e.text);
	}
	wait_for(some_hold, NULL, 30, "at their ends");
	clock_sleep_ns(50 * NSEC_PER_MSEC);
	unsigned n = 0;
	for (unsigned i = 0; i < BUSY; i++) {
		id_new_uuid(op);
		told[i] = host_set_timeout(h, op, name_of(i),
				  clock_realtime_ns() + 3600 * NSEC_PER_SEC, NULL) == 0;
		n += told[i];
	}
	check(n > 0, "all of them have ended");
	stage_calm();
	for (unsigned i = 0; i < BUSY; i++)
		if (!told[i])
			wait_for(is_gone, h, i, "ended");
	clock_sleep_ns(50 * NSEC_PER_MSEC);
	for (unsigned i = 0; i < BUSY; i++)
		check(!told[i] || runs(h, i), "%u was to have an hour and is %s", i,
			sandbox_state_name(state_of(h, i)));
	host_close(h, true);
}

int main(int argc, char **argv)
{
	static const struct played_case cases[] = {
		{"recovery", recovery}, {"due", due}, {"moved", moved}};
	static const struct known_fault known[] = {{"", ""}};
	return cases_run(argc, argv, cases, ARRAY_SIZE(cases), known, ARRAY_SIZE(known));
}
