// SPDX-License-Identifier: Apache-2.0
// The REST API over its socket, on a model of the host and of the agent's client.
#include "fixture.h"
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "control/api/context.h"
#include "control/api/login.h"
#include "control/routes.h"
#include "agentclient/client.h"
#include "base/json.h"

// --- the agent's client, as exec sees it: programs by name

static struct {
	char fed[65536];
	size_t n_fed;
	bool closed, killed, hangs, lost;
	unsigned greeted;
	char base_url[80], token[80], user[32], cwd[64];
	uint64_t timeout_ms;
	enum err_code kill_answer; // ERR_NONE: it was killed
	void (*meanwhile)(void);   // what breaks the connection of "broken"
} agent;

int envd_unary(struct http_client *c, const struct envd_target *t, const char *method, json_t *req,
	int timeout_ms, json_t **ret, struct err *e)
{
	if (strcmp(method, "process.Process/SendInput") == 0) {
		const char *b64 =
			json_string_value(json_object_get(json_object_get(req, "input"), "stdin"));
		_cleanup_strbuf_ struct strbuf raw = {0};
		assert_int_equal(str_base64_decode(&raw, b64, strlen(b64)), 0);
		memcpy(agent.fed + agent.n_fed, raw.data, raw.len);
		agent.n_fed += raw.len;
	}
	__atomic_store_n(
		&agent.closed, agent.closed || str_ends(method, "/CloseStdin"), __ATOMIC_SEQ_CST);
	agent.killed |= str_ends(method, "/SendSignal");
	if (str_ends(method, "/SendSignal") && agent.kill_answer)
		return err_set(e, agent.kill_answer, "SendSignal");
	return 0;
}

int envd_call_greet(struct http_client *c, const struct envd_target *t, const char *hostname,
	int timeout_ms, struct err *e)
{
	agent.greeted++;
	agent.lost = false;
	return str_starts(t->base_url, "http://") && *t->token && *hostname ? 0 : -EINVAL;
}

int envd_call_ports(struct http_client *c, const struct envd_target *t, uint16_t port,
	int timeout_ms, bool *ret_loopback, bool *ret_outside, struct err *e)
{
	return err_set(e, ERR_BAD_GATEWAY, "no guest here");
}

int envd_call_oom(struct http_client *c, const struct envd_target *t,
	const struct envd_oom_report *told, int timeout_ms, struct envd_oom_report *ret,
	struct err *e)
{
	return err_set(e, ERR_BAD_GATEWAY, "it does not answer");
}

int envd_run(struct http_client *c, const struct envd_target *t, const struct envd_process *p,
	struct envd_exit *ret, struct err *e)
{
	snprintf(agent.base_url, sizeof agent.base_url, "%s", t->base_url);
	snprintf(agent.token, sizeof agent.token, "%s", t->token);
	snprintf(agent.user, sizeof agent.user, "%s", t->user ? t->user : "");
	snprintf(agent.cwd, sizeof agent.cwd, "%s", p->cwd ? p->cwd : "");
	agent.timeout_ms = p->timeout_ms;
	const char *what = p->shell ? p->shell : p->cmd;
	if (agent.lost || (t->user && str_eq(t->user, "stranger")))
		return err_set(e, ERR_UNAUTHENTICATED, "start of the process: status 401");
	if (str_eq(what, "missing"))
		return err_set(e, ERR_INVALID, "no program 'missing'");
	if (p->on_start(p->ctx, 77) != 0)
		return err_set(e, ERR_CANCELED, "canceled");
	*ret = (struct envd_exit){.exited = true, .status = "exit status 0"};
	if (str_eq(what, "hang")) {
		__atomic_store_n(&agent.hangs, true, __ATOMIC_SEQ_CST);
		while (p->tick(p->ctx) == 0)
			clock_sleep_ns(5 * NSEC_PER_MSEC);
		return err_set(e, ERR_CANCELED, "canceled");
	}
	if (str_eq(what, "cat"))
		while (!__atomic_load_n(&agent.closed, __ATOMIC_SEQ_CST))
			clock_sleep_ns(NSEC_PER_MSEC);
	if (str_eq(what, "cat"))
		p->on_data(p->ctx, 1, agent.fed, agent.n_fed);
	if (str_eq(what, "binary"))
		p->on_data(p->ctx, 1, "\xff\0x", 3);
	if (str_eq(what, "flood")) {
		static char block[1 << 20];
		memset(block, 'x', sizeof block);
		for (int i = 0; i < 9; i++)
			p->on_data(p->ctx, 2, block, sizeof block);
	}
	if (str_starts(what, "escapes")) {
		// Bytes of which JSON makes six each.
		static char block[1 << 20];
		memset(block, 1, sizeof block);
		int r = 0;
		for (int i = 0; i < 9 && r == 0; i++)
			r = p->on_data(p->ctx, i < 8 ? 1 : 2, block, sizeof block);
		if (r < 0)
			return err_set(e, ERR_CANCELED, "canceled");
	}
	if (str_eq(what, "/bin/args"))
		for (int i = 0; p->args[i]; i++)
			p->on_data(p->ctx, 1, p->args[i], strlen(p->args[i]));
	if (str_eq(what, "long")) {
		p->on_data(p->ctx, 1, "so f\xc3\xa9\xc3", 7);
		return err_set(e, ERR_TIMEOUT, "killed");
	}
	if (str_eq(what, "broken")) {
		p->on_data(p->ctx, 1, "so far", 6);
		agent.meanwhile();
		return err_set(e, ERR_BAD_GATEWAY, "POST /process.Process/Start: Recv failure");
	}
	if (str_eq(what, "background")) {
		assert_true(p->end_on_exit);
		ret->output_open = true;
	}
	if (str_eq(what, "shot"))
		*ret = (struct envd_exit){.exit_code = -1, .status = "signal: killed"};
	if (str_eq(what, "hungry"))
		*ret = (struct envd_exit){.exit_code = -1,
			.status = "signal: killed",
			.oom = {.process = "python3", .rss_bytes = 430 << 20, .count = 1}};
	if (str_eq(what, "fail"))
		*ret = (struct envd_exit){
			.exit_code = 3, .exited = true, .status = "exit status 3"};
	return 0;
}

