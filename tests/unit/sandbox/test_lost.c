// SPDX-License-Identifier: Apache-2.0
// host.db is lost, or an older copy of it, or another volume's, beside all that it tells of: the
// host refuses to start and nothing is touched. Made anew it gives the same sandboxes, to the last
// byte. What it does not know is kept until it is removed on demand, and nothing else is then.
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "disk/disk.h"
#include "played/lost.h"
#include "played/play.h"
#include "snapshot/store.h"

#define OK(call)                                                                                   \
	do {                                                                                       \
		struct err e = {0};                                                                \
		check((call) == 0, "%s: %s", #call, e.text);                                       \
	} while (0)

// Box 0 is paused after a chain of pauses, 1 runs (loaded), 2 runs (booted), 3 is paused at what it
// was rolled back to; snapshot 0 is of box 0.
static struct play *make_some(void)
{
	struct play *p = play_new();
	struct host *h = play_open();
	for (unsigned i = 0; i < 4; i++) {
		OK(play_create(h, p, i, -1, i == 2, NULL, &e));
		then_created(p, i, -1);
		play_mark(p, i);
	}
	OK(play_snapshot(h, p, 0, 0, NULL, &e));
	then_snapshot(p, 0, 0);
	OK(play_snapshot(h, p, 3, 1, NULL, &e));
	then_snapshot(p, 3, 1);
	for (unsigned i = 0; i < 3; i++) {
		play_mark(p, 0);
		OK(play_pause(h, p, 0, NULL, &e));
		OK(play_resume(h, p, 0, -1, false, NULL, &e));
	}
	play_mark(p, 3);
	OK(play_resume(h, p, 3, 1, false, NULL, &e));
	then_resumed(p, 3, 1, false);
	OK(play_pause(h, p, 3, NULL, &e));
	then_paused(p, 3);
	OK(play_pause(h, p, 0, NULL, &e));
	then_paused(p, 0);
	play_check(h, p, "before");
	play_close(h);
	return p;
}

static void same_as_before(struct play *p, const char *when)
{
	struct host *h = play_open();
	play_check(h, p, when);
	for (unsigned i = 0; i < 4; i++) {
		if (p->box[i].state == BOX_PAUSED) {
			OK(play_resume(h, p, i, -1, false, NULL, &e));
			then_resumed(p, i, -1, false);
		}
		play_mark(p, i);
		OK(play_pause(h, p, i, NULL, &e));
		then_paused(p, i);
	}
	play_check(h, p, "after they were used");
	play_close(h);
	h = play_open();
	play_check(h, p, "after a restart");
	play_close(h);
}

static void is_rebuilt(void)
{
	struct play *p = make_some();
	database_move("", "kept.");
	must_refuse();
	must_refuse(); // the first try left no file
	rebuild(false);
	same_as_before(p, "rebuilt");
}

static void missing(const void *arg)
{
	is_rebuilt();
}

// The marker of a volume that an older server used says nothing of its database.
static void missing_of_an_older_server(const void *arg)
{
	struct play *p = make_some();
	struct volume_info v;
	char text[200], path[256];
	OK(volume_open(world.data, &v, &e));
	snprintf(text, sizeof text, "{\"uuid\":\"%s\",\"format_version\":1}\n", v.uuid);
	snprintf(path, sizeof path, "%s/" VOLUME_MARKER, world.data);
	check(file_write_atomic(AT_FDCWD, path, text, strlen(text), 0644) == 0, "marker");
	database_copy("", "kept.");
	database_move("", "away.");
	must_refuse();
	database_move("kept.", "");
	struct host *h = play_open(); // its own is taken
	play_check(h, p, "with its own database");
	play_close(h);
	OK(volume_open(world.data, &v, &e));
	check(v.epoch > 0 && v.journal[0], "the marker has no epoch");
}

static void put_back(const void *arg)
{
	struct play *p = make_some();
	database_move("", "kept.");
	must_refuse();
	database_move("kept.", "");
	same_as_before(p, "put back");
}

static struct play *p_of_copy;
static void copy_while_it_runs(void *arg)
{
	struct play *p = p_of_copy;
	struct host *h = play_open();
	database_copy("", "older.");
	OK(play_create(h, p, 4, -1, false, NULL, &e));
	then_created(p, 4, -1);
	OK(play_resume(h, p, 0, -1, false, NULL, &e));
	then_resumed(p, 0, -1, false);
	play_mark(p, 0);
	if (arg)
		play_close(h);
	else
		_exit(0); // killed: the marker may be behind, a copy then not be told
}

// Copies of before the last things that were done: of a server that was stopped since.
static void older(const void *arg)
{
	struct play *p = p_of_copy = make_some();
	check(served(copy_while_it_runs, p), "killed");
	database_move("", "newest.");
	database_move("older.", "");
	must_refuse();
	database_copy("newest.", "");
	struct host *h = play_open();
	play_check(h, p, "with the newest");
	play_close(h);
	database_copy("newest.", ""); // of a moment ago, and a server has run since
	must_refuse();
	rebuild(false);
	same_as_before(p, "rebuilt");
}

static void of_another_volume(const void *arg)
{
	struct play *p = make_some();
	database_of_another();
	must_refuse();
	rebuild(false);
	same_as_before(p, "rebuilt");
}

// A volume with nothing on it may have a new one.
static void nothing_to_lose(const void *arg)
{
	struct host *h = world_open();
	host_close(h, false);
	char path[256];
	static const char *const dirs[] = {"sandboxes", "snapshots", "layers"};
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		snprintf(path, sizeof path, "%s/%s", world.data, dirs[i]);
		check(file_rm_rf(AT_FDCWD, path) == 0, "%s", path);
	}
	database_move("", "kept.");
	h = play_open();
	play_close(h);
	h = play_open();
	play_close(h);
}

