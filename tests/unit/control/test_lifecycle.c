// SPDX-License-Identifier: Apache-2.0
// Pause, resume, fork and snapshots over REST, and what a crash between two steps of theirs leaves,
// on a model of the host.
#include "fixture.h"
#include <signal.h>
#include <sqlite3.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "control/api/context.h"
#include "control/state/templates.h"
#include "base/json.h"

static json_int_t number(json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

static void snapshot(struct fixture *f, const char *id, const char *name, const char *more,
	char snapshot_id[UUID_SIZE])
{
	char body[300];
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"%s\"%s}", id, name, more);
	_cleanup_json_ json_t *j = call(f, "POST", "/v1/snapshots", body, 201);
	snprintf(snapshot_id, UUID_SIZE, "%s", text(j, "snapshot_id"));
}

static void snapshot_refused(
	struct fixture *f, const char *id, const char *name, int status, const char *part)
{
	char body[300];
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"%s\"}", id, name);
	refused(f, "POST", "/v1/snapshots", body, status, part);
}

// One number out of the control plane's database, with an own connection.
static int64_t sql(struct fixture *f, const char *query)
{
	char path[100];
	snprintf(path, sizeof path, "%s/control.db", f->data);
	sqlite3 *db;
	sqlite3_stmt *st;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 5000);
	if (sqlite3_prepare_v2(db, query, -1, &st, NULL) != SQLITE_OK)
		fail_msg("%s: %s", query, sqlite3_errmsg(db));
	int rc = sqlite3_step(st);
	int64_t v = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		fail_msg("%s: %s", query, sqlite3_errmsg(db));
	sqlite3_finalize(st);
	sqlite3_close(db);
	return v;
}

static void test_pause_and_resume(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, "{\"timeout_sec\":100,\"on_timeout\":\"pause\"}", id);
	assert_int_equal(f->model.last_create.on_timeout, ON_TIMEOUT_PAUSE);
	assert_int_equal(f->model.last_create.cold, false);
	refused(f, "POST", path_of(id, "/resume", path), "{}", 409, "running");
	_cleanup_json_ json_t *j = call(f, "POST", path_of(id, "/pause", path), NULL, 200);
	assert_string_equal(text(j, "state"), "paused");
	assert_string_equal(text(j, "on_timeout"), "pause");
	assert_true(json_is_null(json_object_get(j, "backend")));
	assert_int_equal(number(j, "generation"), 2);
	assert_string_equal(
		text(json_array_get(json_object_get(j, "phases"), 1), "name"), "memory");
	assert_int_equal(number(j, "memory_written_bytes"), 40960);
	assert_int_equal(number(j, "memory_kept_bytes"), 8192);
	refused(f, "POST", path, NULL, 409, "is paused already");
	refused(f, "POST", path_of(id, "/exec", path), "{\"cmd\":\"true\"}", 409,
		"resume it first");
	refused(f, "POST", path_of(id, "/timeout", path), "{\"timeout_sec\":5}", 409, "is paused");
	_cleanup_json_ json_t *got = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_true(json_equal(got, j));
	static const char *const lists[][2] = {{"", "1"}, {"?state=paused", "1"},
		{"?state=running", "0"}, {"?state=running,paused", "1"}};
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		snprintf(path, sizeof path, "/v1/sandboxes%s", lists[i][0]);
		_cleanup_json_ json_t *l = call(f, "GET", path, NULL, 200);
		assert_int_equal(
			json_array_size(json_object_get(l, "sandboxes")), lists[i][1][0] - '0');
	}

	path_of(id, "/resume", path);
	_cleanup_json_ json_t *back = call(f, "POST", path, NULL, 200);
	assert_string_equal(text(back, "state"), "running");
	assert_string_equal(text(back, "backend"), "uffd");
	assert_string_equal(text(back, "envd_token"), f->model.last_token);
	assert_false(f->model.last_resume.disk_only);
	// The time-out it was created with, from now.
	uint64_t now = clock_realtime_ns();
	assert_in_range(
		f->model.last_resume.ends_at_ns, now + 95 * NSEC_PER_SEC, now + 100 * NSEC_PER_SEC);
	call_drop(f, "POST", path_of(id, "/pause", path), "{}", 200);
	_cleanup_json_ json_t *forever = call(f, "POST", path_of(id, "/resume", path),
		"{\"timeout_sec\":0,\"disk_only\":true}", 200);
	assert_true(json_is_null(json_object_get(forever, "ends_at")));
	assert_string_equal(text(forever, "backend"), "boot");
	assert_true(f->model.last_resume.disk_only);

	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
	call_drop(f, "DELETE", path_of(id, "", path), NULL, 204);
	refused(f, "POST", path_of(id, "/pause", path), NULL, 404, id);
	refused(f, "POST", path_of(id, "/resume", path), NULL, 404, id);
}