static int setup(void **state)
{
	memset(&agent, 0, sizeof agent);
	return fixture_setup(state);
}

// --- tests

static void test_authentication(void **state)
{
	struct fixture *f = *state;
	const struct http_client_config cc = {
		.unix_path = control_socket(f->control), .base_url = "http://localhost"};
	struct http_client *with_key = f->client;
	struct err e = {0};
	assert_int_equal(http_client_new(&cc, &f->client, &e), 0);
	call_drop(f, "GET", "/v1/health", NULL, 200);
	for (size_t i = 0; i < control_n_routes; i++) {
		const struct http_route *r = &control_routes[i];
		if (r->flags & ROUTE_EDGE)
			refused(f, "GET", "/_edge/auth", NULL, 404, "no such path");
		else if (!(r->flags & ROUTE_PUBLIC))
			refused(f, r->method, r->pattern, NULL, 401, "no API key");
	}
	http_client_free(f->client);

	char bearer[96];
	snprintf(bearer, sizeof bearer, "Authorization: bearer %s", f->key + strlen("X-API-Key: "));
	static const char *const wrong[] = {"X-API-Key: e2b_0000", NULL};
	const char *const good[] = {bearer, NULL};
	const struct http_client_config bad_cfg = {.unix_path = control_socket(f->control),
		.base_url = "http://localhost",
		.headers = wrong};
	assert_int_equal(http_client_new(&bad_cfg, &f->client, &e), 0);
	refused(f, "GET", "/v1/sandboxes", NULL, 401, "unknown API key");
	http_client_free(f->client);
	const struct http_client_config good_cfg = {.unix_path = control_socket(f->control),
		.base_url = "http://localhost",
		.headers = good};
	assert_int_equal(http_client_new(&good_cfg, &f->client, &e), 0);
	call_drop(f, "GET", "/v1/sandboxes", NULL, 200);
	http_client_free(f->client);
	f->client = with_key;
}

static void test_create_get_delete(void **state)
{
	struct fixture *f = *state;
	char path[200];
	_cleanup_json_ json_t *j = call(f, "POST", "/v1/sandboxes",
		"{\"vcpus\":2,\"memory_mb\":256,\"disk_mb\":1024,\"timeout_sec\":60,"
		"\"env\":{\"A\":\"b\"},\"metadata\":{\"team\":\"x\"}}",
		201);
	const char *id = text(j, "id");
	assert_true(id_is_sandbox(id));
	assert_string_equal(text(j, "state"), "running");
	assert_string_equal(text(j, "template"), "base");
	assert_int_equal(json_integer_value(json_object_get(j, "vcpus")), 2);
	assert_int_equal(json_integer_value(json_object_get(j, "memory_mb")), 256);
	assert_string_equal(text(json_object_get(j, "metadata"), "team"), "x");
	assert_int_equal(strlen(text(j, "envd_token")), 64);
	assert_string_equal(text(j, "envd_token"), f->model.last_token);
	assert_string_equal(f->model.last_env, "{\"A\":\"b\"}");
	assert_true(json_is_null(json_object_get(j, "stopped_at")));
	assert_true(json_is_null(json_object_get(j, "cause")));
	uint64_t created, ends;
	assert_int_equal(clock_parse_rfc3339(text(j, "created_at"), &created), 0);
	assert_int_equal(clock_parse_rfc3339(text(j, "ends_at"), &ends), 0);
	assert_in_range(ends - created, 59 * NSEC_PER_SEC, 61 * NSEC_PER_SEC);

	_cleanup_json_ json_t *again = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_true(json_equal(j, again));
	_cleanup_json_ json_t *log = call(f, "GET", path_of(id, "/logs", path), NULL, 200);
	assert_non_null(strstr(json_string_value(log), id));

	call_drop(f, "DELETE", path_of(id, "", path), NULL, 204);
	refused(f, "DELETE", path_of(id, "", path), NULL, 404, id);
	_cleanup_json_ json_t *gone = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_string_equal(text(gone, "state"), "stopped");
	assert_string_equal(text(gone, "cause"), "killed");
	assert_true(json_is_string(json_object_get(gone, "stopped_at")));
	refused(f, "GET", "/v1/sandboxes/nosuch", NULL, 404, "no sandbox 'nosuch'");
	refused(f, "GET", "/v1/sandboxes/..%2F..", NULL, 404, "no sandbox '../..'");
}