// ---- settings of what runs

static void settings(const void *arg)
{
	struct play *p = play_new();
	struct host *h = play_open();
	struct host_sandbox before, after;
	char op[UUID_SIZE];
	uint64_t at = clock_realtime_ns() + 3600 * NSEC_PER_SEC;
	OK(play_create(h, p, 0, -1, false, NULL, &e));
	then_created(p, 0, -1);
	id_new_uuid(op);
	OK(host_set_timeout(h, op, p->box[0].id, at, &e));
	id_new_uuid(op);
	OK(host_set_on_timeout(h, op, p->box[0].id, ON_TIMEOUT_PAUSE, &e));
	OK(host_get(h, p->box[0].id, &before, &e));
	play_close(h);
	database_move("", "kept.");
	rebuild(false);
	h = play_open();
	OK(host_get(h, p->box[0].id, &after, &e));
	check(after.ends_at_ns == at && after.on_timeout == ON_TIMEOUT_PAUSE &&
			after.generation == before.generation &&
			after.created_ns == before.created_ns &&
			after.started_ns == before.started_ns && after.vcpus == before.vcpus &&
			after.disk_mb == before.disk_mb &&
			str_eq(after.template, before.template) &&
			str_eq(after.backend, before.backend) &&
			str_eq(after.address, before.address),
		"the row is another one");
	play_check(h, p, "rebuilt");
	play_close(h);
}

// ---- killed in an operation, and the database lost

static void pause_killed(void *arg)
{
	struct err e = {0};
	struct host *h = play_open();
	stage_fault(arg, FAULT_KILL);
	if (strstr(arg, "resume"))
		play_resume(h, p_of_copy, 0, -1, false, NULL, &e);
	else
		play_pause(h, p_of_copy, 1, NULL, &e);
	check(false, "%s was not reached: %s", (const char *)arg, e.text);
}

static void killed(const void *arg)
{
	const char *point = arg;
	struct play *p = p_of_copy = make_some();
	struct play done = *p;
	if (strstr(point, "resume"))
		then_resumed(&done, 0, -1, false);
	else
		then_paused(&done, 1);
	check(!served(pause_killed, (void *)(uintptr_t)point), "not killed");
	stage_calm();
	database_move("", "kept.");
	must_refuse();
	rebuild(false);
	struct host *h = play_open();
	const struct play *may[] = {p, &done};
	const char *wrong = play_never(h, may, 2);
	check(!wrong, "rebuilt: %s", wrong);
	play_close(h);
}