static void test_pause_and_resume_bad_input(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	path_of(id, "/pause", path);
	refused(f, "POST", path, "{\"memory\":true}", 400, "unknown field 'memory'");
	refused(f, "POST", path, "[]", 400, "must be a JSON object");
	refused(f, "GET", path, NULL, 405, "POST");
	f->model.fail_pause = ERR_NO_SPACE;
	refused(f, "POST", path, NULL, 507, "ordered failure");
	f->model.fail_pause = ERR_NONE;
	call_drop(f, "POST", path, NULL, 200);
	path_of(id, "/resume", path);
	const struct {
		const char *body;
		int status;
		const char *part;
	} cases[] = {
		{"{\"timeout_sec\":2592001}", 400, "timeout_sec"},
		{"{\"timeout_sec\":\"5\"}", 400, "timeout_sec"},
		{"{\"from\":\"A b\"}", 400, "from: must be"},
		{"{\"from\":\"\"}", 400, "from: must be"},
		{"{\"from\":\"nosuch\"}", 404, "from: no snapshot 'nosuch'"},
		{"{\"from\":7}", 400, "from"},
		{"{\"disk_only\":\"yes\"}", 400, "disk_only"},
		{"{\"on_timeout\":\"kill\"}", 400, "unknown field 'on_timeout'"},
		{"nonsense", 400, "not valid JSON"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		refused(f, "POST", path, cases[i].body, cases[i].status, cases[i].part);
	f->model.fail_resume = ERR_UNAVAILABLE;
	refused(f, "POST", path, "{}", 503, "ordered failure");
	f->model.fail_resume = ERR_NONE;
	_cleanup_json_ json_t *j = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_string_equal(text(j, "state"), "paused");
	static const char *const calls[] = {"pause", "resume", "fork"};
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		snprintf(path, sizeof path, "/v1/sandboxes/nosuch/%s", calls[i]);
		refused(f, "POST", path, NULL, 404, "no sandbox 'nosuch'");
		snprintf(path, sizeof path, "/v1/sandboxes/..%%2F%s%%2F/%s", id, calls[i]);
		refused(f, "POST", path, NULL, 404, "no sandbox");
	}
}

static void test_paused_survives_a_restart(void **state)
{
	struct fixture *f = *state;
	char id[64], lost[64], path[200];
	create_box(f, NULL, id);
	create_box(f, NULL, lost);
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
	call_drop(f, "POST", path_of(lost, "/pause", path), NULL, 200);
	model_forget(&f->model, lost);
	fixture_stop(f);
	fixture_start(f);
	_cleanup_json_ json_t *j = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_string_equal(text(j, "state"), "paused");
	_cleanup_json_ json_t *gone = call(f, "GET", path_of(lost, "", path), NULL, 200);
	assert_string_equal(text(gone, "cause"), "host_lost");
	call_drop(f, "POST", path_of(id, "/resume", path), NULL, 200);
}

static const char open_ops[] = "SELECT count(*) FROM operations WHERE state = 'open'";

static void test_snapshots(void **state)
{
	struct fixture *f = *state;
	char id[64], child[64], body[300], path[200];
	create_box(f, "{\"vcpus\":2,\"memory_mb\":256,\"disk_mb\":4096}", id);
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"warm-1.0\"}", id);
	_cleanup_json_ json_t *j = call(f, "POST", "/v1/snapshots", body, 201);
	assert_string_equal(text(j, "name"), "warm-1.0");
	assert_string_equal(text(j, "kind"), "snapshot");
	assert_string_equal(text(j, "sandbox_id"), id);
	assert_string_equal(text(j, "parent"), "base");
	assert_int_equal(number(j, "vcpus"), 2);
	assert_int_equal(number(j, "memory_mb"), 256);
	assert_int_equal(number(j, "disk_mb"), 4096);
	assert_int_equal(number(j, "memory_bytes"), 4096000);
	assert_int_equal(number(j, "disk_bytes"), 40960);
	assert_true(json_is_string(json_object_get(j, "created_at")));
	assert_string_equal(
		text(json_array_get(json_object_get(j, "phases"), 1), "name"), "snapshot");
	assert_true(model_has_snapshot(&f->model, text(j, "snapshot_id")));
	assert_int_equal(sql(f, open_ops), 0);
	json_object_del(j, "phases");
	assert_int_equal(json_object_del(j, "memory_written_bytes"), 0);
	assert_int_equal(json_object_del(j, "memory_kept_bytes"), 0);
	_cleanup_json_ json_t *got = call(f, "GET", "/v1/snapshots/warm-1.0", NULL, 200);
	// The host is asked for these, about one.
	assert_int_equal(json_object_del(got, "agent_version"), 0);
	assert_int_equal(json_object_del(got, "agent_weaknesses"), 0);
	assert_true(json_equal(got, j));
	_cleanup_json_ json_t *fits = call(f, "GET", "/v1/snapshots/warm-1.0/check", NULL, 200);
	assert_true(json_is_true(json_object_get(fits, "resumes")));
	assert_true(json_is_null(json_object_get(fits, "reason")));
	f->model.foreign = "its guest ran on kvm";
	_cleanup_json_ json_t *not = call(f, "GET", "/v1/snapshots/warm-1.0/check", NULL, 200);
	assert_true(json_is_false(json_object_get(not, "resumes")));
	assert_string_equal(text(not, "reason"), "its guest ran on kvm");
	f->model.foreign = NULL;
	refused(f, "GET", "/v1/snapshots/cold/check", NULL, 404, "cold");
	// The VMMs that are kept.
	_cleanup_json_ json_t *kept = call(f, "GET", "/v1/runtimes", NULL, 200);
	const json_t *second = json_array_get(json_object_get(kept, "runtimes"), 1);
	assert_int_equal(json_integer_value(json_object_get(second, "snapshots")), 3);
	assert_true(json_is_null(json_object_get(second, "refused")));
	_cleanup_json_ json_t *denied =
		call(f, "POST", "/v1/runtimes/00000000000000000000000000000002/deny", NULL, 200);
	assert_true(json_is_true(json_object_get(denied, "denied")));
	refused(f, "POST", "/v1/runtimes/x/deny", NULL, 400, "no runtime");
	_cleanup_json_ json_t *host = call(f, "GET", "/v1/host", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(host, "kept_runtimes")), 1);
	_cleanup_json_ json_t *allowed =
		call(f, "POST", "/v1/runtimes/00000000000000000000000000000002/allow", NULL, 200);
	assert_true(json_is_false(json_object_get(allowed, "denied")));
	_cleanup_json_ json_t *list = call(f, "GET", "/v1/snapshots", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(list, "snapshots")), 1);
	_cleanup_json_ json_t *templates = call(f, "GET", "/v1/templates", NULL, 200);
	json_t *array = json_object_get(templates, "templates");
	assert_int_equal(json_array_size(array), 2);
	assert_string_equal(text(json_array_get(array, 0), "kind"), "base");
	assert_true(json_is_true(json_object_get(json_array_get(array, 0), "frozen")));
	assert_string_equal(text(json_array_get(array, 1), "kind"), "snapshot");
	assert_int_equal(number(json_array_get(array, 1), "size_bytes"), 4096000 + 40960);

	// A sandbox from it has the same machine.
	_cleanup_json_ json_t *made = call(f, "POST", "/v1/sandboxes",
		"{\"template\":\"warm-1.0\",\"vcpus\":2,\"memory_mb\":256}", 201);
	assert_string_equal(text(made, "template"), "warm-1.0");
	assert_string_equal(text(made, "backend"), "uffd");
	assert_string_equal(f->model.last_create.snapshot, text(j, "snapshot_id"));
	create_box(f, "{\"template\":\"warm-1.0\",\"disk_mb\":8192}", child);
	assert_int_equal(f->model.last_create.vcpus, 0);
	const struct {
		const char *body, *part;
	} locked[] = {
		{"{\"template\":\"warm-1.0\",\"vcpus\":1}", "vcpus: snapshot 'warm-1.0' has 2"},
		{"{\"template\":\"warm-1.0\",\"memory_mb\":512}", "has 256 baked in"},
		{"{\"template\":\"warm-1.0\",\"disk_mb\":4095}", "needs at least 4096"},
		{"{\"template\":\"warm-1.0\",\"cold\":true}", "cold:"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(locked); i++)
		refused(f, "POST", "/v1/sandboxes", locked[i].body, 400, locked[i].part);
	create_box(f, "{\"cold\":true}", child);
	assert_true(f->model.last_create.cold);
	assert_string_equal(f->model.last_create.snapshot, "");
	_cleanup_json_ json_t *mine = call(f, "GET", "/v1/sandboxes?template=warm-1.0", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(mine, "sandboxes")), 2);

	call_drop(f, "DELETE", "/v1/snapshots/warm-1.0", NULL, 204);
	assert_false(model_has_snapshot(&f->model, text(j, "snapshot_id")));
	refused(f, "GET", "/v1/snapshots/warm-1.0", NULL, 404, "no snapshot 'warm-1.0'");
	refused(f, "DELETE", "/v1/snapshots/warm-1.0", NULL, 404, "no snapshot");
	refused(f, "POST", "/v1/sandboxes", "{\"template\":\"warm-1.0\"}", 404, "no template");
	_cleanup_json_ json_t *alive =
		call(f, "GET", path_of(text(made, "id"), "", path), NULL, 200);
	assert_string_equal(text(alive, "state"), "running");
	assert_string_equal(text(alive, "template"), "warm-1.0");
}

