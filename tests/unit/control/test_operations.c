// SPDX-License-Identifier: Apache-2.0
// Operations over REST: the journal, Idempotency-Key, lost replies, restarts, the reconciler as a
// call, and what a database that cannot be written does to them.
#include "fixture.h"
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "base/log.h"
#include "control/api/context.h"
#include "control/engine/catchup.h"
#include "control/engine/upkeep.h"
#include "base/json.h"

// Of the newest operation after a keyed call.
static char newest_id[UUID_SIZE];

static json_t *keyed_call(struct fixture *f, const char *method, const char *path, const char *key,
	const char *body, int want)
{
	struct err e = {0};
	struct http_response r = {0};
	char header[320];
	snprintf(header, sizeof header, "Idempotency-Key: %s", key);
	const char *const headers[] = {header, NULL};
	const struct http_call c = {.method = method,
		.path = path,
		.body = body,
		.body_len = body ? strlen(body) : 0,
		.headers = headers,
		.timeout_ms = 20000};
	if (http_client_call(f->client, &c, &r, &e) < 0)
		fail_msg("%s", e.text);
	if (r.status != want)
		fail_msg("%s %s: status %d, not %d: %s", method, path, r.status, want,
			r.body.data ? r.body.data : "");
	json_t *j = http_response_json(&r);
	http_response_done(&r);
	return j;
}

// The same, and the operation's id is in newest_id: for the test's own thread.
static json_t *keyed(struct fixture *f, const char *method, const char *path, const char *key,
	const char *body, int want)
{
	json_t *j = keyed_call(f, method, path, key, body, want);
	_cleanup_json_ json_t *ops = call(f, "GET", "/v1/operations?limit=1", NULL, 200);
	json_t *op = json_array_get(json_object_get(ops, "operations"), 0);
	snprintf(newest_id, sizeof newest_id, "%s", text(op, "id"));
	return j;
}

static void keyed_drop(struct fixture *f, const char *method, const char *path, const char *key,
	const char *body, int want)
{
	json_decref(keyed(f, method, path, key, body, want));
}

static json_t *operation(struct fixture *f, const char *id)
{
	char path[100];
	snprintf(path, sizeof path, "/v1/operations/%s", id);
	return call(f, "GET", path, NULL, 200);
}

static void test_every_change_is_an_operation(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], body[200];
	create_box(f, NULL, id);
	call_drop(f, "POST", path_of(id, "/timeout", path), "{\"timeout_sec\":50}", 200);
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
	call_drop(f, "POST", path_of(id, "/resume", path), NULL, 200);
	call_drop(f, "POST", path_of(id, "/fork", path), "{\"count\":2}", 200);
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"s\"}", id);
	call_drop(f, "POST", "/v1/snapshots", body, 201);
	call_drop(f, "POST", path_of(id, "/resume", path), "{\"from\":\"s\"}", 200);
	call_drop(f, "DELETE", "/v1/snapshots/s", NULL, 204);
	f->model.fail_pause = ERR_NO_SPACE;
	refused(f, "POST", path_of(id, "/pause", path), NULL, 507, "ordered");
	call_drop(f, "DELETE", path_of(id, "", path), NULL, 204);
	static const char *const want[] = {"destroy", "pause", "snapshot_delete", "rollback",
		"snapshot", "fork", "resume", "pause", "set_timeout", "create"};
	_cleanup_json_ json_t *j = call(f, "GET", "/v1/operations", NULL, 200);
	json_t *list = json_object_get(j, "operations");
	assert_int_equal(json_array_size(list), ARRAY_SIZE(want));
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		json_t *op = json_array_get(list, i);
		assert_string_equal(text(op, "kind"), want[i]);
		assert_string_equal(text(op, "state"), i == 1 ? "failed" : "done");
		assert_true(json_is_string(json_object_get(op, "ended_at")));
	}
	json_t *failed = json_object_get(json_array_get(list, 1), "error");
	assert_string_equal(text(failed, "code"), "no_space");
	assert_string_equal(text(failed, "message"), "ordered failure");
	assert_int_equal(json_array_size(json_object_get(json_array_get(list, 9), "phases")), 2);
	// A fork is found by its children too.
	json_t *children = json_object_get(json_array_get(list, 5), "children");
	assert_int_equal(json_array_size(children), 2);
	snprintf(path, sizeof path, "/v1/operations?sandbox=%s",
		json_string_value(json_array_get(children, 1)));
	_cleanup_json_ json_t *mine = call(f, "GET", path, NULL, 200);
	assert_int_equal(json_array_size(json_object_get(mine, "operations")), 1);
	_cleanup_json_ json_t *page = call(f, "GET", "/v1/operations?limit=9", NULL, 200);
	snprintf(path, sizeof path, "/v1/operations?cursor=%s", text(page, "next_cursor"));
	_cleanup_json_ json_t *rest = call(f, "GET", path, NULL, 200);
	assert_int_equal(json_array_size(json_object_get(rest, "operations")), 1);
	assert_true(json_is_null(json_object_get(rest, "next_cursor")));
	refused(f, "GET", "/v1/operations/nosuch", NULL, 404, "no operation");
	refused(f, "GET", "/v1/operations?limit=101", NULL, 400, "limit");
	refused(f, "GET", "/v1/operations?cursor=x", NULL, 400, "cursor");
}