// ---- what is not known

// A destroy that did not wait for a pause, and then the server was killed: both are open.
static void two_open(const void *point)
{
	struct play *p = make_some();
	char sql[400];
	p_of_copy = p;
	check(!served(pause_killed, (void *)(uintptr_t)point), "not killed");
	snprintf(sql, sizeof sql,
		"INSERT INTO operations (op_id, kind, sandbox, state, started_ns, ended_ns) VALUES "
		"('dddddddd-dddd-4ddd-8ddd-dddddddddddd', 'destroy', '%s', 'open', 1, 0)",
		p->box[1].id);
	database_sql(sql);
	stage_calm();
	then_destroyed(p, 1);
	struct host *h = play_open();
	play_check(h, p, "after the start");
	play_close(h);
}

static void put_file(const char *name)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s", world.data, name);
	check(file_write_atomic(AT_FDCWD, path, "x", 1, 0600) == 0, "%s", path);
}

static bool has_file(const char *name)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s", world.data, name);
	return file_there(AT_FDCWD, path) == 1;
}

static unsigned metric(struct host *h, const char *kind)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	char name[80];
	OK(host_metrics(h, &text, &e));
	snprintf(name, sizeof name, "stasis_host_unknown{kind=\"%s\"} ", kind);
	const char *at = strstr(text.data, name);
	check(at, "no metric of %s", kind);
	return (unsigned)strtoul(at + strlen(name), NULL, 10);
}

static void check_event(struct host *h, const char *kind)
{
	struct host_event *list = NULL;
	size_t n = 0;
	unsigned found = 0;
	OK(host_events(h, 0, 1000, 0, &list, &n, &e));
	for (size_t i = 0; i < n; i++) {
		found += str_eq(list[i].kind, kind);
		host_event_done(&list[i]);
	}
	free(list);
	check(found == 1, "%u events '%s'", found, kind);
}

// All is kept: machines run on, files are there. New sandboxes do not take their place. What is
// removed on demand is that alone.
static void forgotten(const void *arg)
{
	struct play *p = make_some();
	struct content c, before;
	size_t n;
	database_move("", "kept.");
	check(guest_read(p->box[1].id, &before), "box 1");
	rebuild(true);
	struct host *h = play_open();
	check(guest_read(p->box[1].id, &c) && !content_differs(&before, &c) &&
			guest_goes_on(p->box[1].id),
		"what runs was touched");
	check(metric(h, "shim") == 2 && metric(h, "sandbox") >= 2 && metric(h, "snapshot") >= 4,
		"it is not counted");
	check_event(h, "unknown_kept");
	struct play now = *p;
	for (unsigned i = 0; i < PLAY_BOXES; i++)
		now.box[i].state = BOX_NONE;
	for (unsigned i = 0; i < PLAY_SNAPS; i++)
		now.snap[i].there = false;
	struct err why = {0};
	check(play_create(h, &now, 1, -1, false, NULL, &why) < 0 && why.code == ERR_CONFLICT,
		"an unknown sandbox's id is used: %s", why.text);
	OK(play_create(h, &now, 5, -1, false, NULL, &e));
	then_created(&now, 5, -1);
	play_mark(&now, 5);
	play_close(h);
	h = play_open(); // it is still all there
	check(guest_read(p->box[1].id, &c) && !content_differs(&before, &c), "box 1");
	OK(host_remove_unknown(h, &n, &e));
	check(n >= 8, "%zu removed", n);
	play_check(h, &now, "after the unknown was removed");
	check(!metric(h, "shim") && !metric(h, "snapshot") && !metric(h, "layer"), "counts");
	OK(host_remove_unknown(h, &n, &e));
	check(n == 0, "%zu removed again", n);
	play_close(h);
	h = play_open();
	play_check(h, &now, "after a restart");
	play_close(h);
}

