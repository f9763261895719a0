// SPDX-License-Identifier: Apache-2.0
#include "agentclient/client.h"
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "http/connect.h"

// --- calls

#define MAX_HEADERS 10

struct headers {
	char *text[MAX_HEADERS]; // ends with NULL
	size_t n;
	bool failed;
};

static void headers_done(struct headers *h)
{
	for (size_t i = 0; i < h->n; i++)
		free(h->text[i]);
}

static void header_add(struct headers *h, const char *fmt, ...) _printf_(2, 3);
static void header_add(struct headers *h, const char *fmt, ...)
{
	va_list ap;
	char *s = NULL;
	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	if (!s || h->n + 1 >= MAX_HEADERS || strpbrk(s, "\r\n")) {
		free(s);
		h->failed = true;
		return;
	}
	h->text[h->n++] = s;
}

static void headers_of(struct headers *h, const struct envd_target *t)
{
	if (t->token)
		header_add(h, "X-Access-Token: %s", t->token);
	if (t->sandbox_id) {
		header_add(h, "E2b-Sandbox-Id: %s", t->sandbox_id);
		header_add(h, "E2b-Sandbox-Port: %d", ENVD_PORT);
	}
	if (t->user) {
		_cleanup_strbuf_ struct strbuf plain = {0}, b = {0};
		strbuf_addf(&plain, "%s:", t->user);
		str_base64_encode(&b, plain.data ? plain.data : "", plain.len);
		header_add(h, "Authorization: Basic %s", b.data ? b.data : "");
	}
	header_add(h, "Connect-Protocol-Version: 1");
}

// The text of an answer that is an error of the agent or of the edge.
static int http_error(const char *what, const struct http_response *r, struct err *e)
{
	_cleanup_json_ json_t *j = http_response_json(r);
	const char *message = json_string_value(json_object_get(j, "message"));
	static const struct {
		int status;
		enum err_code code;
	} map[] = {{400, ERR_INVALID}, {401, ERR_UNAUTHENTICATED}, {403, ERR_FORBIDDEN},
		{404, ERR_NOT_FOUND}, {409, ERR_CONFLICT}, {413, ERR_TOO_LARGE}, {429, ERR_LIMIT},
		{501, ERR_UNIMPLEMENTED}, {502, ERR_BAD_GATEWAY}, {503, ERR_UNAVAILABLE},
		{504, ERR_TIMEOUT}, {507, ERR_NO_SPACE}};
	enum err_code code = ERR_INTERNAL;
	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		if (map[i].status == r->status)
			code = map[i].code;
	return err_set(e, code, "%s: status %d%s%s", what, r->status, message ? ": " : "",
		message ? message : "");
}

#define INSTANCE_HEADER "X-Envd-Instance"

// The guest's word: it goes into logs, so nothing but digits. Nothing is known from no answer.
static void keep_identity(const struct envd_target *t, const struct http_response *r)
{
	const char *given = r->header[0];
	bool good = given[strspn(given, "0123456789abcdef")] == '\0';
	if (t->instance && (!good || str_format(t->instance, ENVD_INSTANCE_SIZE, "%s", given) < 0))
		t->instance[0] = '\0';
	if (t->version && r->status)
		agent_version_read(r->header[1], good && given[0], t->version);
}

// Of a stream. The agent sends output in pieces of 32 KiB.
#define MESSAGE_MAX (1u << 20)
#define MESSAGE_VALUES 4096u
#define SHORT_ANSWER (64u << 10) // a guest may send more than it is asked for