static void test_bad_input(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *long_name = calloc(1, 400);
	_cleanup_free_ char *big = calloc(1, 20000);
	snprintf(long_name, 400, "{\"template\":\"%0300d\"}", 1);
	snprintf(big, 20000, "{\"metadata\":{\"k\":\"%017000d\"}}", 1);
	const struct {
		const char *body;
		int status;
		const char *part;
	} cases[] = {
		{"[]", 400, "must be a JSON object"},
		{"nonsense", 400, "not valid JSON"},
		{"{\"vcpus\":0}", 400, "vcpus: must be an integer from 1 to 32"},
		{"{\"vcpus\":1000}", 400, "vcpus: must be an integer from 1 to 32"},
		{"{\"vcpus\":\"1\"}", 400, "vcpus"},
		{"{\"memory_mb\":127}", 400, "memory_mb: template 'base' needs at least 128"},
		{"{\"memory_mb\":99999999}", 400, "memory_mb"},
		{"{\"disk_mb\":1023}", 400, "disk_mb: template 'base' needs at least 1024"},
		{"{\"timeout_sec\":2592001}", 400, "timeout_sec"},
		{"{\"timeout_sec\":-1}", 400, "timeout_sec"},
		{"{\"cold\":1}", 400, "cold"},
		{"{\"on_timeout\":\"explode\"}", 400, "on_timeout"},
		{"{\"template\":\"a/b\"}", 400, "template"},
		{"{\"template\":\"../base\"}", 400, "template"},
		{"{\"template\":\"\"}", 400, "template"},
		{"{\"template\":\"nosuch\"}", 404, "no template 'nosuch'"},
		{long_name, 400, "template: longer than 63 bytes"},
		{"{\"env\":{\"A=B\":\"c\"}}", 400, "env: 'A=B'"},
		{"{\"env\":{\"A\":1}}", 400, "env: the value of 'A'"},
		{"{\"metadata\":[]}", 400, "metadata"},
		{big, 400, "metadata: larger than 16384 bytes"},
		{"{\"cpu\":1}", 400, "unknown field 'cpu'"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		refused(f, "POST", "/v1/sandboxes", cases[i].body, cases[i].status, cases[i].part);
	_cleanup_free_ char *huge = malloc((1u << 20) + 10);
	memset(huge, ' ', (1u << 20) + 9);
	huge[(1u << 20) + 9] = '\0';
	refused(f, "POST", "/v1/sandboxes", huge, 413, "larger than 1048576");
	assert_int_equal(f->model.n, 0);
	_cleanup_json_ json_t *all = call(f, "GET", "/v1/sandboxes?state=all", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(all, "sandboxes")), 0);
	refused(f, "PUT", "/v1/sandboxes", "{}", 405, "allowed: GET, POST");
}

static void test_failed_create_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	f->model.fail_create = ERR_LIMIT;
	refused(f, "POST", "/v1/sandboxes", "{}", 429, "ordered failure");
	f->model.fail_create = ERR_NONE;
	assert_int_equal(rows_count(f->control->rows), 0);
	fixture_stop(f);
	fixture_start(f);
	assert_int_equal(rows_count(f->control->rows), 0);
}

static void test_list(void **state)
{
	struct fixture *f = *state;
	char id[7][64], path[200];
	for (int i = 0; i < 7; i++) {
		char body[128];
		snprintf(body, sizeof body, "{\"metadata\":{\"n\":\"%d\",\"odd\":\"%d\"}}", i,
			i % 2);
		create_box(f, body, id[i]);
	}
	call_drop(f, "DELETE", path_of(id[3], "", path), NULL, 204);
	// Pages of two, newest first, without the stopped one.
	static const int want[] = {6, 5, 4, 2, 1, 0};
	char cursor[64] = "";
	size_t seen = 0;
	for (int page = 0; page < 3; page++) {
		snprintf(path, sizeof path, "/v1/sandboxes?limit=2&cursor=%s", cursor);
		_cleanup_json_ json_t *j = call(f, "GET", path, NULL, 200);
		json_t *list = json_object_get(j, "sandboxes");
		assert_int_equal(json_array_size(list), 2);
		for (size_t i = 0; i < 2; i++)
			assert_string_equal(text(json_array_get(list, i), "id"), id[want[seen++]]);
		assert_true(json_is_null(json_object_get(j, "next_cursor")) == (page == 2));
		snprintf(cursor, sizeof cursor, "%s", text(j, "next_cursor"));
	}
	static const struct {
		const char *query;
		size_t n;
	} filters[] = {
		{"?state=all", 7},
		{"?state=stopped", 1},
		{"?state=running,stopped", 7},
		{"?state=paused", 0},
		{"?metadata=odd%3D1", 2},
		{"?metadata=odd%3D0%26n%3D4", 1},
		{"?metadata=odd%3D0%26n%3D5", 0},
		{"?template=base", 6},
		{"?template=other", 0},
	};
	for (size_t i = 0; i < ARRAY_SIZE(filters); i++) {
		snprintf(path, sizeof path, "/v1/sandboxes%s", filters[i].query);
		_cleanup_json_ json_t *j = call(f, "GET", path, NULL, 200);
		if (json_array_size(json_object_get(j, "sandboxes")) != filters[i].n)
			fail_msg("%s", path);
	}
	refused(f, "GET", "/v1/sandboxes?limit=0", NULL, 400, "limit");
	refused(f, "GET", "/v1/sandboxes?limit=101", NULL, 400, "limit");
	refused(f, "GET", "/v1/sandboxes?state=odd", NULL, 400, "state");
	refused(f, "GET", "/v1/sandboxes?name=", NULL, 400, "name");
	refused(f, "GET", "/v1/sandboxes?template=", NULL, 400, "template");
	refused(f, "GET", "/v1/sandboxes?cursor=x", NULL, 400, "cursor");
	refused(f, "GET", "/v1/sandboxes?metadata=x", NULL, 400, "metadata");
}

static void test_list_over_many_rows(void **state)
{
	struct fixture *f = *state;
	char id[64], last[64] = "", path[200];
	for (int i = 0; i < 230; i++) {
		create_box(f, i % 50 ? "{}" : "{\"metadata\":{\"rare\":\"1\"}}", id);
		if (i == 0)
			snprintf(last, sizeof last, "%s", id);
	}
	_cleanup_json_ json_t *j =
		call(f, "GET", "/v1/sandboxes?metadata=rare%3D1&limit=5", NULL, 200);
	json_t *list = json_object_get(j, "sandboxes");
	assert_int_equal(json_array_size(list), 5);
	assert_string_equal(text(json_array_get(list, 4), "id"), last);
	assert_true(json_is_null(json_object_get(j, "next_cursor")));
	size_t total = 0;
	char cursor[64] = "";
	for (int page = 0; page < 3; page++) {
		snprintf(path, sizeof path, "/v1/sandboxes?cursor=%s", cursor);
		_cleanup_json_ json_t *p = call(f, "GET", path, NULL, 200);
		total += json_array_size(json_object_get(p, "sandboxes"));
		snprintf(cursor, sizeof cursor, "%s", text(p, "next_cursor"));
	}
	assert_int_equal(total, 230);
	assert_string_equal(cursor, "(none)");
}

