// SPDX-License-Identifier: Apache-2.0
// Kept VMMs in the played world: this host's is upgraded, and what was taken with the one before
// goes on with that. A played VMM refuses the state of another version.
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "played/play.h"
#include "snapshot/store.h"

#define OK(call)                                                                                   \
	do {                                                                                       \
		struct err e = {0};                                                                \
		check((call) == 0, "%s: %s", #call, e.text);                                       \
	} while (0)

static char tree_of_version[3][SHIM_TREE_ID_SIZE];

// Another start of the server, after so many upgrades of the VMM.
static struct host *start_again(struct host *h, unsigned upgrades)
{
	char path[160];
	if (h)
		play_close(h);
	snprintf(path, sizeof path, "%s/probe.json", world.run); // QEMU's file was another
	unlink(path);
	atomic_store(&world.stage->vmm_upgrades, upgrades);
	return play_open();
}

static struct host *begin(struct play **ret)
{
	for (unsigned i = 0; i < 3; i++)
		snprintf(tree_of_version[i], SHIM_TREE_ID_SIZE, "%032x", i + 1);
	*ret = play_new();
	return play_open();
}

static bool tree_is_there(unsigned version)
{
	char path[200];
	snprintf(path, sizeof path, "%s/runtime/%s", world.data, tree_of_version[version]);
	return access(path, F_OK) == 0;
}

// The upkeep removes behind everybody's back.
static void check_trees(const char *when, bool first, bool second)
{
	const bool want[] = {first, second};
	for (int tries = 0; tries < 2000; tries++) {
		if (tree_is_there(0) == first && tree_is_there(1) == second)
			return;
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	for (unsigned i = 0; i < 2; i++)
		check(tree_is_there(i) == want[i], "%s: tree %u is %s", when, i,
			want[i] ? "gone" : "there");
}

static void check_runs_on(const struct play *p, unsigned box, unsigned version)
{
	char dir[256];
	struct machine m;
	snprintf(dir, sizeof dir, "%s/%s", world.run, p->box[box].id);
	check(machine_read(dir, &m) == 0, "box %u does not run", box);
	check(str_eq(m.tree, tree_of_version[version]), "box %u runs on tree %s, should be %s", box,
		m.tree, tree_of_version[version]);
}

static void read_info(struct host *h, const struct play *p, unsigned box, struct snapshot_info *ret)
{
	struct host_sandbox s;
	OK(host_get(h, p->box[box].id, &s, &e));
	_cleanup_close_ int data = open(world.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	OK(snapshot_read_info(data, s.snapshot, ret, &e));
}

static void check_named(struct host *h, const struct play *p, unsigned box, unsigned version)
{
	struct snapshot_info i;
	char state[32];
	snprintf(state, sizeof state, "played-%u", version + 1);
	read_info(h, p, box, &i);
	check(str_eq(i.runtime, tree_of_version[version]), "box %u names %s", box, i.runtime);
	check(str_eq(i.vmm_state, state), "box %u is of %s, should be %s", box, i.vmm_state, state);
}

// Paused, named and running: all of it outlives the upgrade, and what is taken of it too.
static void upgrade(const void *arg)
{
	struct play *p;
	struct host *h = begin(&p);
	for (unsigned box = 0; box < 2; box++) {
		OK(play_create(h, p, box, -1, false, NULL, &e));
		then_created(p, box, -1);
		play_mark(p, box);
	}
	OK(play_snapshot(h, p, 1, 0, NULL, &e));
	then_snapshot(p, 1, 0);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	h = start_again(h, 1);
	check_trees("after the upgrade", true, true);
	play_check(h, p, "after the upgrade");
	struct host_snapshot_check fits;
	OK(host_snapshot_check(h, p->snap[0].id, &fits, &e));
	check(fits.resumes, "a named one: %s", fits.reason);
	check_runs_on(p, 1, 0);
	// What is new is new.
	OK(play_create(h, p, 2, -1, false, NULL, &e));
	then_created(p, 2, -1);
	check_runs_on(p, 2, 1);
	OK(play_resume(h, p, 0, -1, false, NULL, &e));
	then_resumed(p, 0, -1, false);
	check_runs_on(p, 0, 0);
	// One that has run all the time is of the VMM that it was started with.
	play_mark(p, 1);
	OK(play_pause(h, p, 1, NULL, &e));
	then_paused(p, 1);
	check_named(h, p, 1, 0);
	OK(play_resume(h, p, 1, -1, false, NULL, &e));
	then_resumed(p, 1, -1, false);
	OK(play_create(h, p, 3, 0, false, NULL, &e));
	then_created(p, 3, 0);
	check_runs_on(p, 3, 0);
	play_mark(p, 0);
	OK(play_fork(h, p, 0, 4, NULL, &e));
	then_forked(p, 0, 4);
	check_runs_on(p, 4, 0);
	OK(play_resume(h, p, 1, 0, false, NULL, &e)); // a roll-back
	then_resumed(p, 1, 0, false);
	check_runs_on(p, 1, 0);
	play_mark(p, 2);
	OK(play_pause(h, p, 2, NULL, &e));
	then_paused(p, 2);
	check_named(h, p, 2, 1);
	play_check(h, p, "with two VMMs");
	// And where the older one is this host's again.
	h = start_again(h, 0);
	OK(play_resume(h, p, 2, -1, false, NULL, &e));
	then_resumed(p, 2, -1, false);
	check_runs_on(p, 2, 1);
	play_check(h, p, "with the newer one kept");
	play_close(h);
}

// It goes when the last of these does: a paused one, a named one, one that runs.
static void collected(const void *arg)
{
	struct play *p;
	struct host *h = begin(&p);
	for (unsigned box = 0; box < 2; box++) {
		OK(play_create(h, p, box, -1, false, NULL, &e));
		then_created(p, box, -1);
	}
	OK(play_snapshot(h, p, 1, 0, NULL, &e));
	then_snapshot(p, 1, 0);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	h = start_again(h, 1);
	OK(play_destroy(h, p, 0, NULL, &e));
	then_destroyed(p, 0);
	play_idle(h, p, "without the paused one");
	check_trees("with a named one and one that runs", true, true);
	OK(play_delete(h, p, 0, NULL, &e));
	then_deleted(p, 0);
	play_idle(h, p, "without the named one");
	check_trees("with one that runs", true, true);
	OK(play_create(h, p, 2, -1, false, NULL, &e));
	then_created(p, 2, -1);
	h = start_again(h, 1); // that runs through a restart as well
	check_trees("with one that runs on", true, true);
	OK(play_destroy(h, p, 1, NULL, &e));
	then_destroyed(p, 1);
	play_idle(h, p, "without the last");
	check_trees("without the last", false, true);
	h = start_again(h, 1);
	check_trees("a day later", false, true);
	play_close(h);
}

// The power goes as a tree is made, and as it has got its name: nobody names it yet.
static void cut_off(const void *arg)
{
	static const char *const points[] = {"runtime.before_name", "runtime.after_name"};
	for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
		struct play *p;
		struct host *h = begin(&p), *none = NULL;
		struct err why = {0};
		OK(play_create(h, p, 0, -1, false, NULL, &e));
		then_created(p, 0, -1);
		OK(play_pause(h, p, 0, NULL, &e));
		then_paused(p, 0);
		play_close(h);
		char path[160];
		snprintf(path, sizeof path, "%s/probe.json", world.run);
		unlink(path);
		atomic_store(&world.stage->vmm_upgrades, 1);
		stage_fault(points[i], FAULT_FAIL);
		check(world_try_open(&none, &why) < 0, "%s: the server starts", points[i]);
		stage_calm();
		check_trees(points[i], true, i == 1);
		h = start_again(NULL, 0); // the upgrade is taken back
		check_trees("without the upgrade", true, false);
		h = start_again(h, 1);
		check_trees("with it", true, true);
		OK(play_resume(h, p, 0, -1, false, NULL, &e));
		then_resumed(p, 0, -1, false);
		play_check(h, p, "after a tree that was cut off");
		OK(play_destroy(h, p, 0, NULL, &e));
		then_destroyed(p, 0);
		play_close(h);
		check_trees("after all", false, true);
		h = start_again(NULL, 0);
		play_close(h);
	}
}

static void rewrite(const char *id, const char *runtime)
{
	char path[256];
	struct snapshot_info i;
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_close_ int data = open(world.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	check(snapshot_read_info(data, id, &i, NULL) == 0, "%s", id);
	snprintf(i.runtime, sizeof i.runtime, "%s", runtime);
	check(snapshot_encode(&i, &text) == 0, "%s", id);
	snprintf(path, sizeof path, "snapshots/%s/snapshot.json", id);
	check(file_write_atomic(data, path, text.data, text.len, 0644) == 0, "%s", path);
}

// Of a server of before: it names no tree, or one that was lost. Name and state format count.
static void named_by_none(const void *arg)
{
	static const char *const names[] = {
		"", "00000000000000000000000000000000", "../../etc", "played"};
	struct play *p;
	struct host *h = begin(&p);
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	play_mark(p, 0);
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		play_close(h); // its upkeep may write that file too
		rewrite(p->snap[0].id, names[i]);
		h = start_again(NULL, 0);
		OK(play_create(h, p, 1 + i, 0, false, NULL, &e));
		then_created(p, 1 + i, 0);
		play_check(h, p, names[i]);
		OK(play_destroy(h, p, 1 + i, NULL, &e));
		then_destroyed(p, 1 + i);
		h = start_again(h, 1);
		struct err why = {0};
		int rc = play_create(h, p, 9, 0, false, NULL, &why);
		check(rc < 0 && why.code == ERR_UNAVAILABLE && strstr(why.text, "played-1"),
			"'%s' after the upgrade: %d, %s", names[i], rc, why.text);
	}
	play_close(h);
}

// What cannot be read may name any tree.
static void unread(const void *arg)
{
	struct play *p;
	struct host *h = begin(&p);
	char path[256];
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	OK(play_destroy(h, p, 0, NULL, &e));
	then_destroyed(p, 0);
	snprintf(path, sizeof path, "%s/snapshots/%s/snapshot.json", world.data, p->snap[0].id);
	check(truncate(path, 20) == 0, "%s", path);
	h = start_again(h, 1);
	h = start_again(h, 1);
	check_trees("with a damaged one", true, true);
	play_close(h);
}

// What a guest of before the upgrade runs on is not known: a snapshot of it that names this host's
// VMM could never be loaded, and would let go of the tree that could.
static void unknown_runner(const void *arg)
{
	struct play *p;
	struct host *h = begin(&p);
	char path[256];
	_cleanup_strbuf_ struct strbuf text = {0};
	struct err why = {0};
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	play_mark(p, 0);
	play_close(h);
	snprintf(path, sizeof path, "%s/runtime/%s/runtime.json", world.data, tree_of_version[0]);
	check(file_read(AT_FDCWD, path, 1u << 20, &text) == 0 && truncate(path, 20) == 0, "%s",
		path);
	h = start_again(NULL, 1);
	int rc = play_pause(h, p, 0, NULL, &why);
	check(rc < 0 && why.code == ERR_UNAVAILABLE, "a pause: %d, %s", rc, why.text);
	rc = play_snapshot(h, p, 0, 0, NULL, &why);
	check(rc < 0 && why.code == ERR_UNAVAILABLE, "a snapshot: %d, %s", rc, why.text);
	play_check(h, p, "it runs on");
	check_trees("while it runs", true, true);
	play_close(h);
	check(file_write_atomic(AT_FDCWD, path, text.data, text.len, 0600) == 0, "%s", path);
	h = start_again(NULL, 1);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	check_named(h, p, 0, 0);
	OK(play_resume(h, p, 0, -1, false, NULL, &e));
	then_resumed(p, 0, -1, false);
	check_runs_on(p, 0, 0);
	play_check(h, p, "once it is known");
	play_close(h);
}

static void refused(int rc, const struct err *e, const char *word, const char *when)
{
	check(rc < 0 && e->code == ERR_UNAVAILABLE, "%s: %d, %s", when, rc, e->text);
	check(strstr(e->text, word) && strstr(e->text, "--disk-only") && strstr(e->text, "rewarm"),
		"%s: %s", when, e->text);
}

// Nothing starts on it, and what runs goes on; over restarts, and also when the tree was away.
static void denied(const void *arg)
{
	struct play *p;
	struct host *h = begin(&p);
	struct host_snapshot_check fits;
	struct host_runtime *list = NULL;
	struct err why = {0};
	size_t n = 0;
	for (unsigned box = 0; box < 2; box++) {
		OK(play_create(h, p, box, -1, false, NULL, &e));
		then_created(p, box, -1);
		play_mark(p, box);
	}
	OK(play_snapshot(h, p, 1, 0, NULL, &e));
	then_snapshot(p, 1, 0);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	h = start_again(h, 1);
	// The base image's frozen machine of before is removed behind everybody's back.
	for (int tries = 0; tries < 2000; tries++) {
		free(list);
		OK(host_runtimes(h, &list, &n, &e));
		if (n == 2 && list[1].snapshots == 2)
			break;
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	check(n == 2 && list[0].current && !list[1].current, "%zu runtimes", n);
	check(str_eq(list[1].id, tree_of_version[0]) && str_eq(list[1].version, "7.2.22"),
		"the kept one is %s, %s", list[1].id, list[1].version);
	check(list[1].snapshots == 2 && list[1].oldest_ns && list[1].newest_ns >= list[1].oldest_ns,
		"it is held by %lu", (unsigned long)list[1].snapshots);
	free(list);
	check(host_runtime_deny(h, "../x", true, &why) < 0 && why.code == ERR_INVALID, "%s",
		why.text);
	OK(host_runtime_deny(h, tree_of_version[0], true, &e));
	OK(host_runtime_deny(h, tree_of_version[0], true, &e)); // once more
	for (unsigned i = 0; i < 2; i++) {
		OK(host_snapshot_check(h, p->snap[0].id, &fits, &e));
		check(!fits.resumes && strstr(fits.reason, "denied"), "%s", fits.reason);
		check(str_eq(fits.runtime, tree_of_version[0]) && str_eq(fits.vmm, "QEMU 7.2.22"),
			"%s, %s", fits.runtime, fits.vmm);
		refused(play_resume(h, p, 0, -1, false, NULL, &why), &why, "denied", "resume");
		refused(play_create(h, p, 2, 0, false, NULL, &why), &why, "denied", "create");
		refused(play_resume(h, p, 1, 0, false, NULL, &why), &why, "denied", "roll-back");
		play_check(h, p, "after refusals");
		h = start_again(h, 1);
	}
	// What runs runs on, and can be paused.
	play_mark(p, 1);
	OK(play_pause(h, p, 1, NULL, &e));
	then_paused(p, 1);
	OK(play_resume(h, p, 0, -1, true, NULL, &e));
	then_resumed(p, 0, -1, true);
	check_runs_on(p, 0, 1);
	OK(host_runtime_deny(h, tree_of_version[0], false, &e));
	OK(play_resume(h, p, 1, -1, false, NULL, &e));
	then_resumed(p, 1, -1, false);
	play_check(h, p, "when it is allowed again");
	// This host's own one: boots and loads from base images are starts as well.
	OK(host_runtime_deny(h, tree_of_version[1], true, &e));
	why = (struct err){0};
	check(play_create(h, p, 3, -1, false, NULL, &why) < 0 && why.code == ERR_UNAVAILABLE &&
			strstr(why.text, "denied"),
		"a create on what is denied: %s", why.text);
	OK(host_runtime_deny(h, tree_of_version[1], false, &e));
	play_check(h, p, "after all");
	play_close(h);
}

static int rewarm(struct host *h, struct play *p, unsigned snap, unsigned to, const char *op,
	struct host_snapshot *ret, struct err *e)
{
	struct host_snapshot_create req = {0};
	snprintf(req.op_id, sizeof req.op_id, "%s", op);
	snprintf(req.rewarm, sizeof req.rewarm, "%s", p->snap[snap].id);
	snprintf(req.snapshot, sizeof req.snapshot, "%s", p->snap[to].id);
	return host_snapshot_create(h, &req, ret, e);
}

// What the model says of one that was booted from the disk of another.
static void then_rewarmed(struct play *p, unsigned snap, unsigned to)
{
	p->snap[to].there = true;
	memcpy(p->snap[to].box, p->snap[snap].box, sizeof p->snap[to].box);
	memcpy(p->snap[to].c.page, content_booted.page, sizeof p->snap[to].c.page);
	memcpy(p->snap[to].c.disk, p->snap[snap].c.disk, sizeof p->snap[to].c.disk);
}

// A named one that is refused is taken again from its disk, on this host's own VMM.
static void rewarmed(const void *arg)
{
	static const char *const calls[] = {"shim_start", "vmm_start", "vmm_snapshot_create"};
	struct play *p;
	struct host *h = begin(&p);
	struct host_snapshot made;
	struct host_snapshot_check fits;
	struct err why = {0};
	char op[UUID_SIZE];
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	play_mark(p, 0);
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	h = start_again(h, 1);
	OK(host_runtime_deny(h, tree_of_version[0], true, &e));
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) { // nothing stays of a failure
		id_new_uuid(op);
		stage_trouble(calls[i], "", TROUBLE_FAILS, false);
		check(rewarm(h, p, 0, 1, op, &made, &why) < 0, "%s fails", calls[i]);
		stage_calm();
		play_check(h, p, calls[i]);
	}
	id_new_uuid(op);
	OK(rewarm(h, p, 0, 1, op, &made, &e));
	check(str_eq(made.id, p->snap[1].id) && str_eq(made.sandbox, p->snap[0].box) &&
			str_eq(made.kind, "template"),
		"made %s of %s", made.id, made.sandbox);
	then_rewarmed(p, 0, 1);
	OK(rewarm(h, p, 0, 1, op, &made, &e)); // its answer was lost
	play_check(h, p, "after a rewarm");
	OK(host_snapshot_check(h, p->snap[1].id, &fits, &e));
	check(fits.resumes && fits.current && str_eq(fits.runtime, tree_of_version[1]),
		"the new one: %s", fits.reason);
	OK(play_create(h, p, 1, 1, false, NULL, &e));
	then_created(p, 1, 1);
	check_runs_on(p, 1, 1);
	play_check(h, p, "a sandbox of the new one");
	OK(play_delete(h, p, 0, NULL, &e));
	then_deleted(p, 0);
	play_idle(h, p, "without the old one");
	// A pause is none that has a name.
	OK(play_pause(h, p, 1, NULL, &e));
	then_paused(p, 1);
	struct host_sandbox s;
	OK(host_get(h, p->box[1].id, &s, &e));
	struct host_snapshot_create req = {0};
	id_new_uuid(req.op_id);
	snprintf(req.rewarm, sizeof req.rewarm, "%s", s.snapshot);
	snprintf(req.snapshot, sizeof req.snapshot, "%s", p->snap[2].id);
	check(host_snapshot_create(h, &req, &made, &why) < 0, "a pause is rewarmed");
	play_close(h);
}

int main(int argc, char **argv)
{
	static const struct played_case cases[] = {
		{"upgrade", upgrade},
		{"collected", collected},
		{"cut_off", cut_off},
		{"named_by_none", named_by_none},
		{"unread", unread},
		{"unknown_runner", unknown_runner},
		{"denied", denied},
		{"rewarmed", rewarmed},
	};
	static const struct known_fault known[] = {{"", ""}};
	return cases_run(argc, argv, cases, ARRAY_SIZE(cases), known, ARRAY_SIZE(known));
}