static int post_json(struct http_client *c, const struct envd_target *t, const char *path,
	json_t *body, int timeout_ms, size_t max, struct http_response *ret, struct err *e)
{
	_cleanup_(headers_done) struct headers h = {0};
	_cleanup_free_ char *text = json_compact(body);
	headers_of(&h, t);
	if (!text || h.failed)
		return err_set(e, ERR_INVALID, "%s: request cannot be sent", path);
	struct http_call call = {.method = "POST",
		.path = path,
		.headers = (const char *const *)h.text,
		.body = text,
		.body_len = strlen(text),
		.tick = t->tick,
		.ctx = t->ctx,
		.alive = t->alive,
		.alive_ctx = t->alive_ctx,
		.silence_ms = t->silence_ms,
		// A guest that has just been woken, on a busy machine, may take long to answer at
		// all.
		.connect_timeout_ms = timeout_ms,
		.timeout_ms = timeout_ms,
		.max_body = max,
		.keep_header = {INSTANCE_HEADER, AGENT_HEADER}};
	int rc = http_client_call(c, &call, ret, e);
	keep_identity(t, ret);
	return rc;
}

int envd_call_health(
	struct http_client *c, const struct envd_target *t, int timeout_ms, struct err *e)
{
	_cleanup_(http_response_done) struct http_response r = {0};
	struct http_call call = {.method = "GET",
		.path = "/health",
		.tick = t->tick,
		.ctx = t->ctx,
		.connect_timeout_ms = timeout_ms,
		.timeout_ms = timeout_ms,
		.max_body = SHORT_ANSWER,
		.keep_header = {INSTANCE_HEADER, AGENT_HEADER}};
	int rc = http_client_call(c, &call, &r, e);
	keep_identity(t, &r);
	if (rc == 0 && r.status != 204)
		rc = err_set(e, ERR_BAD_GATEWAY, "GET /health: status %d", r.status);
	return rc;
}

// Of "init;dur=12.345": milliseconds. 0 where the guest does not say.
static uint64_t guest_ns(const struct http_response *r)
{
	const char *p = strstr(r->server_timing, "dur=");
	double ms = p ? strtod(p + 4, NULL) : 0;
	return ms > 0 && ms < 1e6 ? (uint64_t)(ms * NSEC_PER_MSEC) : 0;
}

int envd_call_init(struct http_client *c, const struct envd_target *t, const struct envd_init *i,
	int timeout_ms, uint64_t *ret_guest_ns, struct err *e)
{
	_cleanup_json_ json_t *j = json_object();
	_cleanup_strbuf_ struct strbuf entropy = {0};
	_cleanup_(http_response_done) struct http_response r = {0};
	char when[40];
	// Nanoseconds matter here: the guest's clock is set from this.
	uint64_t ns = i->timestamp_ns ? i->timestamp_ns : clock_realtime_ns();
	char second[32];
	clock_format_rfc3339(ns, second);
	snprintf(when, sizeof when, "%.19s.%09lluZ", second,
		(unsigned long long)(ns % NSEC_PER_SEC));
	json_object_set_new(j, "timestamp", json_string(when));
	if (i->token)
		json_object_set_new(j, "accessToken", json_string(i->token));
	if (i->env)
		json_object_set(j, "envVars", i->env);
	if (i->hostname)
		json_object_set_new(j, "hostname", json_string(i->hostname));
	if (i->default_user)
		json_object_set_new(j, "defaultUser", json_string(i->default_user));
	if (i->entropy_len) {
		str_base64_encode(&entropy, i->entropy, i->entropy_len);
		json_object_set_new(j, "entropy", json_string(entropy.data));
	}
	if (i->dns && i->dns[0])
		json_object_set_new(j, "dns", json_string(i->dns));
	if (i->dns_own)
		json_object_set_new(j, "dnsOwn", json_true());
	if (i->grow_root)
		json_object_set_new(j, "growRoot", json_true());
	if (i->resumed)
		json_object_set_new(j, "resumed", json_true());
	if (i->resumed || i->clock_ppm)
		json_object_set_new(j, "clockPpm", json_integer(i->clock_ppm));
	int rc = post_json(c, t, "/init", j, timeout_ms, SHORT_ANSWER, &r, e);
	if (rc < 0)
		return rc;
	if (ret_guest_ns)
		*ret_guest_ns = guest_ns(&r);
	return r.status == 204 ? 0 : http_error("POST /init", &r, e);
}

