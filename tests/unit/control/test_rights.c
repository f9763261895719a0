// SPDX-License-Identifier: Apache-2.0
// What a key may do, whose things it sees, and how much its owner may have.
#include "fixture.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <string.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "control/api/context.h"
#include "control/api/login.h"
#include "control/state/audit.h"
#include "control/routes.h"

// --- clients with keys of their own

static char *make_key(struct fixture *f, const char *body, char id[64])
{
	_cleanup_json_ json_t *j = call(f, "POST", "/v1/keys", body, 201);
	snprintf(id, 64, "%s", text(j, "id"));
	return strdup(text(j, "key"));
}

static struct http_client *client_of(struct fixture *f, const char *header)
{
	struct err e = {0};
	struct http_client *c;
	const char *const headers[] = {header, NULL};
	const struct http_client_config cc = {.unix_path = control_socket(f->control),
		.base_url = "http://localhost",
		.headers = headers};
	if (http_client_new(&cc, &c, &e) < 0)
		fail_msg("%s", e.text);
	return c;
}

static struct http_client *key_client(struct fixture *f, const char *key)
{
	_cleanup_free_ char *header = str_printf("X-API-Key: %s", key);
	return client_of(f, header);
}

static struct http_client *new_client(struct fixture *f, const char *body)
{
	char id[64];
	_cleanup_free_ char *key = make_key(f, body, id);
	return key_client(f, key);
}

// Calls of the fixture are this client's until it is given back.
static struct http_client *use(struct fixture *f, struct http_client *c)
{
	struct http_client *was = f->client;
	f->client = c;
	return was;
}

static json_t *call_as(struct fixture *f, struct http_client *c, const char *method,
	const char *path, const char *body, int want)
{
	struct http_client *was = use(f, c);
	json_t *j = call(f, method, path, body, want);
	use(f, was);
	return j;
}

static void drop_as(struct fixture *f, struct http_client *c, const char *method, const char *path,
	const char *body, int want)
{
	json_decref(call_as(f, c, method, path, body, want));
}

static void refused_as(struct fixture *f, struct http_client *c, const char *method,
	const char *path, const char *body, int want, const char *part)
{
	struct http_client *was = use(f, c);
	refused(f, method, path, body, want, part);
	use(f, was);
}

static void box_as(struct fixture *f, struct http_client *c, const char *body, char id[64])
{
	struct http_client *was = use(f, c);
	create_box(f, body, id);
	use(f, was);
}

static size_t count_as(struct fixture *f, struct http_client *c, const char *path, const char *list)
{
	_cleanup_json_ json_t *j = call_as(f, c, "GET", path, NULL, 200);
	return json_array_size(json_object_get(j, list));
}

#define _cleanup_client_ _cleanup_(http_client_freep)

// --- tests

static void test_scopes(void **state)
{
	struct fixture *f = *state;
	_cleanup_client_ struct http_client *one =
		new_client(f, "{\"name\":\"one\",\"scope\":\"sandboxes\"}");
	_cleanup_client_ struct http_client *read =
		new_client(f, "{\"name\":\"r\",\"scope\":\"read\"}");
	char id[64], path[200];
	box_as(f, one, "{}", id);
	// Each call by its flags.
	for (size_t i = 0; i < control_n_routes; i++) {
		const struct http_route *route = &control_routes[i];
		if (!(route->flags & ROUTE_ADMIN))
			continue;
		_cleanup_strbuf_ struct strbuf p = {0};
		for (const char *c = route->pattern; *c; c++)
			if (*c != '{' && *c != '}')
				strbuf_addc(&p, *c);
		refused_as(f, one, route->method, p.data, NULL, 403, "admin");
		refused_as(f, read, route->method, p.data, NULL, 403, "admin");
	}
	drop_as(f, read, "GET", path_of(id, "", path), NULL, 200);
	drop_as(f, read, "GET", "/v1/metrics", NULL, 200);
	refused_as(f, one, "GET", "/v1/metrics", NULL, 403, "admin");
	refused_as(f, read, "DELETE", path, NULL, 403, "only reads");
	refused_as(f, read, "POST", "/v1/sandboxes", "{}", 403, "only reads");
	refused_as(
		f, read, "POST", path_of(id, "/exec", path), "{\"cmd\":\"x\"}", 403, "only reads");
	drop_as(f, one, "DELETE", path_of(id, "", path), NULL, 204);
	refused(f, "POST", "/v1/keys", "{\"name\":\"x\",\"scope\":\"root\"}", 400, "scope");
	refused(f, "POST", "/v1/keys", "{\"name\":\"x\",\"owner\":\"a\\nb\"}", 400, "owner");
	refused(f, "POST", "/v1/keys", "{\"name\":\"x\",\"quota\":{\"cpus\":1}}", 400, "cpus");
	refused(f, "POST", "/v1/keys", "{\"name\":\"x\",\"quota\":{\"vcpus\":0}}", 400, "vcpus");
	refused(f, "POST", "/v1/keys", "{\"name\":\"x\",\"quota\":{\"vcpus\":\"1\"}}", 400,
		"vcpus");
	refused(f, "POST", "/v1/keys", "{\"name\":\"x\",\"expires_at\":\"2001-01-01T00:00:00Z\"}",
		400, "over already");
}