static void test_timeout(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, "{\"timeout_sec\":0}", id);
	_cleanup_json_ json_t *before = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_true(json_is_null(json_object_get(before, "ends_at")));
	_cleanup_json_ json_t *j =
		call(f, "POST", path_of(id, "/timeout", path), "{\"timeout_sec\":600}", 200);
	uint64_t ends;
	assert_int_equal(clock_parse_rfc3339(text(j, "ends_at"), &ends), 0);
	assert_in_range(ends, clock_realtime_ns() + 595 * NSEC_PER_SEC,
		clock_realtime_ns() + 601 * NSEC_PER_SEC);
	refused(f, "POST", path, "{}", 400, "timeout_sec: is missing");
	refused(f, "POST", path, "", 400, "request body");
	refused(f, "POST", "/v1/sandboxes/nosuch/timeout", "{\"timeout_sec\":1}", 404, "nosuch");
}

static void test_resolvers(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *dns, *error;
	} bad[] = {{"[]", "one to three"}, {"\"1.1.1.1\"", "dns"}, {"[1]", "one to three"},
		{"[\"localhost\"]", "'localhost'"}, {"[\"1.1.1.1,2.2.2.2\"]", "'1.1.1.1,2.2.2.2'"},
		{"[\"\"]", "one to three"}, {"{}", "dns"}, {"[\"1.1.1.1\\n\"]", "one to three"},
		{"[\"1.1.1.1\",\"2.2.2.2\",\"3.3.3.3\",\"4.4.4.4\"]", "one to three"}};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char body[128];
		snprintf(body, sizeof body, "{\"dns\":%s}", bad[i].dns);
		refused(f, "POST", "/v1/sandboxes", body, 400, bad[i].error);
	}
	_cleanup_json_ json_t *own =
		call(f, "POST", "/v1/sandboxes", "{\"dns\":[\"10.0.0.53\",\"9.9.9.9\"]}", 201);
	assert_string_equal(f->model.last_create.dns, "10.0.0.53,9.9.9.9");
	_cleanup_free_ char *list = json_dumps(json_object_get(own, "dns"), JSON_COMPACT);
	assert_string_equal(list, "[\"10.0.0.53\",\"9.9.9.9\"]");
	_cleanup_json_ json_t *none = call(f, "POST", "/v1/sandboxes", "{}", 201);
	assert_string_equal(f->model.last_create.dns, "");
	assert_int_equal(json_array_size(json_object_get(none, "dns")), 1);
}

static void test_ends_are_noticed_and_kept(void **state)
{
	struct fixture *f = *state;
	char panicked[64], lost[64], running[64], path[200];
	create_box(f, NULL, panicked);
	create_box(f, NULL, lost);
	create_box(f, NULL, running);
	model_end(&f->model, panicked, "guest_panic");
	model_forget(&f->model, lost);
	fixture_stop(f);
	fixture_start(f);
	_cleanup_json_ json_t *a = call(f, "GET", path_of(panicked, "", path), NULL, 200);
	assert_string_equal(text(a, "state"), "stopped");
	assert_string_equal(text(a, "cause"), "guest_panic");
	_cleanup_json_ json_t *b = call(f, "GET", path_of(lost, "", path), NULL, 200);
	assert_string_equal(text(b, "cause"), "host_lost");
	_cleanup_json_ json_t *c = call(f, "GET", path_of(running, "", path), NULL, 200);
	assert_string_equal(text(c, "state"), "running");
	assert_int_equal(strlen(text(c, "envd_token")), 64);
	// What is noted does not change when the host forgets it later.
	model_forget(&f->model, panicked);
	fixture_stop(f);
	fixture_start(f);
	_cleanup_json_ json_t *d = call(f, "GET", path_of(panicked, "", path), NULL, 200);
	assert_true(json_equal(a, d));
	// After an hour they are gone.
	struct err e = {0};
	assert_int_equal(rows_expire(f->control->rows, clock_realtime_ns() + 1, &e), 0);
	assert_int_equal(rows_count(f->control->rows), 1);
	refused(f, "GET", path_of(panicked, "", path), NULL, 404, panicked);
}

static void test_silent_host_loses_nothing(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	f->model.fail_get = ERR_UNAVAILABLE;
	_cleanup_json_ json_t *u = call(f, "GET", path_of(id, "", path), NULL, 200);
	assert_string_equal(text(u, "state"), "unreachable");
	look_and_apply(f);
	// A host without its volume does not know anything: that is no proof either.
	f->model.fail_get = ERR_NOT_FOUND;
	f->model.volume_gone = true;
	look_and_apply(f);
	_cleanup_json_ json_t *v = call(f, "GET", path, NULL, 200);
	assert_string_equal(text(v, "state"), "unreachable");
	_cleanup_json_ json_t *lists = call(f, "GET", "/v1/sandboxes?state=unreachable", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(lists, "sandboxes")), 1);
	_cleanup_json_ json_t *h = call(f, "GET", "/v1/health", NULL, 200);
	assert_string_equal(text(h, "status"), "degraded");
	assert_string_equal(text(h, "reason"), "not mounted");
	f->model.fail_get = ERR_NONE;
	f->model.volume_gone = false;
	look_and_apply(f);
	_cleanup_json_ json_t *j = call(f, "GET", path, NULL, 200);
	assert_string_equal(text(j, "state"), "running");
}

static void test_unfinished_create(void **state)
{
	struct fixture *f = *state;
	// As a server that was killed leaves them: one made by the host, one not.
	struct err e = {0};
	static const char *const ids[] = {"imade", "inever"};
	for (int i = 0; i < 2; i++) {
		_cleanup_json_ json_t *none = json_object();
		const struct row_new n = {
			.id = ids[i], .template = "base", .metadata = none, .env = none};
		_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
		assert_int_equal(
			rows_add(f->control->rows, &n, 1, (uint64_t)i + 1, NULL, &row, &e), 0);
	}
	f->model.box[f->model.n++] = (struct host_sandbox){.id = "imade", .state = SANDBOX_RUNNING};
	_cleanup_json_ json_t *pending = call(f, "GET", "/v1/sandboxes/inever", NULL, 200);
	assert_string_equal(text(pending, "state"), "pending");
	fixture_stop(f);
	fixture_start(f);
	_cleanup_json_ json_t *j = call(f, "GET", "/v1/sandboxes/imade", NULL, 200);
	assert_string_equal(text(j, "state"), "running");
	refused(f, "GET", "/v1/sandboxes/inever", NULL, 404, "inever");
}