static void test_snapshot_bad_input(void **state)
{
	struct fixture *f = *state;
	char id[64], other[64], path[200], body[300], one[UUID_SIZE];
	create_box(f, NULL, id);
	create_box(f, NULL, other);
	snapshot(f, id, "taken", "", one);
	snapshot_refused(f, id, "taken", 409, "overwrite");
	snapshot_refused(f, id, "base", 409, "'base' is an image");
	snapshot_refused(f, id, "A", 400, "name: must be");
	snapshot_refused(f, id, "", 400, "name: must be");
	snapshot_refused(f, id, "-x", 400, "name: must be");
	snapshot_refused(f, id, "a/b", 400, "name: must be");
	snapshot_refused(f, "nosuch", "x", 404, "no sandbox 'nosuch'");
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"%0100d\"}", id, 1);
	refused(f, "POST", "/v1/snapshots", body, 400, "name: longer than 63");
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"base\",\"overwrite\":true}",
		id);
	refused(f, "POST", "/v1/snapshots", body, 409, "'base' is an image");
	refused(f, "POST", "/v1/snapshots", "{\"name\":\"x\"}", 400, "sandbox_id: is missing");
	refused(f, "POST", "/v1/snapshots", "{\"sandbox_id\":\"x\"}", 400, "name: is missing");
	refused(f, "POST", "/v1/snapshots", "", 400, "body");
	refused(f, "POST", "/v1/snapshots", "{\"sandbox_id\":\"x\",\"name\":\"x\",\"overwrite\":1}",
		400, "overwrite");
	refused(f, "POST", "/v1/snapshots", "{\"sandbox_id\":\"x\",\"name\":\"x\",\"tag\":1}", 400,
		"unknown field 'tag'");
	refused(f, "DELETE", "/v1/snapshots/base", NULL, 409, "'base' is an image");
	refused(f, "GET", "/v1/snapshots/..%2Fbase", NULL, 404, "no snapshot");
	refused(f, "GET", "/v1/snapshots/base", NULL, 404, "no snapshot 'base'");
	// Only its own snapshots take a sandbox back.
	refused(f, "POST", path_of(other, "/resume", path), "{\"from\":\"taken\"}", 400, id);
	_cleanup_json_ json_t *j = call(f, "POST", path_of(id, "/resume", path),
		"{\"from\":\"taken\",\"timeout_sec\":50}", 200);
	assert_string_equal(text(j, "state"), "running");
	assert_string_equal(f->model.last_resume.from, one);
	assert_int_equal(f->model.n_snapshots, 1);
}