int envd_call_greet(struct http_client *c, const struct envd_target *t, const char *hostname,
	int timeout_ms, struct err *e)
{
	return envd_call_init(c, t, &(struct envd_init){.token = t->token, .hostname = hostname},
		timeout_ms, NULL, e);
}

int envd_call_ports(struct http_client *c, const struct envd_target *t, uint16_t port,
	int timeout_ms, bool *ret_loopback, bool *ret_outside, struct err *e)
{
	_cleanup_(headers_done) struct headers h = {0};
	_cleanup_(http_response_done) struct http_response r = {0};
	char path[32];
	snprintf(path, sizeof path, "/ports/%u", port);
	headers_of(&h, t);
	if (h.failed)
		return err_set(e, ERR_INVALID, "%s: request cannot be sent", path);
	const struct http_call call = {.method = "GET",
		.path = path,
		.headers = (const char *const *)h.text,
		.connect_timeout_ms = timeout_ms,
		.timeout_ms = timeout_ms,
		.max_body = SHORT_ANSWER};
	int rc = http_client_call(c, &call, &r, e);
	if (rc < 0)
		return rc;
	if (r.status != 200)
		return http_error("GET /ports", &r, e);
	_cleanup_json_ json_t *j = http_response_json(&r);
	*ret_loopback = json_is_true(json_object_get(j, "loopback"));
	*ret_outside = json_is_true(json_object_get(j, "outside"));
	return 0;
}

static int post_nothing(struct http_client *c, const struct envd_target *t, const char *path,
	int timeout_ms, struct err *e)
{
	_cleanup_json_ json_t *j = json_object();
	_cleanup_(http_response_done) struct http_response r = {0};
	char what[32];
	int rc = post_json(c, t, path, j, timeout_ms, SHORT_ANSWER, &r, e);
	if (rc < 0)
		return rc;
	snprintf(what, sizeof what, "POST %s", path);
	// How long the agent was at what it did.
	if (r.server_timing[0])
		log_debug("%s timing=\"%s\"", what, r.server_timing);
	return r.status == 204 ? 0 : http_error(what, &r, e);
}

int envd_call_freeze(
	struct http_client *c, const struct envd_target *t, int timeout_ms, struct err *e)
{
	return post_nothing(c, t, "/freeze", timeout_ms, e);
}

int envd_call_thaw(
	struct http_client *c, const struct envd_target *t, int timeout_ms, struct err *e)
{
	return post_nothing(c, t, "/thaw", timeout_ms, e);
}

int envd_call_replace(struct http_client *c, const struct envd_target *t,
	const struct envd_program *p, bool resumed, int timeout_ms, struct err *e)
{
	_cleanup_(headers_done) struct headers h = {0};
	_cleanup_(http_response_done) struct http_response r = {0};
	char path[128];
	snprintf(path, sizeof path, "/upgrade?sha256=%.64s%s", p->sha256,
		resumed ? "&resumed=1" : "");
	headers_of(&h, t);
	if (h.failed)
		return err_set(e, ERR_INVALID, "/upgrade: request cannot be sent");
	const struct http_call call = {.method = "POST",
		.path = path,
		.headers = (const char *const *)h.text,
		.body = p->data,
		.body_len = p->len,
		.content_type = "application/octet-stream",
		.tick = t->tick,
		.ctx = t->ctx,
		.connect_timeout_ms = timeout_ms,
		.timeout_ms = timeout_ms,
		.max_body = SHORT_ANSWER};
	int rc = http_client_call(c, &call, &r, e);
	if (rc < 0)
		return rc;
	return r.status == 202 ? 0 : http_error("POST /upgrade", &r, e);
}

