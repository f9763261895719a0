// SPDX-License-Identifier: Apache-2.0
// What a user may change of a sandbox and what it is called, waiting for a state, and what is
// refused in a query.
#include "fixture.h"
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/context.h"
#include "control/api/login.h"
#include "control/api/calls.h"
#include "control/routes.h"
#include "base/json.h"

// A client with a key of its own, in the place of the fixture's.
struct other {
	char header[96];
	struct http_client *client, *before;
};

static void other_key(struct fixture *f, struct other *o)
{
	_cleanup_json_ json_t *j = call(f, "POST", "/v1/keys", "{\"name\":\"other\"}", 201);
	snprintf(o->header, sizeof o->header, "X-API-Key: %s", text(j, "key"));
	const char *const headers[] = {o->header, NULL};
	const struct http_client_config cc = {.unix_path = control_socket(f->control),
		.base_url = "http://localhost",
		.headers = headers};
	struct err e = {0};
	assert_int_equal(http_client_new(&cc, &o->client, &e), 0);
	o->before = f->client;
}

static void clear_call(struct fixture *f, const char *path, const char *part)
{
	_cleanup_json_ json_t *j = call(f, "GET", path, NULL, 404);
	json_t *error = json_object_get(j, "error");
	assert_non_null(strstr(text(error, "message"), part));
	assert_null(json_object_get(error, "cause"));
}

static void called(struct fixture *f, const char *name, const char *id)
{
	char path[200];
	_cleanup_json_ json_t *j = call(f, "GET", path_of(name, "", path), NULL, 200);
	assert_string_equal(text(j, "id"), id);
}

static void test_a_name_is_as_good_as_the_id(void **state)
{
	struct fixture *f = *state;
	char path[200], taken[120];
	_cleanup_json_ json_t *j = call(f, "POST", "/v1/sandboxes", "{\"name\":\"web\"}", 201);
	const char *id = text(j, "id");
	assert_string_equal(text(j, "name"), "web");
	snprintf(path, sizeof path, "http://{port}-%s.localhost:7070", id);
	assert_string_equal(text(j, "url"), path);
	called(f, "web", id);
	snprintf(taken, sizeof taken, "the name 'web' is taken by sandbox %s", id);
	refused(f, "POST", "/v1/sandboxes", "{\"name\":\"web\"}", 409, taken);
	assert_int_equal(f->model.n, 1);

	call_drop(f, "GET", "/v1/sandboxes/web/logs", NULL, 200);
	call_drop(f, "POST", "/v1/sandboxes/web/timeout", "{\"timeout_sec\":60}", 200);
	call_drop(f, "POST", "/v1/sandboxes/web/pause", NULL, 200);
	call_drop(f, "GET", "/v1/sandboxes/web/wait?state=paused", NULL, 200);
	call_drop(f, "POST", "/v1/sandboxes/web/resume", NULL, 200);
	call_drop(f, "PATCH", "/v1/sandboxes/web", "{\"metadata\":{\"a\":\"1\"}}", 200);
	_cleanup_json_ json_t *forked =
		call(f, "POST", "/v1/sandboxes/web/fork", "{\"count\":2}", 200);
	json_t *children = json_object_get(forked, "children");
	for (size_t i = 0; i < 2; i++)
		assert_true(json_is_null(json_object_get(json_array_get(children, i), "name")));
	_cleanup_json_ json_t *snap =
		call(f, "POST", "/v1/snapshots", "{\"sandbox_id\":\"web\",\"name\":\"warm\"}", 201);
	assert_string_equal(text(snap, "sandbox_id"), id);
	_cleanup_json_ json_t *ops = call(f, "GET", "/v1/operations?sandbox=web", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(ops, "operations")), 7);
	_cleanup_json_ json_t *events = call(f, "GET", "/v1/events?sandbox=web", NULL, 200);
	json_t *list = json_object_get(events, "events");
	assert_true(json_array_size(list) > 0);
	assert_string_equal(text(json_array_get(list, 0), "sandbox"), id);
	_cleanup_json_ json_t *named = call(f, "GET", "/v1/sandboxes?name=web", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(named, "sandboxes")), 1);
	refused(f, "GET", "/v1/events?sandbox=wob", NULL, 404, "no sandbox 'wob'");
	refused(f, "GET", "/v1/operations?sandbox=wob", NULL, 404, "no sandbox 'wob'");
	call_drop(f, "GET", "/v1/events?sandbox=i00000000000000000000", NULL, 200);

	// After the end it is still found, and free for the next, which is meant from then on.
	call_drop(f, "DELETE", "/v1/sandboxes/web", NULL, 204);
	called(f, "web", id);
	char second[64], third[64];
	create_box(f, "{\"name\":\"web\"}", second);
	called(f, "web", second);
	fixture_stop(f);
	fixture_start(f);
	called(f, "web", second);
	refused(f, "POST", "/v1/sandboxes", "{\"name\":\"web\"}", 409, second);
	call_drop(f, "DELETE", "/v1/sandboxes/web", NULL, 204);
	called(f, "web", second); // the newest of the two
	create_box(f, "{\"name\":\"web\"}", third);
	call_drop(f, "PATCH", "/v1/sandboxes/web", "{\"name\":null}", 200);
	called(f, "web", second);
}