static void test_overwrite(void **state)
{
	struct fixture *f = *state;
	char id[64], first[UUID_SIZE], second[UUID_SIZE], third[UUID_SIZE];
	create_box(f, NULL, id);
	snapshot(f, id, "s", ",\"overwrite\":true", first);
	snapshot(f, id, "s", ",\"overwrite\":true", second);
	assert_string_not_equal(first, second);
	assert_false(model_has_snapshot(&f->model, first));
	assert_true(model_has_snapshot(&f->model, second));
	// One that fails leaves the old one in place, and nothing of itself.
	f->model.fail_snapshot = ERR_NO_SPACE;
	char body[300];
	snprintf(
		body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"s\",\"overwrite\":true}", id);
	refused(f, "POST", "/v1/snapshots", body, 507, "ordered failure");
	f->model.fail_snapshot = ERR_NONE;
	_cleanup_json_ json_t *j = call(f, "GET", "/v1/snapshots/s", NULL, 200);
	assert_string_equal(text(j, "snapshot_id"), second);
	assert_int_equal(sql(f, open_ops), 0);
	// A host that does not delete the old one is asked again.
	f->model.fail_snapshot_delete = ERR_UNAVAILABLE;
	snapshot(f, id, "s", ",\"overwrite\":true", third);
	assert_true(model_has_snapshot(&f->model, second));
	look_and_apply(f);
	assert_true(model_has_snapshot(&f->model, second));
	assert_int_equal(sql(f, open_ops), 1);
	f->model.fail_snapshot_delete = ERR_NONE;
	look_and_apply(f);
	assert_false(model_has_snapshot(&f->model, second));
	assert_true(model_has_snapshot(&f->model, third));
	assert_int_equal(sql(f, open_ops), 0);
}

// A name that is taken again from its own disk: readers see the old one or the new one.
static void test_rewarm(void **state)
{
	struct fixture *f = *state;
	char id[64], first[UUID_SIZE], second[UUID_SIZE];
	create_box(f, NULL, id);
	snapshot(f, id, "s", "", first);
	refused(f, "POST", "/v1/snapshots/none/rewarm", NULL, 404, "none");
	f->model.fail_snapshot = ERR_UNAVAILABLE;
	refused(f, "POST", "/v1/snapshots/s/rewarm", NULL, 503, "ordered failure");
	f->model.fail_snapshot = ERR_NONE;
	_cleanup_json_ json_t *old = call(f, "GET", "/v1/snapshots/s", NULL, 200);
	assert_string_equal(text(old, "snapshot_id"), first);
	assert_true(model_has_snapshot(&f->model, first));
	assert_int_equal(f->model.n_snapshots, 1);
	_cleanup_json_ json_t *new = call(f, "POST", "/v1/snapshots/s/rewarm", NULL, 201);
	snprintf(second, sizeof second, "%s", text(new, "snapshot_id"));
	assert_string_not_equal(first, second);
	assert_string_equal(text(new, "name"), "s");
	assert_string_equal(text(new, "sandbox_id"), id);
	assert_false(model_has_snapshot(&f->model, first));
	assert_true(model_has_snapshot(&f->model, second));
	_cleanup_json_ json_t *got = call(f, "GET", "/v1/snapshots/s", NULL, 200);
	assert_string_equal(text(got, "snapshot_id"), second);
	assert_string_equal(text(got, "parent"), text(old, "parent"));
	assert_int_equal(sql(f, open_ops), 0);
}