static void test_exec(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	path_of(id, "/exec", path);
	_cleanup_json_ json_t *j = call(f, "POST", path,
		"{\"args\":[\"/bin/args\",\"a\",\"b\"],\"user\":\"root\",\"cwd\":\"/tmp\","
		"\"timeout_sec\":7}",
		200);
	assert_string_equal(text(j, "stdout"), "ab");
	assert_string_equal(text(j, "stdout_encoding"), "utf8");
	assert_int_equal(json_integer_value(json_object_get(j, "exit_code")), 0);
	assert_true(json_is_null(json_object_get(j, "signal")));
	assert_string_equal(agent.base_url, "http://127.0.0.1:49983");
	assert_string_equal(agent.token, f->model.last_token);
	assert_string_equal(agent.user, "root");
	assert_string_equal(agent.cwd, "/tmp");
	assert_int_equal(agent.timeout_ms, 7000);

	_cleanup_json_ json_t *fail = call(f, "POST", path, "{\"cmd\":\"fail\"}", 200);
	assert_int_equal(json_integer_value(json_object_get(fail, "exit_code")), 3);
	_cleanup_json_ json_t *shot = call(f, "POST", path, "{\"cmd\":\"shot\"}", 200);
	assert_int_equal(json_integer_value(json_object_get(shot, "exit_code")), -1);
	assert_string_equal(text(shot, "signal"), "killed");
	assert_int_equal(json_integer_value(json_object_get(shot, "pid")), 77);
	assert_true(json_is_false(json_object_get(shot, "output_open")));
	assert_true(json_is_null(json_object_get(shot, "oom_killed")));
	_cleanup_json_ json_t *hungry = call(f, "POST", path, "{\"cmd\":\"hungry\"}", 200);
	json_t *kill = json_object_get(hungry, "oom_killed");
	assert_string_equal(text(kill, "process"), "python3");
	assert_int_equal(json_integer_value(json_object_get(kill, "rss_bytes")), 430 << 20);
	assert_true(json_is_null(json_object_get(kill, "cgroup")));
	_cleanup_json_ json_t *left = call(f, "POST", path, "{\"cmd\":\"background\"}", 200);
	assert_true(json_is_true(json_object_get(left, "output_open")));
	_cleanup_json_ json_t *bin = call(f, "POST", path, "{\"cmd\":\"binary\"}", 200);
	assert_string_equal(text(bin, "stdout"), "/wB4");
	assert_string_equal(text(bin, "stdout_encoding"), "base64");
	assert_string_equal(text(bin, "stderr_encoding"), "utf8");
	_cleanup_json_ json_t *flood = call(f, "POST", path, "{\"cmd\":\"flood\"}", 200);
	assert_int_equal(json_string_length(json_object_get(flood, "stderr")), 8 << 20);
	assert_true(json_is_true(json_object_get(flood, "truncated")));
	_cleanup_json_ json_t *cat = call(f, "POST", path,
		"{\"cmd\":\"cat\",\"stdin\":\"aGk=\",\"encoding\":\"base64\"}", 200);
	assert_string_equal(text(cat, "stdout"), "aGk=");
	assert_true(agent.closed);

	refused(f, "POST", path, "{\"cmd\":\"missing\"}", 400, "no program");
	refused(f, "POST", path, "{}", 400, "exactly one of");
	refused(f, "POST", path, "{\"cmd\":\"a\",\"args\":[\"b\"]}", 400, "exactly one of");
	refused(f, "POST", path, "{\"args\":[]}", 400, "args");
	refused(f, "POST", path, "{\"args\":[1]}", 400, "args");
	refused(f, "POST", path, "{\"cmd\":\"a\",\"timeout_sec\":0}", 400, "timeout_sec");
	refused(f, "POST", path, "{\"cmd\":\"a\",\"timeout_sec\":3601}", 400, "timeout_sec");
	refused(f, "POST", path, "{\"cmd\":\"a\",\"stdin\":\"*\"}", 400, "stdin");
	refused(f, "POST", path, "{\"cmd\":\"a\",\"encoding\":\"hex\"}", 400, "encoding");
	refused(f, "POST", "/v1/sandboxes/no/exec", "{\"cmd\":\"a\"}", 404, "no sandbox 'no'");
	model_end(&f->model, id, "timeout");
	refused(f, "POST", path, "{\"cmd\":\"fail\"}", 404, "it has ended (timeout)");
}

// What it wrote so far comes with the error, and no half of a character.
static void test_exec_that_is_too_long(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	path_of(id, "/exec", path);
	_cleanup_json_ json_t *j =
		call(f, "POST", path, "{\"cmd\":\"long\",\"timeout_sec\":3}", 504);
	json_t *error = json_object_get(j, "error"), *details = json_object_get(error, "details");
	assert_string_equal(text(error, "code"), "timeout");
	assert_non_null(strstr(text(error, "message"), "within 3 s and was killed"));
	assert_string_equal(text(details, "stdout"), "so f\xc3\xa9");
	assert_string_equal(text(details, "stdout_encoding"), "utf8");
	assert_string_equal(text(details, "process"), "killed");
	assert_int_equal(json_integer_value(json_object_get(details, "pid")), 77);
	assert_true(json_is_null(json_object_get(details, "exit_code")));
}

static struct {
	struct fixture *f;
	char id[64];
} broken;

static void is_paused(void)
{
	struct host_sandbox now;
	struct hostagent *h = &broken.f->host;
	char op[UUID_SIZE];
	id_new_uuid(op);
	h->ops->pause(h->host, op, broken.id, &now, NULL);
}

static void is_destroyed(void)
{
	model_end(&broken.f->model, broken.id, "killed");
}

static void times_out(void)
{
	model_end(&broken.f->model, broken.id, "timeout");
}

static void crashes(void)
{
	model_end(&broken.f->model, broken.id, "vmm_crash");
}