static void test_a_reader_sees_no_secret(void **state)
{
	struct fixture *f = *state;
	_cleanup_client_ struct http_client *read =
		new_client(f, "{\"name\":\"r\",\"scope\":\"read\"}");
	char id[64], path[200];
	create_box(f, "{}", id);
	_cleanup_json_ json_t *mine = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_int_equal(strlen(text(mine, "envd_token")), 64);
	const char *const paths[] = {"", "/wait?state=running", "/why"};
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		_cleanup_json_ json_t *j =
			call_as(f, read, "GET", path_of(id, paths[i], path), NULL, 200);
		_cleanup_free_ char *all = json_compact(j);
		assert_null(strstr(all, text(mine, "envd_token")));
	}
	_cleanup_json_ json_t *list = call_as(f, read, "GET", "/v1/sandboxes", NULL, 200);
	_cleanup_free_ char *all = json_compact(list);
	assert_non_null(strstr(all, id));
	assert_null(strstr(all, text(mine, "envd_token")));
}

static void test_owners_do_not_see_each_other(void **state)
{
	struct fixture *f = *state;
	_cleanup_client_ struct http_client *one =
		new_client(f, "{\"name\":\"one\",\"scope\":\"sandboxes\",\"owner\":\"red\"}");
	_cleanup_client_ struct http_client *same =
		new_client(f, "{\"name\":\"same\",\"scope\":\"sandboxes\",\"owner\":\"red\"}");
	_cleanup_client_ struct http_client *two =
		new_client(f, "{\"name\":\"two\",\"scope\":\"sandboxes\",\"owner\":\"blue\"}");
	_cleanup_client_ struct http_client *look =
		new_client(f, "{\"name\":\"look\",\"scope\":\"read\",\"owner\":\"blue\"}");
	char id[64], own[64], path[200], body[200];
	box_as(f, one, "{\"name\":\"web\"}", id);
	box_as(f, two, "{}", own);
	// Whatever is asked, it is not there.
	for (size_t i = 0; i < control_n_routes; i++) {
		const struct http_route *route = &control_routes[i];
		static const char prefix[] = "/v1/sandboxes/{id}";
		if (!str_starts(route->pattern, prefix))
			continue;
		path_of(id, route->pattern + sizeof prefix - 1, path);
		refused_as(f, two, route->method, path, NULL, 404, "no sandbox");
		refused_as(f, two, route->method,
			path_of("web", route->pattern + sizeof prefix - 1, path), NULL, 404,
			"no sandbox 'web'");
	}
	refused_as(f, look, "GET", path_of(id, "", path), NULL, 404, "no sandbox");
	drop_as(f, same, "GET", path, NULL, 200);
	call_drop(f, "GET", path, NULL, 200);
	assert_int_equal(count_as(f, one, "/v1/sandboxes", "sandboxes"), 1);
	assert_int_equal(count_as(f, two, "/v1/sandboxes?limit=1", "sandboxes"), 1);
	assert_int_equal(count_as(f, look, "/v1/sandboxes", "sandboxes"), 1);
	assert_int_equal(count_as(f, f->client, "/v1/sandboxes", "sandboxes"), 2);
	// What has happened, also of one that is gone.
	drop_as(f, one, "DELETE", path, NULL, 204);
	assert_int_equal(count_as(f, two, "/v1/operations", "operations"), 1);
	assert_int_equal(count_as(f, one, "/v1/operations", "operations"), 2);
	_cleanup_json_ json_t *events = call_as(f, two, "GET", "/v1/events", NULL, 200);
	json_t *event;
	size_t i, n = 0;
	json_array_foreach (json_object_get(events, "events"), i, event) {
		assert_string_equal(text(event, "sandbox"), own);
		n++;
	}
	assert_true(n > 0);
	snprintf(path, sizeof path, "/v1/events?sandbox=%s", id);
	refused_as(f, two, "GET", path, NULL, 404, "no sandbox");
	drop_as(f, one, "GET", path, NULL, 200);
	snprintf(path, sizeof path, "/v1/operations?sandbox=%s", id);
	refused_as(f, two, "GET", path, NULL, 404, "no sandbox");
	_cleanup_json_ json_t *all = call_as(f, one, "GET", path, NULL, 200);
	snprintf(path, sizeof path, "/v1/operations/%s",
		text(json_array_get(json_object_get(all, "operations"), 0), "id"));
	drop_as(f, one, "GET", path, NULL, 200);
	refused_as(f, two, "GET", path, NULL, 404, "no operation");
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"stolen\"}", id);
	refused_as(f, two, "POST", "/v1/snapshots", body, 404, "no sandbox");
	// After a restart of the server too.
	fixture_stop(f);
	fixture_start(f);
	_cleanup_client_ struct http_client *again =
		new_client(f, "{\"name\":\"again\",\"scope\":\"sandboxes\",\"owner\":\"blue\"}");
	assert_int_equal(count_as(f, again, "/v1/sandboxes", "sandboxes"), 1);
}