static void replace_s(void *ctx)
{
	struct fixture *f = ctx;
	struct template t;
	char old[UUID_SIZE];
	assert_int_equal(templates_get(f->control->db, "s", &t, NULL), 0);
	snprintf(t.snapshot, sizeof t.snapshot, "77777777-7777-4777-8777-777777777777");
	assert_int_equal(templates_commit(f->control->db, &t, true, old, NULL, NULL), 0);
}

static void remove_s(void *ctx)
{
	struct fixture *f = ctx;
	char old[UUID_SIZE];
	assert_int_equal(templates_remove(f->control->db, "s", old, NULL, NULL), 0);
}

// What was made of the one that is gone takes no other's place, and is no name's again.
static void test_rewarm_of_what_is_gone(void **state)
{
	struct fixture *f = *state;
	char id[64], first[UUID_SIZE];
	create_box(f, NULL, id);
	snapshot(f, id, "s", "", first);
	f->model.ctx = f;
	f->model.before_snapshot = replace_s;
	refused(f, "POST", "/v1/snapshots/s/rewarm", NULL, 409, "replaced or deleted");
	_cleanup_json_ json_t *got = call(f, "GET", "/v1/snapshots/s", NULL, 200);
	assert_string_equal(text(got, "snapshot_id"), "77777777-7777-4777-8777-777777777777");
	assert_int_equal(f->model.n_snapshots, 1); // the first, which the hook let lie
	model_add_snapshot(&f->model, "77777777-7777-4777-8777-777777777777", id, "template");
	f->model.before_snapshot = remove_s;
	refused(f, "POST", "/v1/snapshots/s/rewarm", NULL, 409, "replaced or deleted");
	refused(f, "GET", "/v1/snapshots/s", NULL, 404, "no snapshot");
	assert_int_equal(f->model.n_snapshots, 2);
	f->model.before_snapshot = NULL;
}

static void test_delete_is_made_up_for(void **state)
{
	struct fixture *f = *state;
	char id[64], one[UUID_SIZE];
	create_box(f, NULL, id);
	snapshot(f, id, "s", "", one);
	f->model.fail_snapshot_delete = ERR_UNAVAILABLE;
	call_drop(f, "DELETE", "/v1/snapshots/s", NULL, 204);
	refused(f, "GET", "/v1/snapshots/s", NULL, 404, "no snapshot");
	assert_true(model_has_snapshot(&f->model, one));
	// The name is free at once, and the old snapshot goes with the next start.
	char two[UUID_SIZE];
	snapshot(f, id, "s", "", two);
	fixture_stop(f);
	f->model.fail_snapshot_delete = ERR_NONE;
	fixture_start(f);
	assert_false(model_has_snapshot(&f->model, one));
	assert_true(model_has_snapshot(&f->model, two));
}

// A server that was killed during a create: open, and made by the host or not.
static void test_unfinished_snapshots(void **state)
{
	struct fixture *f = *state;
	static const char made[] = "11111111-1111-4111-8111-111111111111";
	static const char never[] = "22222222-2222-4222-8222-222222222222";
	static const char unknown[] = "33333333-3333-4333-8333-333333333333";
	static const char pause[] = "44444444-4444-4444-8444-444444444444";
	static const char loser[] = "55555555-5555-4555-8555-555555555555";
	static const char winner[] = "66666666-6666-4666-8666-666666666666";
	char id[64], other[64], taken[UUID_SIZE], replaced[UUID_SIZE];
	create_box(f, NULL, id);
	create_box(f, NULL, other);
	snapshot(f, id, "taken", "", taken);
	snapshot(f, id, "replaced", "", replaced);
	fixture_stop(f);
	model_add_snapshot(&f->model, made, id, "template");
	model_add_snapshot(&f->model, unknown, id, "template");
	model_add_snapshot(&f->model, pause, id, "pause");
	model_add_snapshot(&f->model, loser, id, "template");
	model_add_snapshot(&f->model, winner, id, "template");
	const struct {
		const char *snapshot, *name;
		int overwrite;
	} ops[] = {{made, "made", 0}, {never, "never", 0}, {winner, "replaced", 1},
		{loser, "taken", 0}};
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		char query[400];
		snprintf(query, sizeof query,
			"INSERT INTO operations (id, kind, sandbox, snapshot, state, request, "
			"phases, created_ns) VALUES ('op%d', 'snapshot', '%s', '%s', 'open', "
			"'{\"name\":\"%s\",\"parent\":\"base\",\"overwrite\":%s}', '[]', %d)",
			(int)i, id, ops[i].snapshot, ops[i].name,
			ops[i].overwrite ? "true" : "false", (int)i);
		sql(f, query);
	}
	// Nothing is judged while the host says nothing, or has no volume.
	f->model.fail_snapshots = ERR_UNAVAILABLE;
	fixture_start(f);
	assert_int_equal(sql(f, open_ops), 4);
	snapshot_refused(f, other, "made", 409, "being made right now");
	f->model.fail_snapshots = ERR_NONE;
	f->model.volume_gone = true;
	look_and_apply(f);
	assert_int_equal(sql(f, open_ops), 4);
	f->model.volume_gone = false;
	look_and_apply(f);
	assert_int_equal(sql(f, open_ops), 0);
	_cleanup_json_ json_t *j = call(f, "GET", "/v1/snapshots/made", NULL, 200);
	assert_string_equal(text(j, "snapshot_id"), made);
	assert_string_equal(text(j, "sandbox_id"), id);
	assert_string_equal(text(j, "parent"), "base");
	refused(f, "GET", "/v1/snapshots/never", NULL, 404, "never");
	_cleanup_json_ json_t *r = call(f, "GET", "/v1/snapshots/replaced", NULL, 200);
	assert_string_equal(text(r, "snapshot_id"), winner);
	_cleanup_json_ json_t *t = call(f, "GET", "/v1/snapshots/taken", NULL, 200);
	assert_string_equal(text(t, "snapshot_id"), taken);
	assert_true(model_has_snapshot(&f->model, made));
	assert_true(model_has_snapshot(&f->model, pause)); // no template's: the host's own
	assert_true(model_has_snapshot(&f->model, winner));
	assert_true(model_has_snapshot(&f->model, taken));
	assert_true(model_has_snapshot(&f->model, unknown)); // the journal does not know it: kept
	assert_false(model_has_snapshot(&f->model, loser));
	assert_false(model_has_snapshot(&f->model, replaced));
	call_drop(f, "GET", "/v1/snapshots", NULL, 200);
}