static void test_same_key_same_answer(void **state)
{
	struct fixture *f = *state;
	char path[200];
	static const char body[] = "{\"vcpus\":2,\"metadata\":{\"a\":\"1\"}}";
	_cleanup_json_ json_t *one = keyed(f, "POST", "/v1/sandboxes", "k1", body, 201);
	char op[UUID_SIZE];
	snprintf(op, sizeof op, "%s", newest_id);
	assert_true(id_is_uuid(op));
	// The order of the fields does not make another request.
	_cleanup_json_ json_t *two = keyed(f, "POST", "/v1/sandboxes", "k1",
		"{ \"metadata\": {\"a\":\"1\"}, \"vcpus\": 2 }", 201);
	assert_true(json_equal(one, two));
	assert_string_equal(newest_id, op);
	assert_int_equal(f->model.n, 1);
	const char *id = text(one, "id");
	assert_int_equal(strlen(text(two, "envd_token")), 64);
	_cleanup_json_ json_t *other =
		keyed(f, "POST", "/v1/sandboxes", "k1", "{\"vcpus\":1}", 409);
	assert_non_null(strstr(text(json_object_get(other, "error"), "message"), op));
	keyed_drop(f, "POST", path_of(id, "/pause", path), "k1", NULL, 409);
	// Failures are told again too, and nothing is tried again.
	f->model.fail_pause = ERR_NO_SPACE;
	keyed_drop(f, "POST", path, "p", NULL, 507);
	f->model.fail_pause = ERR_NONE;
	_cleanup_json_ json_t *again = keyed(f, "POST", path, "p", NULL, 507);
	assert_string_equal(text(json_object_get(again, "error"), "message"), "ordered failure");
	_cleanup_json_ json_t *paused = keyed(f, "POST", path, "p2", NULL, 200);
	_cleanup_json_ json_t *forked =
		keyed(f, "POST", path_of(id, "/fork", path), "f", "{\"count\":2}", 200);
	// And over a restart.
	fixture_stop(f);
	fixture_start(f);
	_cleanup_json_ json_t *paused2 =
		keyed(f, "POST", path_of(id, "/pause", path), "p2", NULL, 200);
	assert_true(json_equal(paused, paused2));
	_cleanup_json_ json_t *forked2 =
		keyed(f, "POST", path_of(id, "/fork", path), "f", "{\"count\":2}", 200);
	assert_true(json_equal(forked, forked2));
	assert_int_equal(f->model.n, 3);
	keyed_drop(f, "DELETE", path_of(id, "", path), "d", NULL, 204);
	keyed_drop(f, "DELETE", path, "d", NULL, 204);
	refused(f, "DELETE", path, NULL, 404, "no sandbox");
	// What was refused before anything began leaves the key free.
	keyed_drop(f, "POST", "/v1/sandboxes", "v", "{\"vcpus\":0}", 400);
	keyed_drop(f, "POST", "/v1/sandboxes", "v", "{\"vcpus\":1}", 201);
	_cleanup_json_ json_t *key = call(f, "POST", "/v1/keys", "{\"name\":\"x\"}", 201);
	snprintf(path, sizeof path, "/v1/keys/%s", text(key, "id"));
	keyed_drop(f, "DELETE", path, "kd", NULL, 204);
	keyed_drop(f, "DELETE", path, "kd", NULL, 204);
	refused(f, "DELETE", path, NULL, 404, "key");
}