static void test_snapshots_are_their_owners(void **state)
{
	struct fixture *f = *state;
	_cleanup_client_ struct http_client *one =
		new_client(f, "{\"name\":\"one\",\"scope\":\"sandboxes\",\"owner\":\"red\"}");
	_cleanup_client_ struct http_client *two =
		new_client(f, "{\"name\":\"two\",\"scope\":\"sandboxes\",\"owner\":\"blue\"}");
	char id[64], own[64], body[200], path[200];
	box_as(f, one, "{}", id);
	box_as(f, two, "{}", own);
	// By whoever it is taken: its memory is its owner's.
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"warm\"}", id);
	call_drop(f, "POST", "/v1/snapshots", body, 201);
	assert_int_equal(count_as(f, one, "/v1/snapshots", "snapshots"), 1);
	assert_int_equal(count_as(f, two, "/v1/snapshots", "snapshots"), 0);
	assert_int_equal(count_as(f, two, "/v1/templates", "templates"), 1);
	static const char *const calls[][2] = {{"GET", "/v1/snapshots/warm"},
		{"GET", "/v1/snapshots/warm/check"}, {"POST", "/v1/snapshots/warm/rewarm"},
		{"DELETE", "/v1/snapshots/warm"}};
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		refused_as(f, two, calls[i][0], calls[i][1], NULL, 404, "no snapshot 'warm'");
	refused_as(f, two, "POST", "/v1/sandboxes", "{\"template\":\"warm\"}", 404, "no template");
	refused_as(f, two, "POST", path_of(own, "/resume", path), "{\"from\":\"warm\"}", 404,
		"no snapshot");
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"warm\",\"overwrite\":true}",
		own);
	refused_as(f, two, "POST", "/v1/snapshots", body, 409, "another owner");
	// Until the operator lets everybody have it.
	refused_as(f, one, "PATCH", "/v1/snapshots/warm", "{\"public\":true}", 403, "admin");
	call_drop(f, "PATCH", "/v1/snapshots/warm", "{\"public\":true}", 200);
	drop_as(f, two, "POST", "/v1/sandboxes", "{\"template\":\"warm\"}", 201);
	refused_as(f, two, "DELETE", "/v1/snapshots/warm", NULL, 403, "not yours");
	drop_as(f, one, "DELETE", "/v1/snapshots/warm", NULL, 204);
}