int envd_call_oom(struct http_client *c, const struct envd_target *t,
	const struct envd_oom_report *told, int timeout_ms, struct envd_oom_report *ret,
	struct err *e)
{
	_cleanup_(http_response_done) struct http_response r = {0};
	_cleanup_json_ json_t *j = json_object(), *answer = NULL;
	if (told)
		json_object_update_new(j, json_pack("{s:I, s:I}", "told", (json_int_t)told->total,
						  "seq", (json_int_t)told->seq));
	int rc = post_json(c, t, "/oom", j, timeout_ms, SHORT_ANSWER, &r, e);
	if (rc < 0)
		return rc;
	if (r.status != 200)
		return http_error("POST /oom", &r, e);
	if (!(answer = http_response_json(&r)))
		return err_set(e, ERR_BAD_GATEWAY, "POST /oom: answer is not JSON");
	oom_read_report(answer, ret);
	return 0;
}

int envd_unary(struct http_client *c, const struct envd_target *t, const char *method, json_t *req,
	int timeout_ms, json_t **ret, struct err *e)
{
	_cleanup_(http_response_done) struct http_response r = {0};
	char path[128];
	if (str_format(path, sizeof path, "/%s", method) < 0)
		return err_set(e, ERR_INVALID, "method name too long");
	int rc = post_json(c, t, path, req, timeout_ms, ret ? 0 : SHORT_ANSWER, &r, e);
	if (rc < 0)
		return rc;
	if (r.status != 200) {
		rc = connect_parse_error(r.body.data, r.body.len, r.status, e);
		return rc < 0 ? rc : http_error(method, &r, e);
	}
	if (ret && !(*ret = http_response_json(&r)))
		return err_set(e, ERR_BAD_GATEWAY, "%s: answer is not JSON", method);
	return 0;
}

// --- process streams

struct run {
	const struct envd_process *p;
	struct strbuf in, payload, bytes;
	struct envd_exit end;
	struct err error;
	int rc; // of a callback or of the stream
	bool ended, closed;
};

static int on_data(struct run *r, json_t *data)
{
	static const struct {
		const char *name;
		int stream;
	} names[] = {{"stdout", 1}, {"stderr", 2}, {"pty", 0}};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		json_t *v = json_object_get(data, names[i].name);
		if (!json_is_string(v))
			continue;
		r->bytes.len = 0;
		if (str_base64_decode(&r->bytes, json_string_value(v), json_string_length(v)) < 0)
			return err_set(&r->error, ERR_BAD_GATEWAY, "output is not base64");
		if (r->p->on_data &&
			r->p->on_data(r->p->ctx, names[i].stream, r->bytes.data, r->bytes.len))
			return err_set(&r->error, ERR_CANCELED, "canceled");
	}
	return 0;
}

static int on_message(struct run *r)
{
	_cleanup_json_ json_t *j =
		json_parse_foreign(r->payload.data, r->payload.len, MESSAGE_VALUES);
	json_t *event = json_object_get(j, "event"), *v;
	if ((v = json_object_get(event, "data")))
		return on_data(r, v);
	if ((v = json_object_get(event, "start"))) {
		uint32_t pid = (uint32_t)json_integer_value(json_object_get(v, "pid"));
		if (r->p->on_start && r->p->on_start(r->p->ctx, pid))
			return err_set(&r->error, ERR_CANCELED, "canceled");
		return 0;
	}
	if ((v = json_object_get(event, "end"))) {
		const char *status = json_string_value(json_object_get(v, "status"));
		r->end.exit_code = (int)json_integer_value(json_object_get(v, "exitCode"));
		r->end.exited = json_is_true(json_object_get(v, "exited"));
		r->end.output_open = json_is_true(json_object_get(v, "outputOpen"));
		snprintf(r->end.status, sizeof r->end.status, "%s", status ? status : "");
		oom_read(json_object_get(v, "oomKilled"), &r->end.oom);
		r->ended = true;
	}
	return 0; // keepalive, and what a newer agent may send
}