// The headers, which the client above does not show.
static void raw(struct fixture *f, const char *key, char *out, size_t size)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char req[400];
	snprintf(a.sun_path, sizeof a.sun_path, "%s", control_socket(f->control));
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	int n = snprintf(req, sizeof req,
		"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n"
		"Idempotency-Key: %s\r\nContent-Length: 0\r\n\r\n",
		f->key, key);
	assert_int_equal(write(fd, req, (size_t)n), n);
	size_t got = 0;
	ssize_t r;
	while ((r = read(fd, out + got, size - 1 - got)) > 0)
		got += (size_t)r;
	out[got] = '\0';
}

static void test_headers(void **state)
{
	struct fixture *f = *state;
	char first[8192], second_[8192], id[100];
	raw(f, "h", first, sizeof first);
	raw(f, "h", second_, sizeof second_);
	const char *at = strstr(first, "Stasis-Operation: ");
	assert_non_null(at);
	snprintf(id, sizeof id, "%.54s\r\n", at);
	assert_non_null(strstr(second_, id));
	assert_null(strstr(first, "Idempotent-Replayed"));
	assert_non_null(strstr(second_, "Idempotent-Replayed: true"));
	f->model.fail_create = ERR_LIMIT;
	raw(f, "h2", first, sizeof first);
	assert_non_null(strstr(first, " 429 "));
	assert_non_null(strstr(first, "Stasis-Operation: "));
	assert_non_null(strstr(first, "Retry-After: 1\r\n"));
	f->model.fail_create = ERR_UNAVAILABLE;
	raw(f, "h2", first, sizeof first);
	assert_non_null(strstr(first, " 503 "));
	assert_non_null(strstr(first, "Retry-After: 5\r\n"));
	f->model.fail_create = ERR_INTERNAL;
	raw(f, "h2", first, sizeof first);
	assert_non_null(strstr(first, " 500 "));
	assert_null(strstr(first, "Retry-After"));
}

// What failed for want of room or time, and has left nothing, is tried again by the same key.
static void test_a_retry_can_succeed(void **state)
{
	struct fixture *f = *state;
	static const enum err_code codes[] = {
		ERR_LIMIT, ERR_NO_SPACE, ERR_UNAVAILABLE, ERR_TIMEOUT};
	char id[64], path[200];
	create_box(f, NULL, id);
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
		int status = err_info(codes[i])->http_status;
		char key[16];
		snprintf(key, sizeof key, "c%zu", i);
		f->model.fail_create = codes[i];
		keyed_drop(f, "POST", "/v1/sandboxes", key, NULL, status);
		keyed_drop(f, "POST", "/v1/sandboxes", key, NULL, status);
		f->model.fail_create = ERR_NONE;
		_cleanup_json_ json_t *one = keyed(f, "POST", "/v1/sandboxes", key, NULL, 201);
		_cleanup_json_ json_t *two = keyed(f, "POST", "/v1/sandboxes", key, NULL, 201);
		assert_true(json_equal(one, two));
		snprintf(key, sizeof key, "f%zu", i);
		f->model.fail_fork = codes[i];
		keyed_drop(f, "POST", path_of(id, "/fork", path), key, NULL, status);
		f->model.fail_fork = ERR_NONE;
		keyed_drop(f, "POST", path, key, NULL, 200);
		call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
		snprintf(key, sizeof key, "r%zu", i);
		f->model.fail_resume = codes[i];
		keyed_drop(f, "POST", path_of(id, "/resume", path), key, NULL, status);
		f->model.fail_resume = ERR_NONE;
		keyed_drop(f, "POST", path, key, NULL, 200);
	}
	// Other failures are answered again.
	f->model.fail_create = ERR_INTERNAL;
	keyed_drop(f, "POST", "/v1/sandboxes", "i", NULL, 500);
	f->model.fail_create = ERR_NONE;
	keyed_drop(f, "POST", "/v1/sandboxes", "i", NULL, 500);
}