static void reconcile_now(void *ctx)
{
	struct fixture *f = ctx;
	look_and_apply(f);
}

struct rival {
	struct fixture *f;
	char id[64];
	bool done;
};

static void another(void *ctx)
{
	struct rival *r = ctx;
	if (r->done)
		return;
	r->done = true;
	// On a connection of its own: the first one waits for its answer.
	struct fixture *other = calloc(1, sizeof *other); // the client is all of it that is used
	const char *const headers[] = {r->f->key, NULL};
	const struct http_client_config cc = {.unix_path = control_socket(r->f->control),
		.base_url = "http://localhost",
		.headers = headers};
	assert_int_equal(http_client_new(&cc, &other->client, NULL), 0);
	snapshot_refused(other, r->id, "s", 409, "being made right now");
	http_client_free(other->client);
	free(other);
}

static void test_snapshots_under_way_are_left_alone(void **state)
{
	struct fixture *f = *state;
	char id[64], one[UUID_SIZE];
	create_box(f, NULL, id);
	// The upkeep runs while the host is asked and does not have it yet.
	f->model.before_snapshot = reconcile_now;
	f->model.ctx = f;
	snapshot(f, id, "s", "", one);
	assert_true(model_has_snapshot(&f->model, one));
	call_drop(f, "DELETE", "/v1/snapshots/s", NULL, 204);
	// Of two at once with the same name one wins.
	struct rival r = {.f = f};
	snprintf(r.id, sizeof r.id, "%s", id);
	f->model.before_snapshot = another;
	f->model.ctx = &r;
	snapshot(f, id, "s", "", one);
	assert_true(r.done);
	assert_int_equal(f->model.n_snapshots, 1);
}

static void test_name_taken_while_it_was_made(void **state)
{
	struct fixture *f = *state;
	char id[64];
	create_box(f, NULL, id);
	struct template new = {.snapshot = "77777777-7777-4777-8777-777777777777",
		.name = "n",
		.vcpus = 1,
		.memory_mb = 1,
		.disk_mb = 1};
	struct template t;
	char old[UUID_SIZE];
	struct err e = {0};
	struct db *db = f->control->db;
	snprintf(new.sandbox, sizeof new.sandbox, "%s", id);
	assert_int_equal(templates_begin(db, "n", "", false, NULL, &e), 0);
	assert_int_equal(templates_commit(db, &new, false, old, NULL, &e), 0);
	assert_string_equal(old, "");
	snprintf(new.snapshot, sizeof new.snapshot, "99999999-9999-4999-8999-999999999999");
	assert_true(templates_commit(db, &new, false, old, NULL, &e) < 0);
	assert_int_equal(e.code, ERR_CONFLICT);
	assert_int_equal(templates_get(db, "n", &t, &e), 0);
	assert_string_equal(t.snapshot, "77777777-7777-4777-8777-777777777777");
	// A host that reports nonsense does not get it into the table.
	snprintf(new.name, sizeof new.name, "b");
	new.vcpus = 0;
	assert_true(templates_commit(db, &new, false, old, NULL, &e) < 0);
	assert_true(templates_get(db, "b", &t, &e) < 0);
}