static void test_a_name_is_one_keys(void **state)
{
	struct fixture *f = *state;
	struct other o;
	char mine[64], theirs[64], path[200];
	create_box(f, "{\"name\":\"web\"}", mine);
	other_key(f, &o);
	f->client = o.client;
	clear_call(f, "/v1/sandboxes/web", "no sandbox 'web'");
	create_box(f, "{\"name\":\"web\"}", theirs);
	called(f, "web", theirs);
	call_drop(f, "GET", path_of(mine, "", path), NULL, 200);
	_cleanup_json_ json_t *both = call(f, "GET", "/v1/sandboxes?name=web", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(both, "sandboxes")), 2);
	f->client = o.before;
	called(f, "web", mine);
	http_client_free(o.client);
}

static void test_forms_of_names(void **state)
{
	struct fixture *f = *state;
	static const char *const bad[] = {"", "-a", ".a", "_a", "A", "a/b", "a b", "\\u00e9",
		"i00000000000000000000",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	static const char *const good[] = {"a", "0", "a.b_c-d", "i0000000000000000000",
		"i000000000000000000000", "j00000000000000000000",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	char id[64], body[200];
	create_box(f, NULL, id);
	char path[200];
	path_of(id, "", path);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(body, sizeof body, "{\"name\":\"%s\"}", bad[i]);
		refused(f, "POST", "/v1/sandboxes", body, 400, "name: ");
		refused(f, "PATCH", path, body, 400, "name: ");
	}
	refused(f, "POST", "/v1/sandboxes", "{\"name\":7}", 400, "name: must be a string");
	refused(f, "PATCH", path, "{\"name\":7}", 400, "name: must be a string");
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		snprintf(body, sizeof body, "{\"name\":\"%s\"}", good[i]);
		call_drop(f, "PATCH", path, body, 200);
		called(f, good[i], id);
		if (i)
			clear_call(f, path_of(good[i - 1], "", body), "no sandbox");
	}
}

static json_t *with_key(struct fixture *f, const char *method, const char *path, const char *body,
	const char *key, int want)
{
	char header[80];
	snprintf(header, sizeof header, "Idempotency-Key: %s", key);
	const char *const headers[] = {header, NULL};
	const struct http_call c = {.method = method,
		.path = path,
		.body = body,
		.body_len = body ? strlen(body) : 0,
		.headers = headers,
		.timeout_ms = 20000};
	struct http_response r = {0};
	struct err e = {0};
	if (http_client_call(f->client, &c, &r, &e) < 0)
		fail_msg("%s %s: %s", method, path, e.text);
	if (r.status != want)
		fail_msg("%s %s: %d: %s", method, path, r.status, r.body.data ? r.body.data : "");
	json_t *j = http_response_json(&r);
	http_response_done(&r);
	return j;
}