static void exec_sql(struct fixture *f, const char *query)
{
	char path[100];
	sqlite3 *db;
	snprintf(path, sizeof path, "%s/control.db", f->data);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 5000);
	if (sqlite3_exec(db, query, NULL, NULL, NULL) != SQLITE_OK)
		fail_msg("%s: %s", query, sqlite3_errmsg(db));
	sqlite3_close(db);
}

// However many operations there are, those of one sandbox are found by an index: the database does
// not take more steps for it.
static void test_no_scan_of_the_journal(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	exec_sql(f, "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) "
		    "INSERT INTO operations (id, kind, sandbox, snapshot, state, request, phases, "
		    "created_ns, ended_ns) SELECT 'op' || i, 'pause', 'iother', '', 'done', '{}', "
		    "'[]', i, i FROM n");
	snprintf(path, sizeof path, "/v1/operations?sandbox=%s", id);
	call_drop(f, "GET", path, NULL, 200);
	struct err e = {0};
	struct operation_word w;
	static const char snapshot[] = "11111111-1111-4111-8111-111111111111";
	assert_int_equal(
		operations_last_word(f->control->db, OPERATION_ABOUT_SANDBOX, id, &w, &e), 1);
	assert_int_equal(
		operations_last_word(f->control->db, OPERATION_ABOUT_SNAPSHOT, snapshot, &w, &e),
		0);
	unsigned seen = 0;
	db_lock(f->control->db);
	sqlite3 *db = db_handle(f->control->db);
	for (sqlite3_stmt *st = sqlite3_next_stmt(db, NULL); st; st = sqlite3_next_stmt(db, st)) {
		const char *sql = sqlite3_sql(st);
		if (!strstr(sql, "FROM operation") || strncmp(sql, "SELECT", 6) != 0 ||
			!(strstr(sql, "sandbox = ?") || strstr(sql, "snapshot = ?")))
			continue;
		seen++;
		int steps = sqlite3_stmt_status(st, SQLITE_STMTSTATUS_VM_STEP, 0);
		if (steps > 2000)
			fail_msg("%d steps: %s", steps, sql);
	}
	db_unlock(f->control->db);
	assert_int_equal(seen, 3);
}

static void test_bad_keys(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], longest[300];
	create_box(f, NULL, id);
	memset(longest, 'x', sizeof longest);
	longest[256] = '\0';
	keyed_drop(f, "POST", "/v1/sandboxes", longest, NULL, 400);
	longest[255] = '\0';
	keyed_drop(f, "POST", "/v1/sandboxes", longest, NULL, 201);
	keyed_drop(f, "POST", "/v1/sandboxes", "a b", NULL, 400);
	keyed_drop(f, "POST", path_of(id, "/exec", path), "k", "{\"cmd\":\"true\"}", 400);
	keyed_drop(f, "POST", "/v1/keys", "k", "{\"name\":\"x\"}", 400);
	keyed_drop(f, "POST", "/v1/reconcile", "k", NULL, 400);
}

struct both {
	struct fixture *f;
	pthread_t thread;
	json_t *answer;
	bool started;
};

static void *second(void *arg)
{
	struct both *b = arg;
	struct fixture *other = calloc(1, sizeof *other);
	const char *const headers[] = {b->f->key, NULL};
	const struct http_client_config cc = {.unix_path = control_socket(b->f->control),
		.base_url = "http://localhost",
		.headers = headers};
	assert_int_equal(http_client_new(&cc, &other->client, NULL), 0);
	b->answer = keyed_call(
		other, "POST", "/v1/snapshots", "same", (const char *)b->f->model.last_env, 201);
	http_client_free(other->client);
	free(other);
	return NULL;
}

