// SPDX-License-Identifier: Apache-2.0
// Guests whose agent has no word for them: it answers nothing, answers but does not do it, refuses
// (its token was stolen), or was started anew and has lost all.
//
//	OPERATION/TROUBLE	what needs no agent is done, what needs one fails and the guest goes
// on 	due/TROUBLE		its time is over all the same
//	once/...		what was paused so is resumed once, and copied never
//	once/kill/POINT		the server is killed in that resume: it was resumed, or was not
//	held/...		its time is over and the pause fails: it stands still
//	restart/...		a server that starts asks on
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/str.h"
#include "played/judge.h"
#include "played/points.h"
#include "snapshot/store.h"

enum silence { NOTHING, HEALTH_ALONE, REFUSES, ANEW };

// ANEW: another instance that has lost its token, and does not get to greet: closed.
static void fall_silent(const struct play *p, enum silence how)
{
	const char *id = p->box[SUBJECT].id;
	if (how == NOTHING)
		stage_trouble("envd_*", id, TROUBLE_SILENT, false);
	else if (how == HEALTH_ALONE)
		stage_trouble("envd_call_!(health)", id, TROUBLE_SILENT, false);
	else
		check(guest_set_agent(id, how == ANEW ? "ffff" : NULL, "stolen"), "no agent");
}

static void answer_again(const struct play *p, enum silence how)
{
	stage_calm();
	if (how == REFUSES || how == ANEW)
		check(guest_set_agent(p->box[SUBJECT].id, NULL, play_token(p, SUBJECT)),
			"no agent");
}

static struct host_sandbox look(struct host *h, unsigned box)
{
	struct host_sandbox s = {0};
	struct err e = {0};
	check(host_get(h, run->before.box[box].id, &s, &e) == 0, "get: %s", e.text);
	return s;
}

static uint64_t last_event(struct host *h)
{
	struct host_info i;
	check(host_info(h, &i, NULL) == 0, "info");
	return i.last_event;
}