static void test_quotas(void **state)
{
	struct fixture *f = *state;
	char key_id[64], a[64], b[64], path[200], key_path[200];
	_cleanup_free_ char *key = make_key(f,
		"{\"name\":\"q\",\"scope\":\"sandboxes\",\"quota\":{\"sandboxes\":3,\"vcpus\":2}}",
		key_id);
	snprintf(key_path, sizeof key_path, "/v1/keys/%s", key_id);
	_cleanup_client_ struct http_client *q = key_client(f, key);
	box_as(f, q, "{\"vcpus\":1}", a);
	box_as(f, q, "{\"vcpus\":1}", b);
	refused_as(f, q, "POST", "/v1/sandboxes", "{\"vcpus\":1}", 429, "2 vcpus");
	refused_as(f, q, "POST", path_of(a, "/fork", path), "{\"count\":1}", 429, "vcpus");
	// A paused one has its disk alone, and must find room to go on.
	drop_as(f, q, "POST", path_of(a, "/pause", path), NULL, 200);
	char c[64];
	box_as(f, q, "{\"vcpus\":1}", c);
	refused_as(f, q, "POST", path_of(a, "/resume", path), NULL, 429, "vcpus");
	call_drop(f, "POST", path, NULL, 200); // the operator's key has no quota
	refused_as(f, q, "POST", "/v1/sandboxes", "{\"vcpus\":1}", 429, "3 sandboxes");
	// What is counted is what is there: also after a restart, and a sandbox that is gone.
	http_client_freep(&q);
	fixture_stop(f);
	fixture_start(f);
	q = key_client(f, key);
	_cleanup_json_ json_t *j = call(f, "GET", key_path, NULL, 200);
	json_t *usage = json_object_get(j, "usage");
	assert_int_equal(json_integer_value(json_object_get(usage, "sandboxes")), 3);
	assert_int_equal(json_integer_value(json_object_get(usage, "vcpus")), 3);
	drop_as(f, q, "DELETE", path_of(b, "", path), NULL, 204);
	drop_as(f, q, "DELETE", path_of(c, "", path), NULL, 204);
	box_as(f, q, "{\"vcpus\":1}", b);
	// A change of the quota counts at once.
	call_drop(f, "PATCH", key_path, "{\"quota\":{\"vcpus\":null,\"memory_mb\":1}}", 200);
	refused_as(f, q, "POST", "/v1/sandboxes", "{}", 429, "MiB of memory");
	call_drop(f, "PATCH", key_path, "{\"quota\":{\"disk_mb\":1,\"memory_mb\":null}}", 200);
	refused_as(f, q, "POST", "/v1/sandboxes", "{}", 429, "MiB of disk");
}

static void test_creates_in_a_minute(void **state)
{
	struct fixture *f = *state;
	_cleanup_client_ struct http_client *c = new_client(
		f, "{\"name\":\"q\",\"scope\":\"sandboxes\",\"quota\":{\"creates_per_minute\":2}}");
	char id[64];
	box_as(f, c, "{}", id);
	box_as(f, c, "{}", id);
	struct err e = {0};
	struct http_response r = {0};
	const struct http_call create = {.method = "POST",
		.path = "/v1/sandboxes",
		.body = "{}",
		.body_len = 2,
		.keep_header = {"Retry-After"}};
	assert_int_equal(http_client_call(c, &create, &r, &e), 0);
	assert_int_equal(r.status, 429);
	assert_in_range(strtoul(r.header[0], NULL, 10), 2, 60);
	http_response_done(&r);
}

static void test_the_way_in_stays(void **state)
{
	struct fixture *f = *state;
	char id[64], other[64], path[200], body[200], at[32];
	_cleanup_json_ json_t *list = call(f, "GET", "/v1/keys", NULL, 200);
	snprintf(id, sizeof id, "%s", text(json_array_get(json_object_get(list, "keys"), 0), "id"));
	free(make_key(f, "{\"name\":\"x\",\"scope\":\"sandboxes\"}", other));
	clock_format_rfc3339(clock_realtime_ns() + 3600 * NSEC_PER_SEC, at);
	snprintf(body, sizeof body, "{\"name\":\"guest\",\"expires_at\":\"%s\"}", at);
	free(make_key(f, body, other));
	// Neither a key of another scope nor one that ends is a way in.
	snprintf(path, sizeof path, "/v1/keys/%s", id);
	refused(f, "DELETE", path, NULL, 409, "last key");
	refused(f, "PATCH", path, "{\"scope\":\"read\"}", 409, "last key");
	snprintf(body, sizeof body, "{\"expires_at\":\"%s\"}", at);
	refused(f, "PATCH", path, body, 409, "last key");
	snprintf(path, sizeof path, "/v1/keys/%s", other);
	call_drop(f, "PATCH", path, "{\"expires_at\":null}", 200);
	snprintf(path, sizeof path, "/v1/keys/%s", id);
	call_drop(f, "PATCH", path, "{\"scope\":\"read\"}", 200);
	refused(f, "DELETE", path, NULL, 403, "admin");
}