static void test_a_replay_is_the_same_answer(void **state)
{
	struct fixture *f = *state;
	_cleanup_json_ json_t *a =
		with_key(f, "POST", "/v1/sandboxes", "{\"name\":\"web\"}", "k1", 201);
	_cleanup_json_ json_t *b =
		with_key(f, "POST", "/v1/sandboxes", "{\"name\":\"web\"}", "k1", 201);
	assert_true(json_equal(a, b));
	assert_int_equal(f->model.n, 1);
	_cleanup_json_ json_t *c = with_key(f, "PATCH", "/v1/sandboxes/web",
		"{\"name\":\"new\",\"on_timeout\":\"pause\"}", "k2", 200);
	assert_string_equal(text(c, "name"), "new");
	assert_string_equal(text(c, "on_timeout"), "pause");
	// By now nothing is called web.
	_cleanup_json_ json_t *d = with_key(f, "PATCH", "/v1/sandboxes/web",
		"{\"name\":\"new\",\"on_timeout\":\"pause\"}", "k2", 200);
	assert_true(json_equal(c, d));
	json_decref(with_key(f, "DELETE", "/v1/sandboxes/new", NULL, "k3", 204));
	json_decref(with_key(f, "DELETE", "/v1/sandboxes/new", NULL, "k3", 204));
	json_decref(with_key(f, "PATCH", "/v1/sandboxes/new", "{}", "k4", 404));
}