static void strange_files(const void *arg)
{
	static const char layer[] = "layers/0aaaaaaa-0000-4000-8000-000000000000";
	struct play *p = make_some();
	size_t n;
	put_file(layer);
	put_file("notes.txt");
	struct host *h = play_open();
	check(metric(h, "layer") == 1 && has_file(layer), "the layer");
	OK(host_remove_unknown(h, &n, &e));
	check(n == 1 && !has_file(layer) && has_file("notes.txt"), "%zu removed", n);
	play_check(h, p, "after one layer was removed");
	play_close(h);
}

// A machine whose state is not told is not paused behind its back, whatever snapshots there are.
static void no_state_file(const void *arg)
{
	struct play *p = make_some();
	struct content c, before;
	char path[256];
	database_move("", "kept.");
	snprintf(path, sizeof path, "%s/state/%s.json", world.run, p->box[1].id);
	check(unlink(path) == 0, "%s", path);
	check(guest_read(p->box[1].id, &before), "box 1");
	rebuild(false);
	struct host *h = play_open();
	check(guest_read(p->box[1].id, &c) && !content_differs(&before, &c) &&
			guest_goes_on(p->box[1].id),
		"what runs was touched");
	check(metric(h, "shim") == 1 && metric(h, "sandbox") == 1, "counts");
	play_close(h);
}

// Of format 1 it does not say whose it is.
static void of_format_1(const void *arg)
{
	struct play *p = make_some();
	struct host_sandbox s;
	struct snapshot_info info;
	_cleanup_strbuf_ struct strbuf text = {0};
	char path[256];
	struct host *h = play_open();
	OK(host_get(h, p->box[0].id, &s, &e));
	play_close(h);
	_cleanup_close_ int data = open(world.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	OK(snapshot_read(data, s.snapshot, &info, NULL, &e));
	info.format = 1;
	check(snapshot_encode(&info, &text) == 0, "encode");
	snprintf(path, sizeof path, "snapshots/%s/snapshot.json", s.snapshot);
	check(file_write_atomic(data, path, text.data, text.len, 0644) == 0, "%s", path);
	database_move("", "kept.");
	rebuild(false);
	h = play_open();
	check(metric(h, "snapshot") == 1 && has_file(path), "it is not kept");
	struct err why = {0};
	check(host_get(h, p->box[0].id, &s, &why) < 0 && why.code == ERR_NOT_FOUND, "box 0");
	OK(host_get(h, p->box[3].id, &s, &e));
	check(s.state == SANDBOX_PAUSED, "box 3");
	play_close(h);
}

static void while_it_runs(const void *arg)
{
	struct play *p = make_some();
	struct host_rebuilt r;
	struct err why = {0};
	struct host *h = play_open();
	check(host_rebuild(world.data, world.run, false, &r, &why) < 0 && why.code == ERR_CONFLICT,
		"a database that is in use: %s", why.text);
	play_check(h, p, "after the refusal");
	play_close(h);
}

int main(int argc, char **argv)
{
	static const struct played_case cases[] = {
		{"missing", missing},
		{"missing/older-server", missing_of_an_older_server},
		{"put-back", put_back},
		{"older", older},
		{"other-volume", of_another_volume},
		{"nothing-to-lose", nothing_to_lose},
		{"settings", settings},
		{"killed/pause.after_journal", killed, "pause.after_journal"},
		{"killed/capture.after_stop", killed, "capture.after_stop"},
		{"killed/snapshot.after_files", killed, "snapshot.after_files"},
		{"killed/pause.before_commit", killed, "pause.before_commit"},
		{"killed/resume.after_journal", killed, "resume.after_journal"},
		{"killed/resume.after_shim", killed, "resume.after_shim"},
		{"killed/resume.before_commit", killed, "resume.before_commit"},
		{"two-open/pause.after_journal", two_open, "pause.after_journal"},
		{"two-open/capture.after_disk", two_open, "capture.after_disk"},
		{"two-open/ingest.after_layer", two_open, "ingest.after_layer"},
		{"two-open/pause.before_commit", two_open, "pause.before_commit"},
		{"forgotten", forgotten},
		{"strange-files", strange_files},
		{"no-state-file", no_state_file},
		{"format-1", of_format_1},
		{"while-it-runs", while_it_runs},
	};
	return cases_run(argc, argv, cases, ARRAY_SIZE(cases), NULL, 0);
}