static void goes_on(void)
{
}

// What happened to the sandbox is the answer, not what became of the connection.
static void test_exec_whose_connection_breaks(void **state)
{
	static const struct {
		void (*meanwhile)(void);
		int status;
		const char *message, *process, *cause;
	} cases[] = {
		{is_paused, 409, "was paused: the command (pid 77) goes on", "running", NULL},
		{is_destroyed, 409, "was destroyed (killed)", "gone", "killed"},
		{times_out, 409, "ended (timeout)", "gone", "timeout"},
		{crashes, 409, "ended (vmm_crash)", "gone", "vmm_crash"},
		{goes_on, 502, "agent went away", "unknown", NULL},
	};
	struct fixture *f = *state;
	broken.f = f;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char path[200];
		create_box(f, NULL, broken.id);
		path_of(broken.id, "/exec", path);
		agent.meanwhile = cases[i].meanwhile;
		_cleanup_json_ json_t *j =
			call(f, "POST", path, "{\"cmd\":\"broken\"}", cases[i].status);
		json_t *error = json_object_get(j, "error");
		json_t *details = json_object_get(error, "details");
		assert_non_null(strstr(text(error, "message"), cases[i].message));
		assert_null(strstr(text(error, "message"), "Recv"));
		assert_string_equal(text(details, "process"), cases[i].process);
		assert_string_equal(text(details, "stdout"), "so far");
		assert_int_equal(json_integer_value(json_object_get(details, "pid")), 77);
		if (cases[i].cause)
			assert_string_equal(text(error, "cause"), cases[i].cause);
	}
}

static int once_it_runs(void *ctx)
{
	return __atomic_load_n(&agent.hangs, __ATOMIC_SEQ_CST);
}

// One that was started anew and has lost its token is told it once more; nobody else's fault is.
static void test_exec_greets_an_agent_that_has_lost_its_settings(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	path_of(id, "/exec", path);
	agent.lost = true;
	call_drop(f, "POST", path, "{\"cmd\":\"a\"}", 200);
	assert_int_equal(agent.greeted, 1);
	refused(f, "POST", path, "{\"cmd\":\"a\",\"user\":\"stranger\"}", 401, "status 401");
	assert_int_equal(agent.greeted, 2);
	refused(f, "POST", path, "{\"cmd\":\"missing\"}", 400, "no program");
	assert_int_equal(agent.greeted, 2);
}

static void test_exec_of_gone_client_is_killed(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, NULL, id);
	struct http_response r = {0};
	const struct http_call c = {.method = "POST",
		.path = path_of(id, "/exec", path),
		.body = "{\"cmd\":\"hang\"}",
		.body_len = strlen("{\"cmd\":\"hang\"}"),
		.tick = once_it_runs};
	assert_int_equal(http_client_call(f->client, &c, &r, NULL), -ECANCELED);
	http_response_done(&r);
	// The stop waits for the handler, which must have killed the program.
	fixture_stop(f);
	assert_true(agent.killed);
	fixture_start(f);
}

static void test_keys(void **state)
{
	struct fixture *f = *state;
	_cleanup_json_ json_t *made = call(f, "POST", "/v1/keys", "{\"name\":\"ci\"}", 201);
	assert_true(str_starts(text(made, "key"), "e2b_"));
	assert_int_equal(strlen(text(made, "key")), 44);
	_cleanup_json_ json_t *list = call(f, "GET", "/v1/keys", NULL, 200);
	json_t *keys = json_object_get(list, "keys");
	assert_int_equal(json_array_size(keys), 2);
	json_t *admin = json_array_get(keys, 0), *ci = json_array_get(keys, 1);
	assert_string_equal(text(admin, "name"), "admin");
	assert_true(json_is_string(json_object_get(admin, "last_used_at")));
	assert_true(json_is_null(json_object_get(ci, "last_used_at")));
	assert_null(json_object_get(ci, "key"));
	assert_int_equal(strncmp(text(made, "key"), text(ci, "prefix"), 12), 0);
	refused(f, "POST", "/v1/keys", "{\"name\":\"\"}", 400, "name");
	refused(f, "POST", "/v1/keys", "{\"name\":\"a\\nb\"}", 400, "name");
	refused(f, "POST", "/v1/keys", "{}", 400, "name: is missing");
	refused(f, "DELETE", "/v1/keys/nosuch", NULL, 404, "nosuch");

	char path[200];
	snprintf(path, sizeof path, "/v1/keys/%s", text(ci, "id"));
	fixture_stop(f);
	fixture_start(f);
	call_drop(f, "DELETE", path, NULL, 204);
	snprintf(path, sizeof path, "/v1/keys/%s", text(admin, "id"));
	refused(f, "DELETE", path, NULL, 409, "last key");
	// Neither file nor database has a key but the first one's file.
	struct stat st;
	snprintf(path, sizeof path, "%s/admin.key", f->data);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	_cleanup_strbuf_ struct strbuf raw = {0};
	snprintf(path, sizeof path, "%s/control.db-wal", f->data);
	assert_int_equal(file_read(AT_FDCWD, path, 64u << 20, &raw), 0);
	assert_null(memmem(raw.data, raw.len, f->key + 11, strlen(f->key + 11)));
}

static void test_events(void **state)
{
	struct fixture *f = *state;
	char a[64], b[64], path[200];
	create_box(f, NULL, a);
	create_box(f, NULL, b);
	model_end(&f->model, a, "guest_panic");
	_cleanup_json_ json_t *all = call(f, "GET", "/v1/events", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(all, "events")), 3);
	assert_true(str_ends(text(all, "next_cursor"), "-3"));
	snprintf(path, sizeof path, "/v1/events?sandbox=%s", a);
	_cleanup_json_ json_t *mine = call(f, "GET", path, NULL, 200);
	json_t *list = json_object_get(mine, "events");
	assert_int_equal(json_array_size(list), 2);
	assert_string_equal(text(json_array_get(list, 1), "cause"), "guest_panic");
	_cleanup_json_ json_t *page = call(f, "GET", "/v1/events?cursor=1&limit=1", NULL, 200);
	assert_true(str_ends(text(page, "next_cursor"), "-2"));
	refused(f, "GET", "/v1/events?cursor=x", NULL, 400, "cursor");
	refused(f, "GET", "/v1/events?limit=0", NULL, 400, "limit");
	refused(f, "GET", "/v1/events?follow=2", NULL, 400, "follow");
}