// Waits for an event of the subject. The text of its data; the caller's.
static char *wait_event(struct host *h, uint64_t after, const char *kind)
{
	char *found = NULL;
	for (int i = 0; !found; i++) {
		struct host_event *list = NULL;
		size_t n = 0;
		check(i < 20000, "no event %s", kind);
		check(host_events(h, after, 1000, 0, &list, &n, NULL) == 0, "events");
		for (size_t k = 0; k < n; k++) {
			if (!found && str_eq(list[k].kind, kind) &&
				str_eq(list[k].sandbox, run->before.box[SUBJECT].id))
				found = json_compact(list[k].data);
			host_event_done(&list[k]);
		}
		free(list);
		if (found)
			return found;
		stage_skip_ms(50);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	return found;
}

// The event is told a moment before the state is.
static struct host_sandbox look_for(struct host *h, enum sandbox_state state, bool silent)
{
	struct host_sandbox s = look(h, SUBJECT);
	for (int i = 0; i < 20000 && (s.state != state || s.agent_silent != silent); i++) {
		clock_sleep_ns(NSEC_PER_MSEC);
		s = look(h, SUBJECT);
	}
	check(s.state == state && s.agent_silent == silent, "it is %s, silent is %d",
		sandbox_state_name(s.state), s.agent_silent);
	return s;
}

static void wait_answers(struct host *h, uint64_t after)
{
	free(wait_event(h, after, "agent_answers"));
	look_for(h, SANDBOX_RUNNING, false);
}

static bool file_says_quiesced(const char *snapshot)
{
	struct snapshot_info info;
	struct err e = {0};
	int data = open(world.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	check(snapshot_read_info(data, snapshot, &info, &e) == 0, "%s", e.text);
	close(data);
	return info.quiesced;
}

static struct host *begin(void)
{
	act = &acts[0];
	if (!run) // else its test has made it, for two servers
		run = act_prepare(act);
	struct host *h = play_open();
	act_prepare_in(h, act, run, false);
	return h;
}

static void be_paused(struct host *h, enum silence how)
{
	struct err e = {0};
	struct play *p = &run->before;
	fall_silent(p, how);
	uint64_t since = last_event(h), began = clock_monotonic_ns();
	check(play_pause(h, p, SUBJECT, NULL, &e) == 0, "pause: %s", e.text);
	uint64_t took = (clock_monotonic_ns() - began) / NSEC_PER_MSEC;
	check(took < (how == HEALTH_ALONE ? 45000u : 15000u), "it took %lu ms", took);
	then_paused(p, SUBJECT);
	struct host_sandbox s = look(h, SUBJECT);
	check(s.state == SANDBOX_PAUSED && s.unquiesced && !s.agent_silent, "not as it should be");
	check(!file_says_quiesced(s.snapshot), "snapshot.json says quiesced");
	char *data = wait_event(h, since, "paused");
	check(strstr(data, "\"quiesced\":false") && strstr(data, "agent_error"), "%s", data);
	free(data);
}

static void be_resumed(struct host *h, bool silent)
{
	struct err e = {0};
	struct play *p = &run->before;
	uint64_t since = last_event(h);
	check(play_resume(h, p, SUBJECT, -1, false, NULL, &e) == 0, "resume: %s", e.text);
	then_resumed(p, SUBJECT, -1, false);
	struct host_sandbox s = look(h, SUBJECT);
	check(s.state == SANDBOX_RUNNING && s.agent_silent == silent && !s.unquiesced,
		"silent is %d", s.agent_silent);
	char *data = wait_event(h, since, "resumed");
	check(!strstr(data, "\"agent\":\"silent\"") == !silent, "%s", data);
	free(data);
}

// ---- operations

static void pause_and_all(const void *arg)
{
	const enum silence how = *(const enum silence *)arg;
	struct host *h = begin();
	struct play *p = &run->before;
	struct err e = {0};
	struct host_place place;
	be_paused(h, how);
	play_check(h, p, "paused");
	be_resumed(h, true);
	// It runs like any other.
	check(host_address(h, p->box[SUBJECT].id, &place, &e) == 0, "address: %s", e.text);
	check(guest_goes_on(p->box[SUBJECT].id), "it stands still");
	play_mark(p, SUBJECT);
	be_paused(h, how);
	be_resumed(h, true);
	uint64_t since = last_event(h);
	answer_again(p, how);
	wait_answers(h, since);
	play_check(h, p, "its agent answers");
	check(play_fork(h, p, SUBJECT, CHILD, NULL, &e) == 0, "fork: %s", e.text);
	then_forked(p, SUBJECT, CHILD);
	check(play_pause(h, p, SUBJECT, NULL, &e) == 0, "pause: %s", e.text);
	then_paused(p, SUBJECT);
	check(!look(h, SUBJECT).unquiesced, "it is not quiesced");
	be_resumed(h, false);
	play_check(h, p, "at the end");
	play_close(h);
}

static void copies_fail(const void *arg)
{
	const enum silence how = *(const enum silence *)arg;
	struct host *h = begin();
	struct play *p = &run->before;
	struct err e = {0};
	fall_silent(p, how);
	check(play_fork(h, p, SUBJECT, CHILD, NULL, &e) < 0, "forked");
	check(strstr(e.text, "agent did not freeze it") && strstr(e.text, "runs on"), "%s", e.text);
	check(e.code == ERR_TIMEOUT || e.code == ERR_BAD_GATEWAY, "%s", err_info(e.code)->name);
	check(guest_goes_on(p->box[SUBJECT].id), "it stands still");
	check(play_snapshot(h, p, SUBJECT, 1, NULL, &e) < 0, "taken");
	check(guest_goes_on(p->box[SUBJECT].id), "it stands still");
	struct host_sandbox s = look(h, SUBJECT);
	check(s.state == SANDBOX_RUNNING && s.agent_silent, "silent is %d", s.agent_silent);
	play_check(h, p, "it runs on");
	uint64_t since = last_event(h);
	answer_again(p, how);
	wait_answers(h, since);
	play_check(h, p, "its agent answers");
	play_close(h);
}

// A freeze that is done, and whose answer does not come.
static void frozen_unheard(const void *arg)
{
	struct host *h = begin();
	struct play *p = &run->before;
	struct err e = {0};
	stage_trouble("envd_call_freeze", p->box[SUBJECT].id, TROUBLE_LOST, true);
	check(play_fork(h, p, SUBJECT, CHILD, NULL, &e) < 0, "forked");
	check(guest_goes_on(p->box[SUBJECT].id), "it stands still");
	check(!look(h, SUBJECT).agent_silent, "its agent has answered the thaw");
	stage_trouble("envd_call_freeze", p->box[SUBJECT].id, TROUBLE_LOST, true);
	check(play_pause(h, p, SUBJECT, NULL, &e) == 0, "pause: %s", e.text);
	then_paused(p, SUBJECT);
	check(look(h, SUBJECT).unquiesced, "quiesced");
	stage_calm();
	be_resumed(h, false);
	check(guest_goes_on(p->box[SUBJECT].id), "it stands still");
	play_close(h);
}

// ---- time-outs

static void be_due(struct host *h, enum on_timeout what)
{
	char op[UUID_SIZE];
	struct err e = {0};
	const char *id = run->before.box[SUBJECT].id;
	id_new_uuid(op);
	check(host_set_on_timeout(h, op, id, what, &e) == 0, "%s", e.text);
	id_new_uuid(op);
	check(host_set_timeout(h, op, id, clock_realtime_ns(), &e) == 0, "%s", e.text);
}

static void due(const void *arg)
{
	const enum silence how = *(const enum silence *)arg;
	struct host *h = begin();
	struct play *p = &run->before;
	fall_silent(p, how);
	uint64_t since = last_event(h);
	be_due(h, ON_TIMEOUT_PAUSE);
	free(wait_event(h, since, "paused"));
	then_paused(p, SUBJECT);
	check(look_for(h, SANDBOX_PAUSED, false).unquiesced, "quiesced");
	be_resumed(h, true);
	since = last_event(h);
	be_due(h, ON_TIMEOUT_KILL);
	free(wait_event(h, since, "stopped"));
	then_destroyed(p, SUBJECT);
	play_check(h, p, "at the end");
	play_close(h);
}

// The pause fails, whatever the reason: the guest's code has had its time.
static void held(const void *arg)
{
	const char *point = arg;
	struct host *h = begin();
	struct play *p = &run->before;
	struct err e = {0};
	char op[UUID_SIZE];
	stage_fault(point, FAULT_FAIL_ALWAYS);
	uint64_t since = last_event(h);
	be_due(h, ON_TIMEOUT_PAUSE);
	char *data = wait_event(h, since, "held");
	check(strstr(data, "error"), "%s", data);
	free(data);
	const char *id = p->box[SUBJECT].id;
	struct host_sandbox s = look_for(h, SANDBOX_PAUSING, false);
	for (int i = 0; i < 20000 && !s.detail[0]; i++) {
		clock_sleep_ns(NSEC_PER_MSEC);
		s = look(h, SUBJECT);
	}
	check(!guest_goes_on(id), "it goes on");
	check(strstr(s.detail, "could not be paused"), "%s", s.detail);
	stage_skip_ms(31000); // it is tried again, and fails again
	clock_sleep_ns(50 * NSEC_PER_MSEC);
	check(!guest_goes_on(id) && look(h, SUBJECT).state == SANDBOX_PAUSING, "it goes on");
	// More time lets it go on.
	since = last_event(h);
	id_new_uuid(op);
	check(host_set_timeout(h, op, id, clock_realtime_ns() + 3600 * NSEC_PER_SEC, &e) == 0, "%s",
		e.text);
	free(wait_event(h, since, "running"));
	check(guest_goes_on(id), "it stands still");
	play_mark(p, SUBJECT);
	// Once more; this time the pause comes, and is a quiesced one.
	since = last_event(h);
	be_due(h, ON_TIMEOUT_PAUSE);
	free(wait_event(h, since, "held"));
	stage_calm();
	free(wait_event(h, since, "paused"));
	then_paused(p, SUBJECT);
	check(!look_for(h, SANDBOX_PAUSED, false).unquiesced, "it is not quiesced");
	play_check(h, p, "paused");
	be_resumed(h, false);
	play_check(h, p, "at the end");
	play_close(h);
}

static void held_and_removed(const void *arg)
{
	struct host *h = begin();
	struct play *p = &run->before;
	struct err e = {0};
	fall_silent(p, NOTHING);
	stage_fault("capture.after_memory", FAULT_FAIL_ALWAYS);
	uint64_t since = last_event(h);
	be_due(h, ON_TIMEOUT_PAUSE);
	free(wait_event(h, since, "held"));
	check(play_destroy(h, p, SUBJECT, NULL, &e) == 0, "destroy: %s", e.text);
	then_destroyed(p, SUBJECT);
	play_check(h, p, "at the end");
	play_close(h);
}

// ---- once

static void refused(int rc, const struct err *e, const char *what)
{
	check(rc < 0 && e->code == ERR_NOT_QUIESCED, "%s: %d %s", what, rc, e->text);
	check(strstr(e->text, "--disk-only"), "%s: %s", what, e->text);
}

static void no_copies(const void *arg)
{
	struct host *h = begin();
	struct play *p = &run->before;
	struct err e = {0};
	be_paused(h, NOTHING);
	stage_calm();
	refused(play_fork(h, p, SUBJECT, CHILD, NULL, &e), &e, "fork");
	e = (struct err){0};
	refused(play_snapshot(h, p, SUBJECT, 1, NULL, &e), &e, "snapshot");
	// Nor by its snapshot's id.
	e = (struct err){0};
	p->snap[1].there = false;
	struct host_sandbox s = look(h, SUBJECT);
	memcpy(p->snap[1].id, s.snapshot, sizeof s.snapshot);
	refused(play_create(h, p, NEW, 1, false, NULL, &e), &e, "create");
	id_new_uuid(p->snap[1].id);
	play_check(h, p, "after the refusals");
	be_resumed(h, false);
	play_check(h, p, "resumed");
	play_close(h);
}

// The guest has run, and the resume fails all the same.
static void spent(const void *arg)
{
	struct host *h = begin();
	struct play *p = &run->before;
	struct err e = {0};
	struct host_snapshot_check c;
	be_paused(h, NOTHING);
	stage_calm();
	stage_fault("resume.after_load", FAULT_FAIL);
	check(play_resume(h, p, SUBJECT, -1, false, NULL, &e) < 0, "resumed");
	stage_calm();
	play_check(h, p, "still paused");
	for (int i = 0; i < 2; i++) {
		e = (struct err){0};
		refused(play_resume(h, p, SUBJECT, -1, false, NULL, &e), &e, "resume");
		struct host_sandbox s = look(h, SUBJECT);
		memcpy(p->snap[1].id, s.snapshot, sizeof s.snapshot);
		e = (struct err){0};
		refused(play_resume(h, p, SUBJECT, 1, false, NULL, &e), &e, "roll back");
		check(host_snapshot_check(h, s.snapshot, &c, &e) == 0 && !c.resumes &&
				strstr(c.reason, "--disk-only"),
			"%s", c.reason);
		id_new_uuid(p->snap[1].id);
		play_close(h);
		h = play_open();
	}
	check(play_resume(h, p, SUBJECT, -1, true, NULL, &e) == 0, "disk: %s", e.text);
	then_resumed(p, SUBJECT, -1, true);
	play_check(h, p, "booted");
	play_close(h);
}

// A load that the VMM refuses has not run: it may be tried again.
static void not_spent(const void *arg)
{
	struct host *h = begin();
	struct play *p = &run->before;
	struct err e = {0};
	be_paused(h, NOTHING);
	stage_calm();
	stage_trouble("vmm_snapshot_load", NULL, TROUBLE_FAILS, true);
	check(play_resume(h, p, SUBJECT, -1, false, NULL, &e) < 0, "resumed");
	be_resumed(h, false);
	play_check(h, p, "resumed");
	play_close(h);
}

static void serve_a_resume(void *arg)
{
	struct err e = {0};
	struct host *h = begin();
	be_paused(h, NOTHING);
	stage_calm();
	run->after = run->before;
	then_resumed(&run->after, SUBJECT, -1, false);
	stage_fault(arg, FAULT_KILL);
	play_resume(h, &run->before, SUBJECT, -1, false, NULL, &e);
	check(false, "%s was not reached: %s", (const char *)arg, e.text);
}

// As before, or it is the machine that ran; and never both.
static void serve_after_resume(void *arg)
{
	struct err e = {0};
	struct host *h = play_open();
	judge_one_of(h, true, true, "after the kill");
	struct host_sandbox s = look(h, SUBJECT);
	struct play *p = &run->before;
	bool marked = str_starts(arg, "resume.after_mark") ||
		      str_starts(arg, "resume.after_load") ||
		      str_starts(arg, "resume.after_agent") || str_starts(arg, "resume.before");
	check((s.state == SANDBOX_RUNNING) == marked, "state %d", s.state);
	if (s.state == SANDBOX_RUNNING) {
		then_resumed(p, SUBJECT, -1, false);
		uint64_t since = last_event(h);
		if (s.agent_silent)
			wait_answers(h, since - MIN(since, 3u));
		check(guest_goes_on(p->box[SUBJECT].id), "it stands still");
	} else {
		be_resumed(h, false);
	}
	play_mark(p, SUBJECT);
	check(play_pause(h, p, SUBJECT, NULL, &e) == 0, "pause: %s", e.text);
	then_paused(p, SUBJECT);
	play_check(h, p, "at the end");
	play_close(h);
}

static void kill_at(const void *arg)
{
	act = &acts[0];
	run = act_prepare(act);
	check(!served(serve_a_resume, (void *)arg), "it lives");
	stage_calm();
	check(served(serve_after_resume, (void *)arg), "judged");
}

// ---- restarts

static void restart(const void *arg)
{
	const enum silence how = *(const enum silence *)arg;
	struct host *h = begin();
	be_paused(h, how);
	be_resumed(h, true);
	play_close(h);
	h = play_open();
	struct host_sandbox s = look(h, SUBJECT);
	check(s.state == SANDBOX_RUNNING && s.agent_silent, "silent is %d", s.agent_silent);
	uint64_t since = last_event(h);
	answer_again(&run->before, how);
	wait_answers(h, since);
	play_check(h, &run->before, "at the end");
	play_close(h);
}

static void serve_a_pause(void *arg)
{
	struct err e = {0};
	struct host *h = begin();
	fall_silent(&run->before, NOTHING);
	run->after = run->before;
	then_paused(&run->after, SUBJECT);
	stage_fault(arg, FAULT_KILL);
	play_pause(h, &run->before, SUBJECT, NULL, &e);
	check(false, "%s was not reached: %s", (const char *)arg, e.text);
}

static void serve_after_pause(void *arg)
{
	struct err e = {0};
	struct host *h = play_open();
	judge_one_of(h, true, true, "after the kill");
	struct host_sandbox s = look(h, SUBJECT);
	struct play *p = &run->before;
	if (s.state == SANDBOX_PAUSED) {
		then_paused(p, SUBJECT);
		check(s.unquiesced, "quiesced");
		be_resumed(h, true);
	}
	check(guest_goes_on(p->box[SUBJECT].id), "it stands still");
	play_mark(p, SUBJECT);
	check(play_pause(h, p, SUBJECT, NULL, &e) == 0, "pause: %s", e.text);
	then_paused(p, SUBJECT);
	play_check(h, p, "at the end");
	play_close(h);
}

// The agent is silent for the next server, too.
static void kill_pause_at(const void *arg)
{
	act = &acts[0];
	run = act_prepare(act);
	check(!served(serve_a_pause, (void *)arg), "it lives");
	world.stage->way = FAULT_NONE;
	check(served(serve_after_pause, (void *)arg), "judged");
}

int main(int argc, char **argv)
{
	static const enum silence ways[] = {NOTHING, HEALTH_ALONE, REFUSES, ANEW};
	static const struct played_case cases[] = {
		{"pause/nothing", pause_and_all, &ways[0]},
		{"pause/health-alone", pause_and_all, &ways[1]},
		{"pause/refuses", pause_and_all, &ways[2]},
		{"pause/anew", pause_and_all, &ways[3]},
		{"copies/nothing", copies_fail, &ways[0]},
		{"copies/health-alone", copies_fail, &ways[1]},
		{"copies/refuses", copies_fail, &ways[2]},
		{"copies/anew", copies_fail, &ways[3]},
		{"copies/frozen-unheard", frozen_unheard, NULL},
		{"due/nothing", due, &ways[0]},
		{"due/health-alone", due, &ways[1]},
		{"due/refuses", due, &ways[2]},
		{"due/anew", due, &ways[3]},
		{"held/capture.after_freeze", held, "capture.after_freeze"},
		{"held/capture.after_memory", held, "capture.after_memory"},
		{"held/ingest.after_layer", held, "ingest.after_layer"},
		{"held/pause.before_commit", held, "pause.before_commit"},
		{"held/rm", held_and_removed, NULL},
		{"once/copies", no_copies, NULL},
		{"once/spent", spent, NULL},
		{"once/not-spent", not_spent, NULL},
		{"once/kill/after_journal", kill_at, "resume.after_journal"},
		{"once/kill/after_disk", kill_at, "resume.after_disk"},
		{"once/kill/after_shim", kill_at, "resume.after_shim"},
		{"once/kill/after_mark", kill_at, "resume.after_mark"},
		{"once/kill/after_load", kill_at, "resume.after_load"},
		{"once/kill/after_agent", kill_at, "resume.after_agent"},
		{"once/kill/before_commit", kill_at, "resume.before_commit"},
		{"restart/nothing", restart, &ways[0]},
		{"restart/refuses", restart, &ways[2]},
		{"restart/pause/after_journal", kill_pause_at, "pause.after_journal"},
		{"restart/pause/after_freeze", kill_pause_at, "capture.after_freeze"},
		{"restart/pause/after_stop", kill_pause_at, "capture.after_stop"},
		{"restart/pause/after_memory", kill_pause_at, "capture.after_memory"},
		{"restart/pause/after_layer", kill_pause_at, "ingest.after_layer"},
		{"restart/pause/after_files", kill_pause_at, "snapshot.after_files"},
		{"restart/pause/before_commit", kill_pause_at, "pause.before_commit"},
	};
	return cases_run(argc, argv, cases, ARRAY_SIZE(cases), NULL, 0);
}