static void test_keys_end(void **state)
{
	struct fixture *f = *state;
	char id[64];
	_cleanup_free_ char *key = make_key(f, "{\"name\":\"x\"}", id);
	struct key_info info;
	struct err e = {0};
	assert_int_equal(keys_get(f->control->keys, id, &info, &e), 0);
	info.expires_ns = clock_realtime_ns() - 1;
	assert_int_equal(keys_update(f->control->keys, &info, &e), 0);
	_cleanup_client_ struct http_client *c = key_client(f, key);
	refused_as(f, c, "GET", "/v1/sandboxes", NULL, 401, "expired");
	fixture_stop(f);
	fixture_start(f);
	_cleanup_client_ struct http_client *again = key_client(f, key);
	refused_as(f, again, "GET", "/v1/sandboxes", NULL, 401, "expired");
}

static void test_schemes(void **state)
{
	struct fixture *f = *state;
	const char *key = f->key + strlen("X-API-Key: ");
	static const char *const good[] = {"x-api-key: %s", "Authorization: Bearer %s",
		"authorization: bearer %s", "Authorization: BEARER   %s"};
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		char header[200];
		snprintf(header, sizeof header, good[i], key);
		_cleanup_client_ struct http_client *c = client_of(f, header);
		drop_as(f, c, "GET", "/v1/sandboxes", NULL, 200);
	}
}

// What of a header's value goes on to a guest.
static void test_keys_in_headers(void **state)
{
	struct fixture *f = *state;
	struct control *c = f->control;
	const char *key = f->key + strlen("X-API-Key: ");
	static const char *const with[] = {"%s", "Bearer %s", "bearer %s", "BEARER  %s", "Token %s",
		"token=%s", "Bearer x, Bearer %s", "Digest username=\"%s\"", " %s", "\t%s ", "a:%s",
		"%s:"};
	char value[300];
	for (size_t i = 0; i < ARRAY_SIZE(with); i++) {
		snprintf(value, sizeof value, with[i], key);
		assert_true(login_has_key(c, value));
		_cleanup_strbuf_ struct strbuf b64 = {0};
		str_base64_encode(&b64, value, strlen(value));
		snprintf(value, sizeof value, "Basic %s", b64.data);
		assert_true(login_has_key(c, value));
		snprintf(value, sizeof value, "bASIC   %s", b64.data);
		assert_true(login_has_key(c, value));
	}
	// Another server's, and one that was revoked: they look like keys.
	assert_true(login_has_key(c, "Bearer e2b_0123456789abcdef0123456789abcdef01234567"));
	static const char *const without[] = {"", "Bearer", "Bearer abc",
		"Basic cm9vdDo=", "Basic !!", "Digest username=\"x\"", "e2b_0123"};
	for (size_t i = 0; i < ARRAY_SIZE(without); i++)
		assert_false(login_has_key(c, without[i]));
}

static void test_a_key_from_outside(void **state)
{
	struct fixture *f = *state;
	char path[200];
	struct err e = {0};
	snprintf(path, sizeof path, "%s/control.db", f->data);
	// As another program does it, while the server runs.
	extern const struct embed control_migrations[];
	_cleanup_(db_closep) struct db *db = NULL;
	_cleanup_(keys_freep) struct keys *keys = NULL;
	struct key_info info = {.name = "rescue", .scope = KEY_ADMIN};
	char key[API_KEY_SIZE];
	assert_int_equal(db_open(path, control_migrations, &db, &e), 0);
	assert_int_equal(keys_load(db, &keys, &e), 0);
	keys_generate(key);
	assert_int_equal(keys_add(keys, key, &info, &e), 0);
	_cleanup_client_ struct http_client *c = key_client(f, key);
	drop_as(f, c, "GET", "/v1/keys", NULL, 200);
}