struct lines {
	struct fixture *f;
	char id[64];
	int n;
};

static int on_line(void *ctx, const char *data, size_t len)
{
	struct lines *l = ctx;
	for (size_t i = 0; i < len; i++)
		l->n += data[i] == '\n';
	if (l->n == 1) // the second event comes while the stream is open
		model_end(&l->f->model, l->id, "timeout");
	return l->n >= 2;
}

static void test_events_follow(void **state)
{
	struct fixture *f = *state;
	struct lines l = {.f = f};
	create_box(f, NULL, l.id);
	struct http_response r = {0};
	const struct http_call c = {.method = "GET",
		.path = "/v1/events?follow=1&cursor=0",
		.write = on_line,
		.ctx = &l,
		.timeout_ms = 20000};
	assert_true(http_client_call(f->client, &c, &r, NULL) < 0); // we hung up
	assert_int_equal(r.status, 200);
	assert_int_equal(l.n, 2);
	http_response_done(&r);
}

static const char *const usage_parts[] = {"sandboxes", "snapshots", "images", "shared", "programs",
	"databases", "pending", "unknown", "other"};

// The host knows ids, users know names.
static void test_usage_has_names(void **state)
{
	struct fixture *f = *state;
	_cleanup_json_ json_t *box = call(f, "POST", "/v1/sandboxes", "{\"name\":\"web\"}", 201);
	char body[200];
	snprintf(body, sizeof body, "{\"sandbox_id\":\"%s\",\"name\":\"warm\"}", text(box, "id"));
	json_decref(call(f, "POST", "/v1/snapshots", body, 201));
	_cleanup_json_ json_t *all = call(f, "GET", "/v1/host/usage", NULL, 200);
	json_t *items = json_object_get(all, "items");
	assert_int_equal(json_array_size(items), 2);
	assert_string_equal(text(json_array_get(items, 0), "name"), "web");
	assert_string_equal(text(json_array_get(items, 0), "state"), "running");
	assert_string_equal(text(json_array_get(items, 1), "name"), "warm");
	assert_null(json_object_get(all, "shared_with"));
	static const char *const names[] = {"web", "warm"};
	for (size_t i = 0; i < 2; i++) {
		char path[80];
		snprintf(path, sizeof path, "/v1/host/usage?of=%s", names[i]);
		_cleanup_json_ json_t *one = call(f, "GET", path, NULL, 200);
		items = json_object_get(one, "items");
		assert_int_equal(json_array_size(items), 1);
		assert_string_equal(text(json_array_get(items, 0), "name"), names[i]);
		json_t *shares = json_object_get(one, "shared_with");
		assert_int_equal(json_array_size(shares), 1);
		assert_string_equal(text(json_array_get(shares, 0), "name"), names[1 - i]);
	}
}

static void test_metrics_and_others(void **state)
{
	struct fixture *f = *state;
	char id[64];
	create_box(f, NULL, id);
	_cleanup_json_ json_t *m = call(f, "GET", "/v1/metrics", NULL, 200);
	const char *t = json_string_value(m);
	static const char *const want[] = {
		"stasis_http_requests_total{method=\"POST\",route=\"/v1/"
		"sandboxes\",status=\"201\"} 1\n",
		"stasis_http_request_duration_seconds_count{method=\"POST\",route=\"/v1/"
		"sandboxes\"} 1\n",
		"stasis_sandboxes{state=\"running\"} 1\n",
		"process_resident_memory_bytes ",
		"stasis_model_metric 42\n",
	};
	for (size_t i = 0; i < ARRAY_SIZE(want); i++)
		if (!strstr(t, want[i]))
			fail_msg("no '%s' in:\n%s", want[i], t);
	_cleanup_json_ json_t *host = call(f, "GET", "/v1/host", NULL, 200);
	assert_string_equal(text(host, "vmm"), "model");
	_cleanup_json_ json_t *usage = call(f, "GET", "/v1/host/usage", NULL, 200);
	assert_int_equal(json_integer_value(json_object_get(usage, "free_bytes")), 400);
	json_t *part = json_object_get(usage, "unknown");
	assert_int_equal(json_integer_value(json_object_get(part, "bytes")), 7);
	part = json_object_get(usage, "layers");
	assert_int_equal(json_integer_value(json_object_get(part, "own_bytes")), 100);
	for (size_t i = 0; i < ARRAY_SIZE(usage_parts); i++)
		if (!json_object_get(json_object_get(usage, usage_parts[i]), "bytes"))
			fail_msg("no '%s' in the sum", usage_parts[i]);
	json_decref(call(f, "GET", "/v1/host/usage?of=", NULL, 400));
	_cleanup_json_ json_t *unknown = call(f, "GET", "/v1/host/unknown", NULL, 200);
	part = json_array_get(json_object_get(unknown, "unknown"), 0);
	assert_string_equal(text(part, "kind"), "layer");
	assert_string_equal(text(part, "id"), "abc");
	_cleanup_json_ json_t *removed = call(f, "DELETE", "/v1/host/unknown", NULL, 200);
	assert_int_equal(json_integer_value(json_object_get(removed, "removed")), 1);
	_cleanup_json_ json_t *tpl = call(f, "GET", "/v1/templates", NULL, 200);
	assert_string_equal(
		text(json_array_get(json_object_get(tpl, "templates"), 0), "name"), "base");
}