// While the host is at the first, the second arrives.
static void start_second(void *ctx)
{
	struct both *b = ctx;
	if (!b->started)
		pthread_create(&b->thread, NULL, second, b);
	b->started = true;
}

static void test_same_key_at_once(void **state)
{
	struct fixture *f = *state;
	struct both b = {.f = f};
	char id[64];
	create_box(f, NULL, id);
	snprintf(f->model.last_env, sizeof f->model.last_env,
		"{\"sandbox_id\":\"%s\",\"name\":\"s\"}", id);
	f->model.before_snapshot = start_second;
	f->model.ctx = &b;
	_cleanup_json_ json_t *one =
		keyed(f, "POST", "/v1/snapshots", "same", f->model.last_env, 201);
	pthread_join(b.thread, NULL);
	assert_true(json_equal(one, b.answer));
	assert_int_equal(f->model.n_snapshots, 1);
	json_decref(b.answer);
}

static void test_lost_reply_is_made_up_for(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	if (f->host_server)
		skip(); // the model's own error is not a lost connection's there
	create_box(f, NULL, id);
	f->model.lose_reply = true;
	refused(f, "POST", path_of(id, "/pause", path), NULL, 503, "does not answer");
	keyed_drop(f, "POST", "/v1/sandboxes", "c", NULL, 503);
	char op[UUID_SIZE];
	snprintf(op, sizeof op, "%s", newest_id);
	_cleanup_json_ json_t *open = operation(f, op);
	assert_string_equal(text(open, "state"), "open");
	assert_int_equal(f->model.n, 2); // it was made
	// Nothing else is done with it before it is known what came of the first.
	refused(f, "POST", path_of(id, "/resume", path), NULL, 503, "is not finished");
	f->model.lose_reply = false;
	_cleanup_json_ json_t *box = keyed(f, "POST", "/v1/sandboxes", "c", NULL, 201);
	assert_string_equal(newest_id, op);
	assert_int_equal(f->model.n, 2);
	_cleanup_json_ json_t *back = call(f, "POST", path_of(id, "/resume", path), NULL, 200);
	assert_string_equal(text(back, "state"), "running");
	assert_string_equal(text(box, "state"), "running");
	_cleanup_json_ json_t *done = operation(f, op);
	assert_string_equal(text(done, "state"), "done");
}

static void check_operation(struct fixture *f, const char *op, const char *state)
{
	json_decref(call(f, "POST", "/v1/reconcile", NULL, 200));
	_cleanup_json_ json_t *j = operation(f, op);
	assert_string_equal(text(j, "state"), state);
}

static void test_host_that_is_still_at_it(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], op[UUID_SIZE];
	if (f->host_server)
		skip(); // as above
	create_box(f, NULL, id);
	f->model.lose_reply = true;
	keyed_drop(f, "POST", path_of(id, "/pause", path), "p", NULL, 503);
	f->model.lose_reply = false;
	snprintf(op, sizeof op, "%s", newest_id);
	// It was restarted, and settles what it had begun.
	f->model.fail_pause = ERR_UNAVAILABLE;
	f->model.box[0].state = SANDBOX_PAUSING;
	check_operation(f, op, "open");
	f->model.fail_pause = ERR_NONE;
	f->model.box[0].state = SANDBOX_PAUSED;
	check_operation(f, op, "done");
}

static json_t *reconcile_call(struct fixture *f, bool dry)
{
	return call(f, "POST", "/v1/reconcile", dry ? "{\"dry_run\":true}" : NULL, 200);
}

static bool has_action(json_t *j, const char *action, const char *id)
{
	json_t *a;
	size_t i;
	json_array_foreach (json_object_get(j, "actions"), i, a)
		if (str_eq(text(a, "action"), action) && str_eq(text(a, "id"), id))
			return true;
	return false;
}