static void rotate(struct fixture *f, const char *id, bool told, char token[80])
{
	char path[200];
	_cleanup_json_ json_t *j = call(f, "POST", path_of(id, "/token:rotate", path), NULL, 200);
	snprintf(token, 80, "%s", text(j, "envd_token"));
	assert_int_equal(json_is_true(json_object_get(j, "agent_told")), told);
	_cleanup_json_ json_t *now = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_string_equal(text(now, "envd_token"), token);
}

static void test_tokens_are_made_anew(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200], first[80], second[80], third[80];
	create_box(f, "{}", id);
	_cleanup_json_ json_t *j = call(f, "GET", path_of(id, "", path), NULL, 200);
	snprintf(first, sizeof first, "%s", text(j, "envd_token"));
	rotate(f, id, true, second);
	assert_string_not_equal(first, second);
	assert_string_equal(f->model.last_token, second);
	// Over a restart it is the new one; of an agent that knows it nobody is asked again.
	unsigned n = f->model.tokens_set;
	fixture_stop(f);
	fixture_start(f);
	_cleanup_json_ json_t *again = call(f, "GET", path, NULL, 200);
	assert_string_equal(text(again, "envd_token"), second);
	assert_int_equal(f->model.tokens_set, n);
	// The host cannot tell the agent, and the server ends: the new one counts, and is told
	// then.
	f->model.fail_token = ERR_UNAVAILABLE;
	rotate(f, id, false, third);
	assert_string_not_equal(second, third);
	f->model.fail_token = ERR_NONE;
	fixture_stop(f);
	fixture_start(f);
	assert_string_equal(f->model.last_token, third);
	_cleanup_json_ json_t *later = call(f, "GET", path, NULL, 200);
	assert_string_equal(text(later, "envd_token"), third);
	// A paused one has it from its resume on.
	char fourth[80];
	n = f->model.tokens_set;
	call_drop(f, "POST", path_of(id, "/pause", path), NULL, 200);
	rotate(f, id, false, fourth);
	call_drop(f, "POST", path_of(id, "/resume", path), NULL, 200);
	assert_string_equal(f->model.last_token, fourth);
	fixture_stop(f);
	fixture_start(f);
	assert_int_equal(f->model.tokens_set, n);
	// A child has one of its own.
	_cleanup_json_ json_t *forked =
		call(f, "POST", path_of(id, "/fork", path), "{\"count\":1}", 200);
	json_t *child = json_array_get(json_object_get(forked, "children"), 0);
	assert_string_not_equal(text(child, "envd_token"), fourth);
	refused(f, "POST", path_of("inosuch", "/token:rotate", path), NULL, 404, "no sandbox");
	refused(f, "POST", path_of(id, "/token:rotate", path), "{\"x\":1}", 400, "x");
}