static void test_fork(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f,
		"{\"timeout_sec\":100,\"on_timeout\":\"pause\",\"metadata\":{\"job\":\"1\"},"
		"\"env\":{\"A\":\"b\"}}",
		id);
	path_of(id, "/fork", path);
	_cleanup_json_ json_t *j = call(f, "POST", path, NULL, 200);
	json_t *children = json_object_get(j, "children");
	assert_int_equal(json_array_size(children), 1);
	json_t *child = json_array_get(children, 0);
	assert_string_equal(text(child, "state"), "running");
	assert_string_equal(text(child, "template"), "base");
	assert_string_equal(text(child, "on_timeout"), "pause");
	assert_string_equal(text(json_object_get(child, "metadata"), "job"), "1");
	assert_int_equal(strlen(text(child, "envd_token")), 64);
	uint64_t now = clock_realtime_ns();
	assert_in_range(
		f->model.last_fork.ends_at_ns, now + 95 * NSEC_PER_SEC, now + 100 * NSEC_PER_SEC);

	_cleanup_json_ json_t *three = call(f, "POST", path,
		"{\"count\":3,\"timeout_sec\":0,\"on_timeout\":\"kill\",\"env\":{\"N\":\"1\"},"
		"\"metadata\":{\"of\":\"three\"}}",
		200);
	children = json_object_get(three, "children");
	assert_int_equal(json_array_size(children), 3);
	assert_int_equal(f->model.last_fork.ends_at_ns, 0);
	for (size_t i = 0; i < 3; i++) {
		child = json_array_get(children, i);
		assert_string_equal(text(json_object_get(child, "metadata"), "of"), "three");
		assert_string_equal(text(child, "on_timeout"), "kill");
		for (size_t k = 0; k < i; k++) {
			json_t *sibling = json_array_get(children, k);
			assert_string_not_equal(text(child, "id"), text(sibling, "id"));
			assert_string_not_equal(
				text(child, "envd_token"), text(sibling, "envd_token"));
		}
	}
	// They are sandboxes like others, also after a restart; so is a paused source's child.
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
	call_drop(f, "POST", path_of(id, "/fork", path), "{\"count\":1}", 200);
	fixture_stop(f);
	fixture_start(f);
	_cleanup_json_ json_t *again =
		call(f, "GET", path_of(text(child, "id"), "", path), NULL, 200);
	assert_true(json_equal(again, child));
	assert_int_equal(rows_count(f->control->rows), 6);
	assert_int_equal(sql(f, "SELECT count(*) FROM sandboxes WHERE state = 'creating'"), 0);
}