static void test_reconcile_explains_itself(void **state)
{
	struct fixture *f = *state;
	char id[64], paused[64];
	create_box(f, NULL, id);
	create_box(f, NULL, paused);
	struct err e = {0};
	assert_int_equal(engine_catch_up(&f->control->engine, &e), 0); // or they lead to a look
	for (size_t i = 0; i < f->model.n; i++)
		if (str_eq(f->model.box[i].id, paused)) {
			f->model.box[i].state = SANDBOX_PAUSED; // without an event
			f->model.box[i].generation = 7;
		}
	f->model.box[f->model.n++] =
		(struct host_sandbox){.id = "istranger", .state = SANDBOX_RUNNING};
	_cleanup_json_ json_t *j = reconcile_call(f, true);
	assert_true(has_action(j, "none", id));
	assert_true(has_action(j, "mark_paused", paused));
	assert_true(has_action(j, "report_unknown", "istranger"));
	_cleanup_json_ json_t *did = reconcile_call(f, false);
	assert_true(has_action(did, "mark_paused", paused));
	_cleanup_json_ json_t *after = reconcile_call(f, true);
	assert_true(has_action(after, "none", paused));
	assert_true(has_action(after, "report_unknown", "istranger")); // kept
	f->model.volume_gone = true;
	_cleanup_json_ json_t *blind = reconcile_call(f, true);
	assert_true(has_action(blind, "unreachable", id));
	f->model.volume_gone = false;
	refused(f, "POST", "/v1/reconcile", "{\"dry\":true}", 400, "unknown field");
}

// The host finishes late what was given up here: the journal says that it may go.
static void test_refused_ones_are_removed(void **state)
{
	struct fixture *f = *state;
	f->model.fail_create = ERR_INTERNAL;
	refused(f, "POST", "/v1/sandboxes", NULL, 500, "ordered");
	f->model.fail_create = ERR_NONE;
	_cleanup_json_ json_t *ops = call(f, "GET", "/v1/operations", NULL, 200);
	json_t *op = json_array_get(json_object_get(ops, "operations"), 0);
	struct host_sandbox *s = &f->model.box[f->model.n++];
	*s = (struct host_sandbox){.state = SANDBOX_RUNNING};
	snprintf(s->id, sizeof s->id, "%s", text(op, "sandbox_id"));
	_cleanup_json_ json_t *j = reconcile_call(f, false);
	assert_true(has_action(j, "remove_unknown", s->id));
	assert_int_equal(s->state, SANDBOX_STOPPED);
}

// An end whose event came while the host still knew it, and one that the host has forgotten.
static void test_events_tell_the_cause(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	fixture_stop(f);
	model_end(&f->model, id, "guest_panic");
	model_forget(&f->model, id);
	fixture_start(f);
	_cleanup_json_ json_t *j = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_string_equal(text(j, "state"), "stopped");
	assert_string_equal(text(j, "cause"), "guest_panic");
}

static void test_keys_are_forgotten_after_a_day(void **state)
{
	struct fixture *f = *state;
	keyed_drop(f, "POST", "/v1/sandboxes", "k", NULL, 201);
	exec_sql(f, "UPDATE operations SET created_ns = created_ns - 86401000000000");
	keyed_drop(f, "POST", "/v1/sandboxes", "k", NULL, 201);
	assert_int_equal(f->model.n, 2);
	exec_sql(f, "UPDATE operations SET created_ns = created_ns - 604800000000000");
	engine_expire(&f->control->engine);
	_cleanup_json_ json_t *j = call(f, "GET", "/v1/operations", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(j, "operations")), 0);
}

