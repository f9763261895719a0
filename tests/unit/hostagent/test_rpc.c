// SPDX-License-Identifier: Apache-2.0
// The contract over a real socket: what goes in on one side comes out on the other, and what goes
// wrong in between is told apart from what the host refuses.
#include "../check.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/id.h"
#include "base/json.h"
#include "base/log.h"
#include "fake.h"
#include "hostagent/messages.h"
#include "http/client.h"
#include "http/connect.h"
#include "http/server.h"

#define OP "11111111-1111-4111-8111-111111111111"
#define OP2 "44444444-4444-4444-8444-444444444444"
#define SNAPSHOT "22222222-2222-4222-8222-222222222222"
#define PREFIX "/" RPC_SERVICE "/"

struct world {
	char dir[32], socket[64];
	struct fake fake;
	struct hostagent_server *server;
	struct hostagent host; // the client
	struct http_client *http;
};

static void start_server(struct world *w)
{
	struct err e = {0};
	const struct hostagent_server_config cfg = {
		.host = fake_host(&w->fake), .socket = w->socket};
	if (hostagent_serve(&cfg, &w->server, &e) < 0)
		fail_msg("%s", e.text);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof *w);
	struct err e = {0};
	log_setup("test", LOG_LEVEL_ERROR);
	snprintf(w->dir, sizeof w->dir, "/tmp/rpc-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	snprintf(w->socket, sizeof w->socket, "%s/host.sock", w->dir);
	fake_init(&w->fake);
	start_server(w);
	const struct hostagent_client_config cfg = {.socket = w->socket};
	assert_int_equal(hostagent_connect(&cfg, &w->host, &e), 0);
	const struct http_client_config raw = {.unix_path = w->socket, .base_url = "http://host"};
	assert_int_equal(http_client_new(&raw, &w->http, &e), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	fake_open(&w->fake);
	http_client_free(w->http);
	hostagent_disconnect(&w->host);
	hostagent_server_free(w->server);
	fake_done(&w->fake);
	assert_int_equal(file_rm_rf(AT_FDCWD, w->dir), 0);
	free(w);
	return 0;
}

#define CALL(w, f, ...) (w)->host.ops->f((w)->host.host, __VA_ARGS__)
#define OK(w, f, ...)                                                                              \
	do {                                                                                       \
		struct err e_ = {0};                                                               \
		if (CALL(w, f, __VA_ARGS__, &e_) != 0)                                             \
			fail_msg(#f ": %s", e_.text);                                              \
	} while (0)

// By what is written of them: structs have padding.
static void same(const char *message, const void *a, const void *b)
{
	_cleanup_json_ json_t *x = NULL, *y = NULL;
	for (size_t i = 0; rpc_messages[i]; i++)
		if (str_eq(rpc_messages[i]->name, message)) {
			x = wire_encode(rpc_messages[i], a);
			y = wire_encode(rpc_messages[i], b);
		}
	assert_true(x && json_object_size(x) > 5 && json_equal(x, y));
}

static void same_sandbox(const struct host_sandbox *a, const struct host_sandbox *b)
{
	same("Sandbox", a, b);
}

// --- both ways

static void each_function_reaches_the_host_and_brings_its_answer(void **state)
{
	struct world *w = *state;
	struct fake *f = &w->fake;
	struct host_sandbox s = {0}, expected = f->sandbox;

	_cleanup_json_ json_t *env = json_pack("{s:s, s:s}", "A", "1", "\xc3\xa9", "\"\n\t\\");
	struct host_create c = {.op_id = OP,
		.id = "inew",
		.template = "base",
		.vcpus = 4,
		.memory_mb = 1024,
		.disk_mb = 1ull << 40,
		.ends_at_ns = 1764086400123456789ull,
		.on_timeout = ON_TIMEOUT_PAUSE,
		.snapshot = SNAPSHOT,
		.cold = true,
		.token = "secret",
		.env = env};
	OK(w, create, &c, &s);
	snprintf(expected.id, sizeof expected.id, "inew");
	same_sandbox(&s, &expected);
	assert_string_equal(f->op_id, OP);
	assert_string_equal(f->id, "inew");
	assert_string_equal(f->create.template, "base");
	assert_int_equal(f->create.vcpus, 4);
	assert_int_equal(f->create.memory_mb, 1024);
	assert_true(f->create.disk_mb == 1ull << 40);
	assert_true(f->create.ends_at_ns == 1764086400123456789ull);
	assert_int_equal(f->create.on_timeout, ON_TIMEOUT_PAUSE);
	assert_string_equal(f->create.snapshot, SNAPSHOT);
	assert_true(f->create.cold);
	assert_string_equal(f->token, "secret");
	assert_string_equal(f->env, "{\"A\":\"1\",\"\xc3\xa9\":\"\\\"\\n\\t\\\\\"}");

	OK(w, destroy, OP2, "ibox", "timeout");
	assert_string_equal(f->call, "destroy");
	assert_string_equal(f->op_id, OP2);
	assert_string_equal(f->id, "ibox");
	assert_string_equal(f->cause, "timeout");
	OK(w, destroy, OP2, "ibox", NULL);
	assert_string_equal(f->cause, "killed");
	OK(w, expire, OP, "ibox", 7, "retention");
	assert_string_equal(f->call, "expire");
	assert_string_equal(f->id, "ibox");
	assert_string_equal(f->cause, "retention");
	assert_int_equal(f->generation, 7);

	OK(w, pause, OP, "ibox", &s);
	assert_string_equal(f->call, "pause");
	same_sandbox(&s, &f->sandbox);

	struct host_resume r = {
		.op_id = OP, .id = "ibox", .disk_only = true, .ends_at_ns = 5, .token = "again"};
	OK(w, resume, &r, &s);
	assert_string_equal(f->call, "resume");
	assert_string_equal(f->resume.from, "");
	assert_true(f->resume.disk_only && f->resume.ends_at_ns == 5);
	assert_string_equal(f->token, "again");
	snprintf(r.from, sizeof r.from, SNAPSHOT);
	r.disk_only = false;
	OK(w, resume, &r, &s);
	assert_string_equal(f->call, "rollback");
	assert_string_equal(f->resume.from, SNAPSHOT);
	assert_false(f->resume.disk_only);

	struct host_snapshot snap = {0};
	struct host_snapshot_create sc = {.op_id = OP, .id = "ibox", .snapshot = SNAPSHOT};
	OK(w, snapshot_create, &sc, &snap);
	assert_string_equal(f->call, "snapshot_create");
	assert_string_equal(f->snapshot, SNAPSHOT);
	same("Snapshot", &snap, &f->snapshot_answer);
	OK(w, snapshot_delete, OP, SNAPSHOT);
	assert_string_equal(f->call, "snapshot_delete");
	struct host_snapshot *snaps = NULL;
	size_t n = 0;
	OK(w, snapshots, &snaps, &n);
	assert_int_equal(n, 2);
	same("Snapshot", &snaps[1], &f->snapshot_answer);
	free(snaps);
	struct host_snapshot_check check = {.resumes = true};
	OK(w, snapshot_check, SNAPSHOT, &check);
	assert_string_equal(f->snapshot, SNAPSHOT);
	assert_false(check.resumes);
	assert_string_equal(check.reason, "its guest ran on kvm");

	OK(w, get, "ibox", &s);
	same_sandbox(&s, &f->sandbox);
	struct host_sandbox *list = NULL;
	OK(w, list, &list, &n);
	assert_int_equal(n, 3);
	assert_string_equal(list[2].id, "i2");
	free(list);
	OK(w, set_timeout, OP, "ibox", 77);
	assert_true(f->ends_at_ns == 77);
	OK(w, set_on_timeout, OP2, "ibox", ON_TIMEOUT_PAUSE);
	assert_string_equal(f->call, "set_on_timeout");
	OK(w, set_token, OP2, "ibox", "renewed");
	assert_string_equal(f->token, "renewed");
	assert_int_equal(f->on_timeout, ON_TIMEOUT_PAUSE);
	struct host_place at;
	OK(w, address, "ibox", &at);
	assert_string_equal(at.address, "10.213.0.9");

	struct host_template *t = NULL;
	OK(w, templates, &t, &n);
	assert_int_equal(n, 1);
	assert_string_equal(t->name, "base");
	assert_true(t->frozen && t->disk_bytes == 1ull << 40);
	free(t);
	struct host_info info = {0};
	OK(w, info, &info);
	same("Host", &info, &f->info);
	assert_string_equal(f->call, "info"); // templates were not asked for
	OK(w, drain, OP, true);
	assert_true(f->draining);
	OK(w, drain, OP2, false);
	assert_false(f->draining);
	_cleanup_strbuf_ struct strbuf out = {0};
	strbuf_adds(&out, "# before\n");
	OK(w, metrics, &out);
	assert_string_equal(out.data, "# before\nstasis_fake 1\n");
	struct host_usage_report usage;
	OK(w, usage, &(struct host_usage_ask){.of = "box"}, &usage);
	assert_true(usage.sum.total_bytes == 1ull << 40 && usage.sum.unknown_bytes == 12);
	assert_int_equal(usage.n_unknown, 1);
	assert_string_equal(usage.unknown->kind, "snapshot");
	assert_string_equal(usage.unknown->id, "abc");
	assert_int_equal(usage.n_items, 1);
	const struct host_usage_item item = {"sandbox", "box", 5, 4, 3, 2, 1};
	assert_memory_equal(usage.items, &item, sizeof item);
	assert_int_equal(usage.n_shares, 1);
	assert_string_equal(usage.shares->id, "base");
	host_usage_report_done(&usage);
	struct host_figures figures = {0};
	OK(w, figures, "ione", &figures);
	assert_string_equal(f->call, "figures");
	assert_true(figures.cpu_us == 1ull << 40 && figures.state == SANDBOX_RUNNING);
	assert_int_equal(figures.memory_bytes, 2);
	assert_int_equal(figures.disk_bytes, 3);
	assert_int_equal(figures.network_received_bytes, 4);
	assert_int_equal(figures.network_sent_bytes, 5);
	assert_int_equal(figures.faults, 6);
	assert_int_equal(figures.loaded_bytes, 7);
	struct host_runtime *kept = NULL;
	OK(w, runtimes, &kept, &n);
	assert_int_equal(n, 1);
	assert_string_equal(kept->program, "qemu");
	assert_true(kept->snapshots == 1ull << 40);
	free(kept);
	OK(w, runtime_deny, OP, "0123", true);
	assert_string_equal(f->call, "runtime_deny");
	OK(w, runtime_deny, OP2, "0123", false);
	assert_string_equal(f->call, "runtime_allow");
	OK(w, remove_unknown, OP, &n);
	assert_int_equal(n, 3);
}

static void each_error_keeps_its_code_and_its_text(void **state)
{
	struct world *w = *state;
	w->fake.fail_text = "no space on \"/var\"\n\xff\xfe caf\xc3\xa9";
	for (int code = ERR_NONE + 1; code < ERR_CODE_MAX; code++) {
		struct host_sandbox s;
		struct err e = {0}, direct = {0};
		w->fake.fail = (enum err_code)code;
		int rc = CALL(w, get, "ibox", &s, &e);
		assert_int_equal(e.code, code);
		assert_int_equal(rc, err_set(&direct, (enum err_code)code, "x"));
		assert_false(hostagent_lost(&e));
		assert_non_null(strstr(e.text, "no space on \"/var\"\n"));
	}
	w->fake.fail_text = "caf\xc3\xa9";
	struct err e = {0};
	struct host_place at;
	assert_true(CALL(w, address, "ibox", &at, &e) < 0);
	assert_string_equal(e.text, "caf\xc3\xa9");
	// Streams say it at their end.
	int fd = -1;
	w->fake.fail = ERR_NO_SPACE;
	e = (struct err){0};
	assert_true(CALL(w, open_log, "ibox", &fd, &e) < 0);
	assert_int_equal(e.code, ERR_NO_SPACE);
	assert_string_equal(e.text, "caf\xc3\xa9");
	// No error object: the caller does not care.
	assert_true(CALL(w, address, "ibox", &at, NULL) < 0);
}

static void strange_ids_go_no_further(void **state)
{
	struct world *w = *state;
	static const char *const ids[] = {"../../etc", "", "I", "a/b", "a\nb",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		struct host_sandbox s;
		struct err e = {0};
		assert_true(CALL(w, get, ids[i], &s, &e) < 0);
		assert_true(e.code == ERR_INVALID || e.code == ERR_NOT_FOUND);
	}
	struct err e = {0};
	assert_true(CALL(w, destroy, "not-a-uuid", "ibox", "x", &e) < 0);
	assert_int_equal(e.code, ERR_INVALID);
	assert_int_equal(w->fake.calls, 0);
}

static void the_console_comes_whole(void **state)
{
	struct world *w = *state;
	size_t len = 1000003;
	char *log = malloc(len), *got = malloc(len + 1);
	for (size_t i = 0; i < len; i++)
		log[i] = (char)(i * 7 + i / 251);
	w->fake.log = log;
	w->fake.log_len = len;
	int fd = -1;
	OK(w, open_log, "ibox", &fd);
	assert_int_equal(file_read_full(fd, got, len + 1), len);
	assert_memory_equal(log, got, len);
	close(fd);
	w->fake.log_len = 0;
	OK(w, open_log, "ibox", &fd);
	assert_int_equal(file_read_full(fd, got, 1), 0);
	close(fd);
	w->fake.log_len = strlen(w->fake.log = "console\n");
	free(log);
	free(got);
}

// --- fork

struct seen {
	struct world *w;
	size_t order[8];
	size_t n;
};

static void on_child(void *ctx, size_t i)
{
	struct seen *s = ctx;
	s->order[s->n++] = i;
	// The last one comes up only when the others have been told of: they are not kept back.
	if (s->n == 2)
		fake_open(&s->w->fake);
}

static void children_are_told_of_one_by_one(void **state)
{
	struct world *w = *state;
	struct host_sandbox info[3] = {0};
	_cleanup_json_ json_t *env = json_pack("{s:s}", "CHILD", "0");
	struct seen seen = {.w = w};
	struct host_fork_child child[3] = {
		{.op_id = OP, .id = "ione", .token = "t1", .env = env, .info = &info[0]},
		{.op_id = OP2, .id = "itwo", .token = "bad", .info = &info[1]},
		{.op_id = SNAPSHOT, .id = "ithree", .token = "t3", .info = &info[2]},
	};
	struct host_fork req = {.op_id = OP,
		.id = "ibox",
		.children = child,
		.n = 3,
		.ends_at_ns = 9,
		.on_timeout = ON_TIMEOUT_PAUSE,
		.done = on_child,
		.ctx = &seen};
	w->fake.hold_last = true;
	OK(w, fork, &req);
	assert_int_equal(seen.n, 3);
	assert_int_equal(seen.order[0], 2);
	assert_int_equal(seen.order[1], 1);
	assert_int_equal(seen.order[2], 0);
	assert_int_equal(child[0].rc, 0);
	assert_string_equal(info[0].id, "ione");
	assert_int_equal(info[0].state, SANDBOX_RUNNING);
	assert_true(child[1].rc < 0);
	assert_int_equal(child[1].e.code, ERR_NO_SPACE);
	assert_string_equal(child[1].e.text, "no room for itwo");
	assert_string_equal(info[2].id, "ithree");
	assert_string_equal(w->fake.env, "{\"CHILD\":\"0\"}");
	assert_true(w->fake.ends_at_ns == 9);
	assert_int_equal(w->fake.sandbox.on_timeout, ON_TIMEOUT_PAUSE);

	// The source could not be captured.
	struct err e = {0};
	w->fake.fail = ERR_CONFLICT;
	seen.n = 0;
	assert_true(CALL(w, fork, &req, &e) < 0);
	assert_int_equal(e.code, ERR_CONFLICT);
	assert_int_equal(seen.n, 0);
	assert_true(child[0].rc < 0 && child[2].rc < 0);

	req.n = 0;
	e = (struct err){0};
	assert_true(CALL(w, fork, &req, &e) < 0);
	assert_int_equal(e.code, ERR_INVALID);
}

// --- events

static void events_come_in_pages_and_go_when_acknowledged(void **state)
{
	struct world *w = *state;
	struct host_event *ev = NULL;
	size_t n = 9;
	OK(w, events, 0, 10, 0, &ev, &n);
	assert_int_equal(n, 0);
	free(ev);
	for (int i = 0; i < 5; i++)
		fake_add_event(&w->fake);
	OK(w, events, 1, 3, 1000, &ev, &n);
	assert_int_equal(n, 3);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(ev[i].seq, i + 2);
		assert_int_equal(ev[i].at_ns, 1000 + i + 2);
		assert_string_equal(ev[i].sandbox, "ibox");
		assert_string_equal(ev[i].kind, "running");
		assert_string_equal(ev[i].cause, "test");
		assert_int_equal(ev[i].data != NULL, ev[i].seq % 2);
		json_decref(ev[i].data);
	}
	free(ev);
	OK(w, ack_events, 4);
	assert_int_equal(w->fake.acked, 4);
	OK(w, events, 0, 10, 0, &ev, &n);
	assert_int_equal(n, 1);
	assert_int_equal(ev[0].seq, 5);
	json_decref(ev[0].data);
	free(ev);
}

struct watch {
	struct world *w;
	struct strbuf raw;
	uint64_t seen[4];
	size_t n;
};

// Adds the next event when the last one has come, and hangs up after the third.
static int on_watched(void *ctx, const char *data, size_t len)
{
	struct watch *t = ctx;
	_cleanup_strbuf_ struct strbuf payload = {0};
	unsigned flags;
	strbuf_add(&t->raw, data, len);
	while (connect_envelope_next(&t->raw, &flags, &payload) == 1) {
		_cleanup_json_ json_t *j = json_loadb(payload.data, payload.len, 0, NULL);
		size_t i;
		json_t *ev;
		assert_int_equal(flags, 0);
		json_array_foreach (json_object_get(j, "events"), i, ev)
			t->seen[t->n++] =
				strtoull(json_string_value(json_object_get(ev, "seq")), NULL, 10);
		if (t->n == 3)
			return -1;
		fake_add_event(&t->w->fake);
	}
	return 0;
}

static void a_watcher_is_told_as_it_happens(void **state)
{
	struct world *w = *state;
	struct watch t = {.w = w};
	_cleanup_strbuf_ struct strbuf body = {0};
	_cleanup_(http_response_done) struct http_response r = {0};
	connect_envelope_add(&body, 0, "{\"after\":\"4\"}", 13);
	for (int i = 0; i < 5; i++)
		fake_add_event(&w->fake);
	const struct http_call call = {.method = "POST",
		.path = PREFIX "WatchEvents",
		.content_type = "application/connect+json",
		.body = body.data,
		.body_len = body.len,
		.write = on_watched,
		.ctx = &t};
	assert_int_equal(http_client_call(w->http, &call, &r, NULL), -ECANCELED);
	strbuf_done(&t.raw);
	assert_int_equal(t.n, 3);
	assert_int_equal(t.seen[0], 5);
	assert_int_equal(t.seen[1], 6);
	assert_int_equal(t.seen[2], 7);
}

// --- what is refused

static int post(struct world *w, const char *method, const char *type, const char *const *headers,
	const void *body, size_t len, struct err *e)
{
	_cleanup_(http_response_done) struct http_response r = {0};
	_cleanup_free_ char *path = str_printf(PREFIX "%s", method);
	const struct http_call call = {.method = "POST",
		.path = path,
		.content_type = type,
		.headers = headers,
		.body = body,
		.body_len = len};
	*e = (struct err){0};
	struct err transport = {0};
	if (http_client_call(w->http, &call, &r, &transport) < 0)
		fail_msg("%s: %s", method, transport.text);
	if (r.status != 200 && r.status != 415) {
		_cleanup_json_ json_t *j = http_response_json(&r);
		assert_string_equal(r.content_type, "application/json");
		assert_non_null(j);
		assert_non_null(json_string_value(json_object_get(j, "code")));
		assert_non_null(json_string_value(json_object_get(j, "message")));
		rpc_error_read(j, r.status, e);
	}
	return r.status;
}

static int json_post(struct world *w, const char *method, const char *body, struct err *e)
{
	return post(w, method, "application/json", NULL, body, strlen(body), e);
}

#define CREATE "\"operationId\":\"" OP "\",\"sandboxId\":\"ibox\""

static void bad_requests_are_refused_by_name(void **state)
{
	struct world *w = *state;
	static const struct {
		const char *method, *body, *says;
	} bad[] = {
		{"GetSandbox", "{\"sandboxId\":\"ibox\",\"colour\":1}", "unknown field 'colour'"},
		{"GetSandbox", "{\"sandboxId\":7}", "sandboxId: must be a string"},
		{"GetSandbox", "{\"sandboxId\":\"../x\"}", "sandboxId: must be the id"},
		{"GetSandbox", "{}", "sandboxId: is missing"},
		{"GetSandbox", "{\"sandboxId\":\"a\",\"sandbox_id\":\"b\"}", "given twice"},
		{"GetSandbox", "{\"sandboxId\":\"a\",\"sandboxId\":\"b\"}", "not valid JSON"},
		{"GetSandbox", "[]", "must be a JSON object"},
		{"GetSandbox", "{\"sandboxId\":", "not valid JSON"},
		{"GetSandbox", "\"\xff\"", "not valid JSON"},
		{"GetSandbox", "{\"sandboxId\":\"a\\u0000b\"}", "JSON"},
		{"CreateSandbox", "{" CREATE ",\"vcpus\":-1}", "vcpus: must be an integer"},
		{"CreateSandbox", "{" CREATE ",\"vcpus\":1.5}", "vcpus: must be an integer"},
		{"CreateSandbox", "{" CREATE ",\"vcpus\":4294967296}", "vcpus: must be an"},
		{"CreateSandbox", "{" CREATE ",\"diskMb\":\"many\"}", "diskMb: must be"},
		{"CreateSandbox", "{" CREATE ",\"endsAtNs\":\"18446744073709551615\"}",
			"endsAtNs: must be"},
		{"CreateSandbox", "{" CREATE ",\"cold\":\"yes\"}", "cold: must be true or false"},
		{"CreateSandbox", "{" CREATE ",\"env\":{\"A\":1}}", "the value of 'A'"},
		{"CreateSandbox", "{" CREATE ",\"env\":[]}", "env: must be an object"},
		{"CreateSandbox", "{" CREATE ",\"onTimeout\":\"LATER\"}", "onTimeout: must be"},
		{"CreateSandbox", "{" CREATE ",\"onTimeout\":9}", "onTimeout: must be"},
		{"CreateSandbox", "{" CREATE ",\"template\":\"a/b\"}", "template: must be"},
		{"CreateSandbox", "{" CREATE ",\"token\":\"a b\"}", "token: must be"},
		{"CreateSandbox", "{\"sandboxId\":\"ibox\"}", "operationId: is missing"},
		{"CreateSandbox",
			"{\"operationId\":\"" OP
			"\",\"sandboxId\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaa\"}",
			"sandboxId: longer than"},
		{"ListSandboxes", "{\"page\":1}", "unknown field 'page'"},
		{"ListEvents", "{\"max\":1001}", "max: must be an integer from 0 to 1000"},
		{"ListEvents", "{\"waitMs\":60001}", "waitMs: must be"},
		{"RollbackSandbox", "{" CREATE "}", "snapshotId: is missing"},
		{"DestroySandbox", "{" CREATE ",\"cause\":\"a b\"}", "cause: must be a word"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err e;
		int status = json_post(w, bad[i].method, bad[i].body, &e);
		if (status != 400 || e.code != ERR_INVALID || !strstr(e.text, bad[i].says))
			fail_msg("%s %s: %d %s", bad[i].method, bad[i].body, status, e.text);
	}
	assert_int_equal(w->fake.calls, 0);
}

static void both_spellings_and_all_forms_of_numbers_are_read(void **state)
{
	struct world *w = *state;
	struct err e;
	assert_int_equal(json_post(w, "CreateSandbox",
				 "{\"operation_id\":\"" OP "\",\"sandbox_id\":\"ibox\","
				 "\"vcpus\":\"2\",\"memoryMb\":1e3,\"disk_mb\":\"4096\","
				 "\"endsAtNs\":5,\"onTimeout\":2,\"env\":null,\"template\":null}",
				 &e),
		200);
	assert_string_equal(w->fake.op_id, OP);
	assert_int_equal(w->fake.create.vcpus, 2);
	assert_int_equal(w->fake.create.memory_mb, 1000);
	assert_int_equal(w->fake.create.disk_mb, 4096);
	assert_int_equal(w->fake.create.ends_at_ns, 5);
	assert_int_equal(w->fake.create.on_timeout, ON_TIMEOUT_PAUSE);
	assert_int_equal(json_post(w, "ListSandboxes", "", &e), 200);
}

static void bodies_and_headers_beyond_the_protocol_are_refused(void **state)
{
	struct world *w = *state;
	struct err e;
	static const char *const version[] = {"Connect-Protocol-Version: 2", NULL};
	static const char *const coding[] = {"Content-Encoding: gzip", NULL};
	static const char *const timeout[] = {"Connect-Timeout-Ms: soon", NULL};
	size_t len = 10u << 20;
	char *big = malloc(len);
	memset(big, 'x', len);
	assert_int_equal(post(w, "GetSandbox", "application/json", NULL, big, len, &e), 413);
	assert_int_equal(e.code, ERR_TOO_LARGE);
	assert_int_equal(
		post(w, "ForkSandbox", "application/connect+json", NULL, big, len, &e), 413);
	free(big);
	assert_int_equal(post(w, "GetSandbox", "application/json", version, "{}", 2, &e), 400);
	assert_int_equal(e.code, ERR_INVALID);
	assert_int_equal(post(w, "GetSandbox", "application/json", coding, "{}", 2, &e), 501);
	assert_int_equal(e.code, ERR_UNIMPLEMENTED);
	assert_int_equal(post(w, "GetSandbox", "application/json", timeout, "{}", 2, &e), 400);
	assert_int_equal(post(w, "GetSandbox", "application/proto", NULL, "{}", 2, &e), 415);
	assert_int_equal(post(w, "ForkSandbox", "application/json", NULL, "{}", 2, &e), 415);
	assert_int_equal(json_post(w, "MakeCoffee", "{}", &e), 404);
	assert_int_equal(e.code, ERR_UNIMPLEMENTED);
	assert_int_equal(w->fake.calls, 0);
}

// --- time-outs and lost answers

static void a_call_whose_time_is_over_is_answered_and_its_work_goes_on(void **state)
{
	struct world *w = *state;
	struct err e;
	static const char *const soon[] = {"Connect-Timeout-Ms: 50", NULL};
	static const char *const late[] = {"Connect-Timeout-Ms: 60000", NULL};
	static const char body[] = "{" CREATE "}";
	w->fake.closed = true;
	assert_int_equal(
		post(w, "CreateSandbox", "application/json", soon, body, strlen(body), &e), 504);
	assert_int_equal(e.code, ERR_TIMEOUT);
	fake_wait_for(&w->fake, 1);
	assert_int_equal(w->fake.done, 0);
	fake_open(&w->fake);
	assert_int_equal(
		post(w, "CreateSandbox", "application/json", late, body, strlen(body), &e), 200);
	assert_int_equal(w->fake.done, 1);
}

static void a_host_that_hangs_is_given_up(void **state)
{
	struct world *w = *state;
	struct hostagent h;
	struct err e = {0};
	struct host_place at;
	struct host_sandbox s;
	const struct hostagent_client_config cfg = {
		.socket = w->socket, .operation_timeout_ms = 50};
	assert_int_equal(hostagent_connect(&cfg, &h, &e), 0);
	w->fake.closed = true;
	assert_true(h.ops->pause(h.host, OP, "ibox", &s, &e) < 0);
	assert_int_equal(e.code, ERR_UNAVAILABLE);
	assert_true(hostagent_lost(&e));
	// Others are not held up by it.
	assert_int_equal(h.ops->address(h.host, "ibox", &at, &e), 0);
	assert_string_equal(at.address, "10.213.0.9");
	assert_true(at.owner_only);
	fake_open(&w->fake);
	hostagent_disconnect(&h);
}

static void a_host_that_is_away_is_lost_and_comes_back(void **state)
{
	struct world *w = *state;
	struct err e = {0};
	struct host_place at;
	OK(w, address, "ibox", &at); // leaves a connection behind
	w->server = hostagent_server_free(w->server);
	assert_true(CALL(w, address, "ibox", &at, &e) < 0);
	assert_true(hostagent_lost(&e));
	assert_non_null(strstr(e.text, w->socket));
	start_server(w);
	OK(w, address, "ibox", &at);
}

// Between client and host: passes requests on, and drops so many of the answers.
struct lossy {
	const char *to;
	int listener;
	_Atomic unsigned drop, passed;
	_Atomic size_t cut; // answers end after so many bytes; 0: whole
};

static int dial(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

static void *pass(void *arg)
{
	struct lossy *l = arg;
	for (int fd; (fd = accept4(l->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
		_cleanup_close_ int client = fd, server = dial(l->to);
		char buf[65536];
		size_t sent = 0;
		struct pollfd p[2] = {{client, POLLIN, 0}, {server, POLLIN, 0}};
		for (bool open = true; open && poll(p, 2, -1) > 0;) {
			for (int i = 0; i < 2 && open; i++) {
				if (!p[i].revents)
					continue;
				ssize_t n = recv(p[i].fd, buf, sizeof buf, 0);
				if (n <= 0) {
					open = false;
				} else if (i == 0) {
					l->passed++;
					send(server, buf, (size_t)n, MSG_NOSIGNAL);
				} else if (l->drop > 0) {
					l->drop--;
					open = false;
				} else {
					if (l->cut && sent + (size_t)n > l->cut)
						n = (ssize_t)(l->cut - sent);
					send(client, buf, (size_t)n, MSG_NOSIGNAL);
					sent += (size_t)n;
					open = !l->cut || sent < l->cut;
				}
			}
		}
	}
	return NULL;
}

static void a_lost_answer_is_asked_for_again_and_done_once(void **state)
{
	struct world *w = *state;
	struct err e = {0};
	struct host_sandbox s;
	struct hostagent h;
	pthread_t t;
	char path[64];
	snprintf(path, sizeof path, "%s/lossy.sock", w->dir);
	struct lossy l = {.to = w->socket, .drop = 1};
	l.listener = http_listen_unix(path, 0600, &e);
	assert_true(l.listener >= 0);
	assert_int_equal(pthread_create(&t, NULL, pass, &l), 0);
	const struct hostagent_client_config cfg = {.socket = path};
	assert_int_equal(hostagent_connect(&cfg, &h, &e), 0);

	if (h.ops->pause(h.host, OP, "ibox", &s, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(w->fake.calls, 2);
	assert_int_equal(w->fake.done, 1);
	same_sandbox(&s, &w->fake.sandbox);

	// Lost twice: the caller is told that it does not know, and asks again.
	hostagent_disconnect(&h);
	assert_int_equal(hostagent_connect(&cfg, &h, &e), 0);
	l.drop = 2;
	assert_true(h.ops->pause(h.host, OP2, "ibox", &s, &e) < 0);
	assert_true(hostagent_lost(&e));
	e = (struct err){0};
	assert_int_equal(h.ops->pause(h.host, OP2, "ibox", &s, &e), 0);
	assert_int_equal(w->fake.done, 2);

	// A fork whose stream ends early: what was told is known, the rest is not.
	struct host_sandbox info[2] = {0};
	struct host_fork_child child[2] = {
		{.op_id = OP, .id = "ione", .token = "t", .info = &info[0]},
		{.op_id = OP2, .id = "itwo", .token = "t", .info = &info[1]},
	};
	struct host_fork req = {.op_id = OP, .id = "ibox", .children = child, .n = 2};
	hostagent_disconnect(&h);
	assert_int_equal(hostagent_connect(&cfg, &h, &e), 0);
	w->fake.hold_last = true;
	l.cut = 800; // in the midst of the second child
	struct seen seen = {.w = w, .n = 1};
	req.done = on_child;
	req.ctx = &seen;
	assert_true(h.ops->fork(h.host, &req, &e) < 0);
	assert_true(hostagent_lost(&e));
	assert_int_equal(seen.n, 2);
	assert_int_equal(child[1].rc, 0);
	assert_string_equal(info[1].id, "itwo");
	assert_true(child[0].rc < 0 && hostagent_lost(&child[0].e));
	hostagent_disconnect(&h);
	shutdown(l.listener, SHUT_RDWR);
	pthread_join(t, NULL);
	close(l.listener);
}

// --- many at once, and the end

static void *hammer(void *arg)
{
	struct world *w = arg;
	for (int i = 0; i < 200; i++) {
		char op[UUID_SIZE];
		struct host_place at;
		struct host_sandbox s;
		struct err e = {0};
		id_new_uuid(op);
		if (CALL(w, pause, op, "ibox", &s, &e) != 0 ||
			CALL(w, address, "ibox", &at, &e) != 0)
			return "failed";
	}
	return NULL;
}

static void many_threads_share_it(void **state)
{
	struct world *w = *state;
	pthread_t t[8];
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, hammer, w), 0);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		void *result;
		pthread_join(t[i], &result);
		assert_null(result);
	}
	assert_int_equal(w->fake.done, 8 * 200);
}

static void *slow_create(void *arg)
{
	struct world *w = arg;
	struct host_create c = {.op_id = OP, .id = "islow", .token = "t"};
	struct host_sandbox s;
	return CALL(w, create, &c, &s, NULL) == 0 ? NULL : "failed";
}

static void *stop_server(void *arg)
{
	struct world *w = arg;
	w->server = hostagent_server_free(w->server);
	return NULL;
}

static void the_end_waits_for_what_is_under_way(void **state)
{
	struct world *w = *state;
	pthread_t t, stop;
	void *result;
	w->fake.closed = true;
	assert_int_equal(pthread_create(&t, NULL, slow_create, w), 0);
	fake_wait_for(&w->fake, 1);
	assert_int_equal(pthread_create(&stop, NULL, stop_server, w), 0);
	// The socket's name goes first.
	while (file_exists(AT_FDCWD, w->socket))
		clock_sleep_ns(NSEC_PER_MSEC);
	fake_open(&w->fake);
	pthread_join(t, &result);
	assert_null(result);
	pthread_join(stop, NULL);
	assert_null(w->server);
}

static void only_its_group_may_connect(void **state)
{
	struct world *w = *state;
	struct stat st;
	struct err e = {0};
	assert_int_equal(stat(w->socket, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	struct hostagent_server *other = NULL;
	char path[64];
	snprintf(path, sizeof path, "%s/other.sock", w->dir);
	struct hostagent_server_config cfg = {
		.host = fake_host(&w->fake), .socket = path, .group = "no-such-group"};
	assert_true(hostagent_serve(&cfg, &other, &e) < 0);
	assert_non_null(strstr(e.text, "no-such-group"));
	if (geteuid() == 0) {
		cfg.group = "nogroup";
		assert_int_equal(hostagent_serve(&cfg, &other, &e), 0);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0660);
		assert_int_not_equal(st.st_gid, 0);
		hostagent_server_free(other);
		assert_false(file_exists(AT_FDCWD, path));
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(each_function_reaches_the_host_and_brings_its_answer),
		T(each_error_keeps_its_code_and_its_text),
		T(strange_ids_go_no_further),
		T(the_console_comes_whole),
		T(children_are_told_of_one_by_one),
		T(events_come_in_pages_and_go_when_acknowledged),
		T(a_watcher_is_told_as_it_happens),
		T(bad_requests_are_refused_by_name),
		T(both_spellings_and_all_forms_of_numbers_are_read),
		T(bodies_and_headers_beyond_the_protocol_are_refused),
		T(a_call_whose_time_is_over_is_answered_and_its_work_goes_on),
		T(a_host_that_hangs_is_given_up),
		T(a_host_that_is_away_is_lost_and_comes_back),
		T(a_lost_answer_is_asked_for_again_and_done_once),
		T(many_threads_share_it),
		T(the_end_waits_for_what_is_under_way),
		T(only_its_group_may_connect),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