// The description has the names of the query that the route takes, and no others.
static void same_query(json_t *operation, const struct http_route *r)
{
	_cleanup_free_ char *names = strdup(r->query ? r->query : "");
	size_t i, n = 0, known = 0;
	json_t *p;
	json_array_foreach (json_object_get(operation, "parameters"), i, p)
		n += str_eq(text(p, "in"), "query");
	for (char *save, *name = strtok_r(names, " ", &save); name;
		name = strtok_r(NULL, " ", &save), known++) {
		bool found = false;
		json_array_foreach (json_object_get(operation, "parameters"), i, p)
			found |= str_eq(text(p, "name"), name);
		if (!found)
			fail_msg("%s %s: '%s' is not described", r->method, r->pattern, name);
	}
	assert_int_equal(n, known);
}

static void test_openapi_has_every_route(void **state)
{
	struct fixture *f = *state;
	_cleanup_json_ json_t *doc = call(f, "GET", "/v1/openapi.json", NULL, 200);
	json_t *paths = json_object_get(doc, "paths");
	size_t n_routes = 0, n_operations = 0;
	for (size_t i = 0; i < control_n_routes; i++) {
		const struct http_route *r = &control_routes[i];
		if (r->flags & ROUTE_EDGE)
			continue;
		char method[16] = "";
		for (size_t k = 0; r->method[k]; k++)
			method[k] = (char)(r->method[k] | 0x20);
		if (!json_object_get(json_object_get(paths, r->pattern), method))
			fail_msg("%s %s is not described", r->method, r->pattern);
		same_query(json_object_get(json_object_get(paths, r->pattern), method), r);
		n_routes++;
	}
	const char *path, *method;
	json_t *item, *op;
	json_object_foreach (paths, path, item)
		json_object_foreach (item, method, op)
			n_operations += strcmp(method, "parameters") != 0;
	assert_int_equal(n_operations, n_routes);
}

static void test_second_server_is_refused(void **state)
{
	struct fixture *f = *state;
	char want[32];
	snprintf(want, sizeof want, "pid %d", (int)getpid());
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		struct err e = {0};
		struct control *c = NULL;
		const struct control_config cfg = {.data_dir = f->data,
			.run_dir = f->run,
			.no_edge = true,
			.host = model_host(&f->model)};
		int r = control_start(&cfg, &c, &e);
		_exit(r < 0 && e.code == ERR_CONFLICT && strstr(e.text, want) ? 0 : 1);
	}
	int status = -1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static int read_number(void *ctx, int n, char **values, char **names)
{
	snprintf(ctx, 16, "%s", values[0]);
	return 0;
}

// What a guest writes is not made six times as long.
static void test_exec_output_is_bounded(void **state)
{
	struct fixture *f = *state;
	char id[64], path[200];
	create_box(f, "{}", id);
	path_of(id, "/exec", path);
	_cleanup_json_ json_t *j = call(f, "POST", path, "{\"cmd\":\"escapes\"}", 200);
	assert_string_equal(text(j, "stdout_encoding"), "base64");
	assert_string_equal(text(j, "stderr_encoding"), "base64");
	_cleanup_strbuf_ struct strbuf raw = {0};
	const char *out = text(j, "stdout");
	assert_int_equal(str_base64_decode(&raw, out, strlen(out)), 0);
	assert_int_equal(raw.len, 8 << 20);
	assert_int_equal(raw.data[raw.len - 1], 1);
	assert_int_equal(strlen(text(j, "stderr")), ((1 << 20) + 2) / 3 * 4);
	// Text stays text, also where it is sent in pieces.
	_cleanup_json_ json_t *flood = call(f, "POST", path, "{\"cmd\":\"flood\"}", 200);
	assert_string_equal(text(flood, "stderr_encoding"), "utf8");
	assert_int_equal(json_string_length(json_object_get(flood, "stderr")), 8 << 20);
	// The budget: what is over it is refused, with the way out, and given back at the end.
	assert_int_equal(f->control->answers.used, 0);
	f->control->answers.limit = 4 << 20;
	refused(f, "POST", path, "{\"cmd\":\"escapes\"}", 429, "answer-memory");
	assert_true(agent.killed);
	_cleanup_json_ json_t *small = call(f, "POST", path, "{\"cmd\":\"binary\"}", 200);
	assert_string_equal(text(small, "stdout"), "/wB4");
	assert_int_equal(f->control->answers.used, 0);
	f->control->answers.limit = 256 << 20;
	call_drop(f, "POST", path, "{\"cmd\":\"escapes\"}", 200);
}

static void test_newer_database_is_refused(void **state)
{
	struct fixture *f = *state;
	fixture_stop(f);
	char path[200];
	snprintf(path, sizeof path, "%s/control.db", f->data);
	sqlite3 *db;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	char was[16] = "", back[64];
	assert_int_equal(
		sqlite3_exec(db, "PRAGMA user_version", read_number, was, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
	struct err e = {0};
	struct control *c = NULL;
	const struct control_config cfg = {.data_dir = f->data,
		.run_dir = f->run,
		.no_edge = true,
		.host = model_host(&f->model)};
	assert_true(control_start(&cfg, &c, &e) < 0);
	assert_non_null(strstr(e.text, "version 99"));
	snprintf(back, sizeof back, "PRAGMA user_version = %s", was);
	sqlite3_exec(db, back, NULL, NULL, NULL);
	sqlite3_close(db);
	fixture_start(f);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	log_setup("test", LOG_LEVEL_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(test_authentication),
		T(test_create_get_delete),
		T(test_bad_input),
		T(test_failed_create_leaves_nothing),
		T(test_list),
		T(test_list_over_many_rows),
		T(test_timeout),
		T(test_resolvers),
		T(test_ends_are_noticed_and_kept),
		T(test_silent_host_loses_nothing),
		T(test_unfinished_create),
		T(test_exec),
		T(test_exec_greets_an_agent_that_has_lost_its_settings),
		T(test_exec_that_is_too_long),
		T(test_exec_whose_connection_breaks),
		T(test_exec_of_gone_client_is_killed),
		T(test_keys),
		T(test_events),
		T(test_events_follow),
		T(test_usage_has_names),
		T(test_metrics_and_others),
		T(test_openapi_has_every_route),
		T(test_second_server_is_refused),
		T(test_exec_output_is_bounded),
		T(test_newer_database_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