// Full: the begin is refused before the host is told; nothing acknowledged goes.
static void test_full_database(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	db_lock(f->control->db);
	sqlite3 *db = db_handle(f->control->db);
	assert_int_equal(
		sqlite3_exec(db, "VACUUM; PRAGMA max_page_count = 1", NULL, NULL, NULL), SQLITE_OK);
	db_unlock(f->control->db);
	static char body[20000];
	snprintf(body, sizeof body, "{\"metadata\":{\"k\":\"%015000d\"}}", 1);
	refused(f, "POST", "/v1/sandboxes", body, 507, "make room");
	assert_int_equal(f->model.n, 1);
	db_lock(f->control->db);
	sqlite3_exec(db, "PRAGMA max_page_count = 1000000", NULL, NULL, NULL);
	db_unlock(f->control->db);
	call_drop(f, "GET", path_of(id, "", path), NULL, 200);
	call_drop(f, "POST", "/v1/sandboxes", body, 201);
}

static void test_readonly_database(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	db_lock(f->control->db);
	sqlite3 *db = db_handle(f->control->db);
	sqlite3_exec(db, "PRAGMA query_only = 1", NULL, NULL, NULL);
	db_unlock(f->control->db);
	refused(f, "POST", "/v1/sandboxes", NULL, 503, "readonly");
	refused(f, "POST", path_of(id, "/pause", path), NULL, 503, "readonly");
	assert_int_equal(f->model.box[0].state, SANDBOX_RUNNING);
	call_drop(f, "GET", path_of(id, "", path), NULL, 200);
	db_lock(f->control->db);
	sqlite3_exec(db, "PRAGMA query_only = 0", NULL, NULL, NULL);
	db_unlock(f->control->db);
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
}

static void test_locked_database(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], file[100];
	create_box(f, NULL, id);
	db_lock(f->control->db);
	sqlite3_busy_timeout(db_handle(f->control->db), 50);
	db_unlock(f->control->db);
	sqlite3 *other;
	snprintf(file, sizeof file, "%s/control.db", f->data);
	assert_int_equal(sqlite3_open(file, &other), SQLITE_OK);
	sqlite3_busy_timeout(other, 5000);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	refused(f, "POST", "/v1/sandboxes", NULL, 503, "another program holds it");
	assert_int_equal(f->model.n, 1);
	sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL);
	sqlite3_close(other);
	call_drop(f, "DELETE", path_of(id, "", path), NULL, 204);
}

// The effect cannot be noted after the host has done it: the operation stays open, and is finished
// when it can be.
static void make_readonly(void *ctx)
{
	struct fixture *f = ctx;
	db_lock(f->control->db);
	sqlite3_exec(db_handle(f->control->db), "PRAGMA query_only = 1", NULL, NULL, NULL);
	db_unlock(f->control->db);
}

static void test_end_that_cannot_be_noted(void **state)
{
	struct fixture *f = *state;
	char id[64], body[200];
	create_box(f, NULL, id);
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"s\"}", id);
	f->model.before_snapshot = make_readonly;
	f->model.ctx = f;
	keyed_drop(f, "POST", "/v1/snapshots", "k", body, 503);
	f->model.before_snapshot = NULL;
	assert_int_equal(f->model.n_snapshots, 1);
	fixture_stop(f);
	fixture_start(f);
	_cleanup_json_ json_t *op = operation(f, newest_id);
	assert_string_equal(text(op, "state"), "done");
	_cleanup_json_ json_t *j = keyed(f, "POST", "/v1/snapshots", "k", body, 201);
	assert_string_equal(text(j, "name"), "s");
	assert_int_equal(f->model.n_snapshots, 1);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	log_setup("test", LOG_LEVEL_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(test_every_change_is_an_operation),
		T(test_same_key_same_answer),
		T(test_headers),
		T(test_a_retry_can_succeed),
		T(test_no_scan_of_the_journal),
		T(test_bad_keys),
		T(test_same_key_at_once),
		T(test_lost_reply_is_made_up_for),
		T(test_host_that_is_still_at_it),
		T(test_reconcile_explains_itself),
		T(test_refused_ones_are_removed),
		T(test_events_tell_the_cause),
		T(test_keys_are_forgotten_after_a_day),
		T(test_full_database),
		T(test_readonly_database),
		T(test_locked_database),
		T(test_end_that_cannot_be_noted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