static void test_patch(void **state)
{
	struct fixture *f = *state;
	char path[200], id[64];
	create_box(f, "{\"metadata\":{\"a\":\"1\",\"b\":\"2\"}}", id);
	path_of(id, "", path);
	_cleanup_json_ json_t *j = call(f, "PATCH", path,
		"{\"metadata\":{\"a\":null,\"c\":\"3\",\"none\":null},\"on_timeout\":\"pause\"}",
		200);
	_cleanup_free_ char *map = json_dumps(json_object_get(j, "metadata"), JSON_SORT_KEYS);
	assert_string_equal(map, "{\"b\": \"2\", \"c\": \"3\"}");
	assert_string_equal(text(j, "on_timeout"), "pause");
	assert_string_equal(text(j, "state"), "running");
	assert_int_equal(f->model.box[0].on_timeout, ON_TIMEOUT_PAUSE);
	// A paused one too, over a restart, and what is not named stays.
	path_of(id, "/pause", path);
	call_drop(f, "POST", path, NULL, 200);
	fixture_stop(f);
	fixture_start(f);
	path_of(id, "", path);
	_cleanup_json_ json_t *again = call(f, "PATCH", path, "{}", 200);
	assert_true(json_equal(json_object_get(j, "metadata"), json_object_get(again, "metadata")));
	assert_string_equal(text(again, "on_timeout"), "pause");
	assert_string_equal(text(again, "state"), "paused");
	_cleanup_json_ json_t *cleared =
		call(f, "PATCH", path, "{\"metadata\":null,\"on_timeout\":\"kill\"}", 200);
	assert_int_equal(json_object_size(json_object_get(cleared, "metadata")), 0);
	assert_int_equal(f->model.box[0].on_timeout, ON_TIMEOUT_KILL);

	// All of it or nothing.
	f->model.fail_on_timeout = ERR_CONFLICT;
	refused(f, "PATCH", path,
		"{\"name\":\"x\",\"metadata\":{\"m\":\"1\"},\"on_timeout\":\"pause\"}", 409,
		"ordered");
	f->model.fail_on_timeout = ERR_NONE;
	_cleanup_json_ json_t *same = call(f, "GET", path, NULL, 200);
	assert_true(json_is_null(json_object_get(same, "name")));
	assert_int_equal(json_object_size(json_object_get(same, "metadata")), 0);
	assert_string_equal(text(same, "on_timeout"), "kill");
	call_drop(f, "PATCH", path, "{\"name\":\"x\"}", 200); // it was not kept from anybody
	char other[64];
	create_box(f, "{\"name\":\"y\"}", other);
	refused(f, "PATCH", path, "{\"name\":\"y\",\"on_timeout\":\"pause\"}", 409, other);
	assert_int_equal(f->model.box[0].on_timeout, ON_TIMEOUT_KILL);

	_cleanup_free_ char *big = calloc(1, 20000);
	snprintf(big, 20000, "{\"metadata\":{\"k\":\"%09000d\"}}", 1);
	call_drop(f, "PATCH", path, big, 200);
	snprintf(big, 20000, "{\"metadata\":{\"l\":\"%09000d\"}}", 1);
	refused(f, "PATCH", path, big, 400, "metadata: larger than 16384 bytes");
	static const struct {
		const char *body, *part;
	} bad[] = {
		{"{\"nmae\":\"x\"}", "unknown field 'nmae'"},
		{"{\"metadata\":[]}", "metadata: must be an object"},
		{"{\"metadata\":{\"a\":1}}", "metadata: the value of 'a'"},
		{"{\"metadata\":{\"a\":{}}}", "metadata: the value of 'a'"},
		{"{\"metadata\":{\"a\":\"x\\u0000\"}}", "NUL"},
		{"{\"on_timeout\":null}", "on_timeout: must be"},
		{"{\"on_timeout\":\"explode\"}", "on_timeout: must be"},
		{"{\"on_timeout\":1}", "on_timeout: must be"},
		{"[]", "must be a JSON object"},
		{"", "request body"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refused(f, "PATCH", path, bad[i].body, 400, bad[i].part);
	refused(f, "PATCH", "/v1/sandboxes/nosuch", "{}", 404, "no sandbox 'nosuch'");
	call_drop(f, "DELETE", path, NULL, 204);
	refused(f, "PATCH", path, "{}", 404, "it has ended (killed)");
	_cleanup_json_ json_t *ops = call(f, "GET", "/v1/operations?limit=2", NULL, 200);
	json_t *op = json_array_get(json_object_get(ops, "operations"), 1);
	assert_string_equal(text(op, "kind"), "update");
}

static void test_the_end_is_told_with_its_cause(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	model_end(&f->model, id, "guest_panic");
	static const struct {
		const char *method, *rest, *body;
	} calls[] = {
		{"POST", "/pause", NULL},
		{"POST", "/resume", NULL},
		{"POST", "/fork", NULL},
		{"POST", "/exec", "{\"cmd\":\"true\"}"},
		{"POST", "/timeout", "{\"timeout_sec\":5}"},
		{"PATCH", "", "{}"},
	};
	call_drop(f, "GET", path_of(id, "/wait?state=stopped", path), NULL, 200);
	for (int restart = 0; restart < 2; restart++) {
		for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
			_cleanup_json_ json_t *j = call(f, calls[i].method,
				path_of(id, calls[i].rest, path), calls[i].body, 404);
			json_t *error = json_object_get(j, "error");
			uint64_t at;
			assert_string_equal(text(error, "code"), "not_found");
			assert_string_equal(text(error, "cause"), "guest_panic");
			assert_non_null(strstr(text(error, "message"), id));
			assert_int_equal(clock_parse_rfc3339(text(error, "stopped_at"), &at), 0);
		}
		_cleanup_json_ json_t *j =
			call(f, "GET", path_of(id, "/wait?state=running,paused", path), NULL, 409);
		assert_string_equal(text(json_object_get(j, "error"), "code"), "conflict");
		assert_string_equal(text(json_object_get(j, "error"), "cause"), "guest_panic");
		fixture_stop(f);
		fixture_start(f);
	}
}

// A change whose answer was lost keeps others from the row and from the name, over a restart too.
static void test_a_lost_change_keeps_its_name(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	if (f->host_server)
		skip(); // the model's own error is not a lost connection's there
	create_box(f, NULL, id);
	path_of(id, "", path);
	f->model.lose_reply = true;
	call_drop(f, "PATCH", path, "{\"name\":\"web\",\"on_timeout\":\"pause\"}", 503);
	for (int restart = 0; restart < 2; restart++) {
		refused(f, "POST", "/v1/sandboxes", "{\"name\":\"web\"}", 409, id);
		call_drop(f, "PATCH", path, "{\"metadata\":{\"a\":\"1\"}}", 503);
		fixture_stop(f);
		fixture_start(f);
	}
	f->model.lose_reply = false;
	call_drop(f, "PATCH", path, "{\"metadata\":{\"a\":\"1\"}}", 200);
	_cleanup_json_ json_t *j = call(f, "GET", "/v1/sandboxes/web", NULL, 200);
	assert_string_equal(text(j, "id"), id);
	assert_string_equal(text(j, "on_timeout"), "pause");
	assert_string_equal(text(json_object_get(j, "metadata"), "a"), "1");
	assert_int_equal(f->model.box[0].on_timeout, ON_TIMEOUT_PAUSE);
}

#define AT_ONCE 8

struct at_once {
	struct fixture *f;
	const char *method, *path;
	char body[64];
	int status;
	pthread_t thread;
};

static void *call_at_once(void *arg)
{
	struct at_once *a = arg;
	const char *const headers[] = {a->f->key, NULL};
	const struct http_client_config cc = {.unix_path = control_socket(a->f->control),
		.base_url = "http://localhost",
		.headers = headers};
	const struct http_call c = {.method = a->method,
		.path = a->path,
		.body = a->body,
		.body_len = strlen(a->body),
		.timeout_ms = 20000};
	struct http_client *client;
	struct http_response r = {0};
	struct err e = {0};
	if (http_client_new(&cc, &client, &e) == 0 && http_client_call(client, &c, &r, &e) == 0)
		a->status = r.status;
	http_response_done(&r);
	http_client_free(client);
	return NULL;
}

static size_t all_at_once(
	struct fixture *f, struct at_once *a, const char *method, const char *path, int good)
{
	size_t n = 0;
	for (size_t i = 0; i < AT_ONCE; i++) {
		a[i].f = f;
		a[i].method = method;
		a[i].path = path;
		assert_int_equal(pthread_create(&a[i].thread, NULL, call_at_once, &a[i]), 0);
	}
	for (size_t i = 0; i < AT_ONCE; i++) {
		pthread_join(a[i].thread, NULL);
		n += a[i].status == good;
		if (a[i].status != good && a[i].status != 409)
			fail_msg("%s %s: %d", method, a[i].body, a[i].status);
	}
	return n;
}

static void test_changes_at_once(void **state)
{
	struct fixture *f = *state;
	struct at_once a[AT_ONCE] = {0};
	char id[64], path[200], key[8];
	for (size_t i = 0; i < AT_ONCE; i++)
		snprintf(a[i].body, sizeof a[i].body, "{\"name\":\"web\"}");
	assert_int_equal(all_at_once(f, a, "POST", "/v1/sandboxes", 201), 1);
	assert_int_equal(f->model.n, 1);
	create_box(f, NULL, id);
	path_of(id, "", path);
	for (size_t i = 0; i < AT_ONCE; i++)
		snprintf(a[i].body, sizeof a[i].body,
			"{\"metadata\":{\"k%zu\":\"1\"},\"on_timeout\":\"%s\"}", i,
			i % 2 ? "kill" : "pause");
	size_t n = all_at_once(f, a, "PATCH", path, 200);
	assert_true(n >= 1);
	_cleanup_json_ json_t *j = call(f, "GET", path, NULL, 200);
	json_t *map = json_object_get(j, "metadata");
	assert_int_equal(json_object_size(map), n);
	for (size_t i = 0; i < AT_ONCE; i++) {
		snprintf(key, sizeof key, "k%zu", i);
		assert_int_equal(json_object_get(map, key) != NULL, a[i].status == 200);
	}
	assert_string_equal(text(j, "on_timeout"),
		f->model.box[1].on_timeout == ON_TIMEOUT_PAUSE ? "pause" : "kill");
}

// --- wait

struct waiter {
	struct fixture *f;
	char path[200];
	int want;
	pthread_t thread;
	json_t *got;
};

static void *wait_call(void *arg)
{
	struct waiter *w = arg;
	const char *const headers[] = {w->f->key, NULL};
	const struct http_client_config cc = {.unix_path = control_socket(w->f->control),
		.base_url = "http://localhost",
		.headers = headers};
	struct http_client *client;
	struct http_response r = {0};
	struct err e = {0};
	const struct http_call c = {.method = "GET", .path = w->path, .timeout_ms = 60000};
	if (http_client_new(&cc, &client, &e) == 0 && http_client_call(client, &c, &r, &e) == 0 &&
		r.status == w->want)
		w->got = http_response_json(&r);
	http_response_done(&r);
	http_client_free(client);
	return NULL;
}

static void until_waiting(struct fixture *f, unsigned n)
{
	while (f->control->waits != n)
		clock_sleep_ns(NSEC_PER_MSEC);
}

static void start(struct fixture *f, struct waiter *w, const char *id, const char *query, int want)
{
	*w = (struct waiter){.f = f, .want = want};
	path_of(id, query, w->path);
	unsigned n = f->control->waits;
	assert_int_equal(pthread_create(&w->thread, NULL, wait_call, w), 0);
	until_waiting(f, n + 1);
}

static json_t *join(struct waiter *w)
{
	pthread_join(w->thread, NULL);
	if (!w->got)
		fail_msg("%s: no answer, or not %d", w->path, w->want);
	return w->got;
}

static void test_wait(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	struct waiter w[3];
	create_box(f, NULL, id);
	_cleanup_json_ json_t *now =
		call(f, "GET", path_of(id, "/wait?state=running", path), NULL, 200);
	assert_string_equal(text(now, "state"), "running");
	// Half a minute without a sign of the event would be the time-out of the client.
	start(f, &w[0], id, "/wait?state=paused&timeout_sec=3600", 200);
	start(f, &w[1], id, "/wait?state=stopped,paused&timeout_sec=3600", 200);
	start(f, &w[2], id, "/wait?state=error&timeout_sec=3600", 409);
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
	for (int i = 0; i < 2; i++) {
		_cleanup_json_ json_t *j = join(&w[i]);
		assert_string_equal(text(j, "id"), id);
		assert_string_equal(text(j, "state"), "paused");
	}
	call_drop(f, "DELETE", path_of(id, "", path), NULL, 204);
	_cleanup_json_ json_t *ended = join(&w[2]);
	assert_string_equal(text(json_object_get(ended, "error"), "cause"), "killed");
	assert_int_equal(f->control->waits, 0);

	create_box(f, NULL, id);
	refused(f, "GET", path_of(id, "/wait?state=paused&timeout_sec=1", path), NULL, 504,
		"is running, and was not paused within 1 s");
	start(f, &w[0], id, "/wait?state=stopped&timeout_sec=3600", 200);
	model_end(&f->model, id, "vmm_crash");
	_cleanup_json_ json_t *crashed = join(&w[0]);
	assert_string_equal(text(crashed, "cause"), "vmm_crash");
	static const struct {
		const char *query, *part;
	} bad[] = {
		{"/wait", "state: is missing"},
		{"/wait?state=", "state: ''"},
		{"/wait?state=paused,", "state: ''"},
		{"/wait?state=all", "state: 'all'"},
		{"/wait?state=pasued", "state: 'pasued'"},
		{"/wait?state=paused&timeout_sec=0", "timeout_sec"},
		{"/wait?state=paused&timeout_sec=3601", "timeout_sec"},
		{"/wait?state=paused&timeout=1", "did you mean 'timeout_sec'?"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad) - 1; i++)
		refused(f, "GET", path_of(id, bad[i].query, path), NULL, 400, bad[i].part);
	refused(f, "GET", "/v1/sandboxes/nosuch/wait?state=paused", NULL, 404, "nosuch");
}

static void test_waiting_ends_with_client_and_server(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	const struct http_call c = {.method = "GET",
		.path = path_of(id, "/wait?state=paused&timeout_sec=3600", path),
		.timeout_ms = 100};
	struct http_response r = {0};
	struct err e = {0};
	assert_true(http_client_call(f->client, &c, &r, &e) < 0);
	http_response_done(&r);
	until_waiting(f, 0); // its thread is free again
	f->control->waits = WAIT_CALLS_MAX;
	refused(f, "GET", path_of(id, "/wait?state=paused", path), NULL, 429, "512 calls wait");
	f->control->waits = 0;
	struct waiter w;
	start(f, &w, id, "/wait?state=paused&timeout_sec=3600", 503);
	fixture_stop(f);
	_cleanup_json_ json_t *j = join(&w);
	assert_string_equal(text(json_object_get(j, "error"), "code"), "unavailable");
	fixture_start(f);
}

// --- queries

static void test_queries_are_read_strictly(void **state)
{
	struct fixture *f = *state;
	refused(f, "GET", "/v1/sandboxes?metdata=a%3Db", NULL, 400,
		"query: unknown name 'metdata' (did you mean 'metadata'?)");
	refused(f, "GET", "/v1/sandboxes?x=1", NULL, 400,
		"query: unknown name 'x': this call knows state template name metadata limit "
		"cursor");
	refused(f, "GET", "/v1/sandboxes?limit=1&limit=2", NULL, 400,
		"query: 'limit' is given twice");
	refused(f, "GET", "/v1/sandboxes?state=", NULL, 400, "state: ''");
	refused(f, "GET", "/v1/sandboxes?state=running,", NULL, 400, "state: ''");
	refused(f, "GET", "/v1/sandboxes?state=runing", NULL, 400, "state: 'runing'");
	for (size_t i = 0; i < control_n_routes; i++) {
		const struct http_route *r = &control_routes[i];
		char path[200];
		if (r->flags & ROUTE_EDGE)
			continue;
		snprintf(path, sizeof path, "%s?nosuch=1", r->pattern);
		refused(f, r->method, path, NULL, 400, "query: unknown name 'nosuch'");
	}
	call_drop(f, "GET", "/v1/sandboxes?limit=1&&state=all&", NULL, 200);
}

static void test_events_since(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], at[32];
	create_box(f, NULL, id);
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
	call_drop(f, "POST", path_of(id, "/resume", path), NULL, 200);
	_cleanup_json_ json_t *all = call(f, "GET", "/v1/events", NULL, 200);
	json_t *list = json_object_get(all, "events");
	assert_true(json_array_size(list) >= 3);
	snprintf(path, sizeof path, "/v1/events?since=%s", text(json_array_get(list, 0), "at"));
	_cleanup_json_ json_t *same = call(f, "GET", path, NULL, 200);
	assert_true(json_equal(same, all));
	snprintf(path, sizeof path, "/v1/events?limit=1&since=%s",
		text(json_array_get(list, 0), "at"));
	_cleanup_json_ json_t *one = call(f, "GET", path, NULL, 200);
	assert_int_equal(json_array_size(json_object_get(one, "events")), 1);
	clock_format_rfc3339(clock_realtime_ns() + NSEC_PER_SEC, at);
	snprintf(path, sizeof path, "/v1/events?since=%s", at);
	_cleanup_json_ json_t *none = call(f, "GET", path, NULL, 200);
	assert_int_equal(json_array_size(json_object_get(none, "events")), 0);
	assert_true(json_equal(
		json_object_get(none, "next_cursor"), json_object_get(all, "next_cursor")));
	refused(f, "GET", "/v1/events?since=2026-11-24T03:00:00Z&cursor=1", NULL, 400, "since: ");
	refused(f, "GET", "/v1/events?since=yesterday", NULL, 400, "since: must be a time");
	refused(f, "GET", "/v1/events?since=", NULL, 400, "since: must be a time");
}