static int on_body(void *ctx, const char *data, size_t len)
{
	struct run *r = ctx;
	unsigned flags;
	strbuf_add(&r->in, data, len);
	for (;;) {
		int n = r->in.failed ? -ENOMEM : connect_envelope_next(&r->in, &flags, &r->payload);
		if (n == 0 && r->in.len > MESSAGE_MAX)
			n = -EMSGSIZE;
		if (n < 0)
			r->rc = err_errno(&r->error, n, "stream of the guest's agent");
		if (n <= 0)
			return r->rc;
		if (flags & CONNECT_FLAG_END) {
			r->closed = true;
			r->rc = connect_parse_error(
				r->payload.data, r->payload.len, 200, &r->error);
		} else {
			r->rc = on_message(r);
		}
		if (r->rc < 0)
			return r->rc;
	}
}

static int on_tick(void *ctx)
{
	struct run *r = ctx;
	return r->p->tick ? r->p->tick(r->p->ctx) : 0;
}

static json_t *start_request(const struct envd_process *p)
{
	json_t *args = json_array(), *process;
	if (p->shell) {
		json_array_append_new(args, json_string("-l"));
		json_array_append_new(args, json_string("-c"));
		json_array_append_new(args, json_string(p->shell));
	}
	for (const char *const *a = p->args; a && *a; a++)
		json_array_append_new(args, json_string(*a));
	process = json_pack("{s:s, s:o}", "cmd", p->shell ? "/bin/bash" : p->cmd, "args", args);
	if (process && p->env)
		json_object_set(process, "envs", p->env);
	if (process && p->cwd)
		json_object_set_new(process, "cwd", json_string(p->cwd));
	json_t *j = json_pack("{s:o, s:b}", "process", process, "stdin", (int)p->stdin_open);
	if (j && p->end_on_exit)
		json_object_set_new(j, "endOnExit", json_true());
	if (j && p->tag)
		json_object_set_new(j, "tag", json_string(p->tag));
	if (j && p->pty)
		json_object_set_new(j, "pty",
			json_pack("{s:{s:i, s:i}}", "size", "cols", (int)p->cols, "rows",
				(int)p->rows));
	return j;
}

static void run_done(struct run *r)
{
	strbuf_done(&r->in);
	strbuf_done(&r->payload);
	strbuf_done(&r->bytes);
}

int envd_run(struct http_client *c, const struct envd_target *t, const struct envd_process *p,
	struct envd_exit *ret, struct err *e)
{
	_cleanup_(run_done) struct run r = {.p = p};
	_cleanup_(headers_done) struct headers h = {0};
	_cleanup_json_ json_t *j = start_request(p);
	_cleanup_strbuf_ struct strbuf body = {0};
	_cleanup_(http_response_done) struct http_response resp = {0};
	if (!j) // also when an argument is not UTF-8, which JSON cannot carry
		return err_set(e, ERR_INVALID, "the command is not valid UTF-8");
	connect_envelope_add_json(&body, 0, j);
	headers_of(&h, t);
	if (p->timeout_ms)
		header_add(&h, "Connect-Timeout-Ms: %llu", (unsigned long long)p->timeout_ms);
	if (h.failed || body.failed)
		return err_set(e, ERR_INVALID, "the request cannot be sent");
	struct http_call call = {.method = "POST",
		.path = "/process.Process/Start",
		.headers = (const char *const *)h.text,
		.body = body.data,
		.body_len = body.len,
		.content_type = "application/connect+json",
		.write = on_body,
		.tick = p->tick ? on_tick : NULL,
		.ctx = &r,
		.alive = t->alive,
		.alive_ctx = t->alive_ctx,
		.silence_ms = t->silence_ms};
	int rc = http_client_call(c, &call, &resp, e);
	if (r.rc < 0) { // the stream's own reason says more than "aborted"
		if (e)
			*e = r.error;
		return r.rc;
	}
	if (rc < 0)
		return rc;
	if (resp.status != 200)
		return http_error("start of the process", &resp, e);
	if (!r.closed || !r.ended)
		return err_set(e, ERR_BAD_GATEWAY, "the guest went away");
	*ret = r.end;
	return 0;
}