static void test_fork_bad_input_and_failures(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	path_of(id, "/fork", path);
	const struct {
		const char *body, *part;
	} cases[] = {
		{"{\"count\":0}", "count: must be an integer from 1 to 100"},
		{"{\"count\":101}", "count: must be an integer from 1 to 100"},
		{"{\"count\":\"2\"}", "count"},
		{"{\"timeout_sec\":2592001}", "timeout_sec"},
		{"{\"on_timeout\":\"explode\"}", "on_timeout"},
		{"{\"env\":{\"A=\":\"x\"}}", "env: 'A='"},
		{"{\"env\":[]}", "env"},
		{"{\"metadata\":{\"a\":1}}", "metadata"},
		{"{\"n\":1}", "unknown field 'n'"},
		{"[7]", "must be a JSON object"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		refused(f, "POST", path, cases[i].body, 400, cases[i].part);
	f->model.fail_fork = ERR_UNAVAILABLE;
	refused(f, "POST", path, "{\"count\":2}", 503, "ordered failure");
	f->model.fail_fork = ERR_NONE;
	f->model.fail_children = 3;
	refused(f, "POST", path, "{\"count\":2}", 429, "no room");
	assert_int_equal(rows_count(f->control->rows), 1);
	assert_int_equal(sql(f, "SELECT count(*) FROM sandboxes"), 1);
	// Some of them is a success, which tells of the others.
	f->model.fail_children = 5;
	_cleanup_json_ json_t *j = call(f, "POST", path, "{\"count\":3}", 200);
	json_t *children = json_object_get(j, "children");
	json_t *failed = json_array_get(children, 0);
	assert_string_equal(text(json_object_get(failed, "error"), "code"), "limit");
	assert_true(id_is_sandbox(text(failed, "id")));
	assert_string_equal(text(json_array_get(children, 1), "state"), "running");
	assert_int_equal(rows_count(f->control->rows), 2);
	refused(f, "GET", path_of(text(failed, "id"), "", path), NULL, 404, "no sandbox");
	// The host knows it first.
	f->model.tells_no_end = true;
	model_end(&f->model, id, "timeout");
	refused(f, "POST", path_of(id, "/fork", path), "{}", 409, "stopped");
}

struct stream {
	struct fixture *f;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct strbuf got;
	size_t lines; // under lock
};

// The next child comes up when the client has been told of the one before: they are reported one
// by one.
static void after_line(void *ctx, size_t i)
{
	struct stream *s = ctx;
	pthread_mutex_lock(&s->lock);
	while (s->lines < i)
		pthread_cond_wait(&s->wake, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

static int on_data(void *ctx, const char *data, size_t len)
{
	struct stream *s = ctx;
	pthread_mutex_lock(&s->lock);
	strbuf_add(&s->got, data, len);
	for (size_t i = 0; i < len; i++)
		s->lines += data[i] == '\n';
	pthread_cond_broadcast(&s->wake);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int fork_stream(struct stream *s, const char *path, const char *body)
{
	struct err e = {0};
	struct http_response r = {0};
	static const char *const accept[] = {"Accept: application/x-ndjson", NULL};
	const struct http_call c = {.method = "POST",
		.path = path,
		.body = body,
		.body_len = strlen(body),
		.headers = accept,
		.write = on_data,
		.ctx = s,
		.timeout_ms = 20000};
	if (http_client_call(s->f->client, &c, &r, &e) < 0)
		fail_msg("%s", e.text);
	if (r.status == 200)
		assert_string_equal(r.content_type, "application/x-ndjson");
	int status = r.status;
	http_response_done(&r);
	return status;
}

static void test_fork_as_a_stream(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	struct stream s = {.f = f};
	pthread_mutex_init(&s.lock, NULL);
	pthread_cond_init(&s.wake, NULL);
	create_box(f, NULL, id);
	path_of(id, "/fork", path);
	f->model.before_child = after_line;
	f->model.ctx = &s;
	assert_int_equal(fork_stream(&s, path, "{\"count\":3}"), 200);
	assert_int_equal(s.lines, 3);
	const char *p = s.got.data;
	for (int i = 0; i < 3; i++) {
		_cleanup_json_ json_t *j = json_loadb(p, strcspn(p, "\n"), 0, NULL);
		assert_string_equal(text(j, "state"), "running");
		p += strcspn(p, "\n") + 1;
	}
	f->model.before_child = NULL;
	strbuf_consume(&s.got, s.got.len);
	f->model.fail_children = 1;
	assert_int_equal(fork_stream(&s, path, "{\"count\":2}"), 200);
	_cleanup_json_ json_t *failed = json_loadb(s.got.data, strcspn(s.got.data, "\n"), 0, NULL);
	assert_string_equal(text(json_object_get(failed, "error"), "code"), "limit");
	f->model.fail_children = 3;
	assert_int_equal(fork_stream(&s, path, "{\"count\":2}"), 429);
	assert_int_equal(rows_count(f->control->rows), 5);
	strbuf_done(&s.got);
	pthread_cond_destroy(&s.wake);
	pthread_mutex_destroy(&s.lock);
}

// Children of a fork that a crash cut short are judged by the host's word, as creates are.
static void test_unfinished_fork(void **state)
{
	struct fixture *f = *state;
	_cleanup_json_ json_t *none = json_object();
	struct row_new n[] = {{.id = "imade", .template = "base", .metadata = none, .env = none},
		{.id = "inever", .template = "base", .metadata = none, .env = none}};
	struct sandbox_row *rows[2];
	struct err e = {0};
	assert_int_equal(rows_add(f->control->rows, n, 2, 1, NULL, rows, &e), 0);
	assert_true(rows[0]->created_ns < rows[1]->created_ns);
	refused(f, "POST", "/v1/sandboxes/imade/fork", NULL, 409, "still being created");
	refused(f, "POST", "/v1/sandboxes/imade/pause", NULL, 409, "still being created");
	refused(f, "POST", "/v1/sandboxes/imade/resume", NULL, 409, "still being created");
	snapshot_refused(f, "imade", "x", 409, "still being created");
	// All or none: an id that is there already.
	char fresh[] = "ifresh";
	struct row_new twice[] = {{.id = fresh, .template = "base", .metadata = none, .env = none},
		{.id = "imade", .template = "base", .metadata = none, .env = none}};
	struct sandbox_row *no[2];
	assert_true(rows_add(f->control->rows, twice, 2, 1, NULL, no, &e) < 0);
	assert_null(rows_get(f->control->rows, fresh));
	row_unref(rows[0]);
	row_unref(rows[1]);
	f->model.box[f->model.n++] = (struct host_sandbox){.id = "imade", .state = SANDBOX_PAUSED};
	fixture_stop(f);
	fixture_start(f);
	_cleanup_json_ json_t *j = call(f, "GET", "/v1/sandboxes/imade", NULL, 200);
	assert_string_equal(text(j, "state"), "paused");
	refused(f, "GET", "/v1/sandboxes/inever", NULL, 404, "inever");
}

static void test_events_of_new_kinds(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], one[UUID_SIZE];
	create_box(f, NULL, id);
	snapshot(f, id, "s", "", one);
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
	call_drop(f, "POST", path_of(id, "/resume", path), NULL, 200);
	static const char *const want[] = {"running", "snapshot_created", "paused", "resumed"};
	_cleanup_json_ json_t *j = call(f, "GET", "/v1/events", NULL, 200);
	json_t *list = json_object_get(j, "events");
	assert_int_equal(json_array_size(list), ARRAY_SIZE(want));
	for (size_t i = 0; i < ARRAY_SIZE(want); i++)
		assert_string_equal(text(json_array_get(list, i), "kind"), want[i]);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	log_setup("test", LOG_LEVEL_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(test_pause_and_resume),
		T(test_pause_and_resume_bad_input),
		T(test_paused_survives_a_restart),
		T(test_snapshots),
		T(test_snapshot_bad_input),
		T(test_overwrite),
		T(test_rewarm),
		T(test_rewarm_of_what_is_gone),
		T(test_delete_is_made_up_for),
		T(test_unfinished_snapshots),
		T(test_snapshots_under_way_are_left_alone),
		T(test_name_taken_while_it_was_made),
		T(test_fork),
		T(test_fork_bad_input_and_failures),
		T(test_fork_as_a_stream),
		T(test_unfinished_fork),
		T(test_events_of_new_kinds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