static void test_tail_of_the_console(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	_cleanup_free_ char *log = calloc(1, 400000);
	size_t n = 0;
	for (int i = 0; i < 20000; i++)
		n += (size_t)snprintf(log + n, 400000 - n, "line %d\n", i);
	f->model.log = log;
	static const struct {
		const char *query;
		int first;
	} cases[] = {{"/logs?tail=1", 19999}, {"/logs?tail=3", 19997}, {"/logs?tail=10000", 10000},
		{"/logs", 0}};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char first[40];
		_cleanup_json_ json_t *j =
			call(f, "GET", path_of(id, cases[i].query, path), NULL, 200);
		snprintf(first, sizeof first, "line %d\n", cases[i].first);
		assert_string_equal(json_string_value(j), strstr(log, first));
	}
	// A last line that is not ended is one; fewer than asked for are all; none is none.
	f->model.log = "\na\n\nb";
	_cleanup_json_ json_t *two = call(f, "GET", path_of(id, "/logs?tail=2", path), NULL, 200);
	assert_string_equal(json_string_value(two), "\nb");
	_cleanup_json_ json_t *four = call(f, "GET", path_of(id, "/logs?tail=4", path), NULL, 200);
	assert_string_equal(json_string_value(four), "\na\n\nb");
	_cleanup_json_ json_t *five = call(f, "GET", path_of(id, "/logs?tail=5", path), NULL, 200);
	assert_string_equal(json_string_value(five), "\na\n\nb");
	f->model.log = "";
	_cleanup_json_ json_t *empty = call(f, "GET", path_of(id, "/logs?tail=5", path), NULL, 200);
	assert_string_equal(json_string_value(empty), "");
	static const char *const bad[] = {"0", "10001", "x", "", "-1"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(path, sizeof path, "/v1/sandboxes/%s/logs?tail=%s", id, bad[i]);
		refused(f, "GET", path, NULL, 400, "tail: must be an integer from 1 to 10000");
	}
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	log_setup("test", LOG_LEVEL_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(test_a_name_is_as_good_as_the_id),
		T(test_a_name_is_one_keys),
		T(test_forms_of_names),
		T(test_a_replay_is_the_same_answer),
		T(test_patch),
		T(test_the_end_is_told_with_its_cause),
		T(test_a_lost_change_keeps_its_name),
		T(test_changes_at_once),
		T(test_wait),
		T(test_waiting_ends_with_client_and_server),
		T(test_queries_are_read_strictly),
		T(test_events_since),
		T(test_tail_of_the_console),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