static void test_audit(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	_cleanup_client_ struct http_client *one =
		new_client(f, "{\"name\":\"one\",\"scope\":\"sandboxes\",\"owner\":\"red\"}");
	_cleanup_client_ struct http_client *none = key_client(f, "nobody");
	_cleanup_client_ struct http_client *forged =
		client_of(f, "X-Request-Id: a\",\"outcome\":\"done\xff");
	box_as(f, one, "{}", id);
	drop_as(f, one, "GET", path_of(id, "", path), NULL, 200); // changes nothing
	refused_as(f, one, "GET", "/v1/audit", NULL, 403, "admin");
	drop_as(f, none, "DELETE", path, NULL, 401);
	drop_as(f, forged, "DELETE", "/v1/sandboxes/%0a%7b%22seq%22:1%7d", NULL, 401);
	drop_as(f, one, "DELETE", path, NULL, 204);
	_cleanup_json_ json_t *j = call(f, "GET", "/v1/audit", NULL, 200);
	json_t *lines = json_object_get(j, "audit"), *line;
	static const struct {
		const char *call, *key, *outcome;
		int status;
	} want[] = {{"/v1/keys", "admin", "done", 201}, {"/v1/sandboxes", "one", "done", 201},
		{"/v1/audit", "one", "refused", 403},
		{"/v1/sandboxes/{id}", "(none)", "refused", 401},
		{"/v1/sandboxes/{id}", "(none)", "refused", 401},
		{"/v1/sandboxes/{id}", "one", "done", 204}};
	assert_int_equal(json_array_size(lines), ARRAY_SIZE(want));
	size_t i;
	json_array_foreach (lines, i, line) {
		assert_int_equal(json_integer_value(json_object_get(line, "seq")), i + 1);
		assert_string_equal(text(line, "call"), want[i].call);
		assert_string_equal(text(json_object_get(line, "key"), "name"), want[i].key);
		assert_string_equal(text(line, "outcome"), want[i].outcome);
		assert_int_equal(
			json_integer_value(json_object_get(line, "status")), want[i].status);
	}
	assert_string_equal(text(json_array_get(lines, 5), "target"), id);
	assert_int_equal(strlen(text(json_array_get(lines, 5), "operation")), 36);
	// The file: as many lines, of its owner alone, and no key in it.
	struct stat st;
	_cleanup_strbuf_ struct strbuf all = {0};
	snprintf(path, sizeof path, "%s/audit.log", f->data);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &all), 0);
	size_t n = 0;
	for (const char *p = all.data; (p = strchr(p, '\n')); p++)
		n++;
	assert_int_equal(n, ARRAY_SIZE(want));
	assert_null(strstr(all.data, "e2b_"));
	// Pages, and on after a restart behind a line that was torn.
	_cleanup_json_ json_t *page = call(f, "GET", "/v1/audit?limit=4", NULL, 200);
	assert_string_equal(text(page, "next_cursor"), "4");
	fixture_stop(f);
	int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_int_equal(write(fd, "{\"seq\":7,\"at", 12), 12);
	close(fd);
	fixture_start(f);
	call_drop(f, "POST", "/v1/keys", "{\"name\":\"later\"}", 201);
	_cleanup_json_ json_t *rest = call(f, "GET", "/v1/audit?cursor=4", NULL, 200);
	lines = json_object_get(rest, "audit");
	assert_int_equal(json_array_size(lines), 3);
	assert_int_equal(json_integer_value(json_object_get(json_array_get(lines, 2), "seq")), 7);
	refused(f, "GET", "/v1/audit?cursor=8", NULL, 410, "begin again");
	refused(f, "GET", "/v1/audit?cursor=x", NULL, 400, "cursor");
}

static int count_line(void *ctx, json_t *line)
{
	++*(size_t *)ctx;
	return 0;
}

static void test_audit_rotates(void **state)
{
	struct fixture *f = *state;
	_cleanup_(audit_closep) struct audit *a = NULL;
	struct err e = {0};
	uint64_t first, last;
	size_t n = 0;
	assert_int_equal(audit_open(f->dir, 1000, &a, &e), 0);
	for (int i = 0; i < 200; i++)
		audit_write(a, json_pack("{s:i}", "i", i));
	audit_range(a, &first, &last);
	assert_int_equal(last, 200);
	assert_true(first > 1);
	assert_int_equal(audit_read(a, 0, 0, SIZE_MAX, count_line, &n, &e), 0);
	assert_int_equal(n, last - first + 1);
	a = audit_close(a);
	assert_int_equal(audit_open(f->dir, 1000, &a, &e), 0);
	uint64_t again, next;
	audit_range(a, &again, &next);
	assert_int_equal(again, first);
	assert_int_equal(next, last);
	// Refusals are for strangers to make.
	uint64_t suppressed = 0;
	size_t taken = 0;
	for (int i = 0; i < 1000; i++)
		taken += audit_takes_refusal(a, &suppressed);
	assert_in_range(taken, 40, 200);
	assert_int_equal(audit_counts(a).refusals, 1000);
	assert_int_equal(audit_counts(a).suppressed, 1000 - taken);
}

int main(void)
{
#define T(x) cmocka_unit_test_setup_teardown(x, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(test_scopes),
		T(test_a_reader_sees_no_secret),
		T(test_owners_do_not_see_each_other),
		T(test_snapshots_are_their_owners),
		T(test_quotas),
		T(test_creates_in_a_minute),
		T(test_the_way_in_stays),
		T(test_keys_end),
		T(test_schemes),
		T(test_keys_in_headers),
		T(test_a_key_from_outside),
		T(test_tokens_are_made_anew),
		T(test_audit),
		T(test_audit_rotates),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
