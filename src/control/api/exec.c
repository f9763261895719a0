// SPDX-License-Identifier: Apache-2.0
#include "control/api/exec.h"
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "control/api/agents.h"
#include "control/api/calls.h"
#include "control/api/exec_answer.h"
#include "control/api/exec_end.h"
#include "control/api/find.h"
#include "control/api/reply.h"
#include "control/api/work.h"
#include "agentclient/client.h"
#include "base/json.h"
#include "base/request_id.h"

#define MAX_EXEC_SEC 3600
#define DEFAULT_TIMEOUT_SEC 60
#define GUEST_GRACE_NS (5 * NSEC_PER_SEC) // the agent kills at the time-out; then we give up
#define STDIN_PIECE 32768
#define CONTROL_CALL_MS 5000

struct exec_body {
	const char *cmd, *cwd, *user, *stdin_text, *encoding;
	json_t *args, *env;
	uint64_t timeout_sec;
};

enum stop_reason {
	STOP_NONE,
	STOP_CLIENT_GONE,
	STOP_CLOSING,
	STOP_DEADLINE,
	STOP_NO_MEMORY,
	STOP_BUDGET
};

struct exec {
	struct http_request *req;
	struct envd_target target;
	char base_url[80], token[SHA256_HEX_SIZE];
	uint64_t deadline_ns; // CLOCK_MONOTONIC
	uint64_t began_ns;    // CLOCK_REALTIME
	enum stop_reason stop;
	struct exec_result result;
	struct strbuf input;
	bool has_input;
	pthread_t feeder;
	bool feeder_runs;
};

static int read_body(json_t *body, struct exec_body *b, struct err *e)
{
	*b = (struct exec_body){.timeout_sec = DEFAULT_TIMEOUT_SEC, .encoding = "auto"};
	const struct json_field fields[] = {
		{.name = "cmd", .type = JF_STRING, .out = &b->cmd, .max = 128u << 10},
		{.name = "args", .type = JF_ARRAY, .out = &b->args},
		{.name = "cwd", .type = JF_STRING, .out = &b->cwd},
		{.name = "env", .type = JF_STRING_MAP, .out = &b->env},
		{.name = "user", .type = JF_STRING, .out = &b->user, .max = 64},
		{.name = "timeout_sec",
			.type = JF_U64,
			.out = &b->timeout_sec,
			.min = 1,
			.max = MAX_EXEC_SEC},
		{.name = "stdin", .type = JF_STRING, .out = &b->stdin_text, .max = 1u << 20},
		{.name = "encoding", .type = JF_STRING, .out = &b->encoding},
	};
	int r = json_read_fields(body, fields, ARRAY_SIZE(fields), false, e);
	if (r < 0)
		return r;
	if (!b->cmd == !b->args)
		return err_set(e, ERR_INVALID, "cmd: give exactly one of 'cmd' and 'args'");
	if (b->args && json_array_size(b->args) == 0)
		return err_set(e, ERR_INVALID, "args: must not be empty");
	size_t i;
	json_t *item;
	json_array_foreach (b->args, i, item)
		if (!json_is_string(item))
			return err_set(e, ERR_INVALID, "args: all must be strings");
	if (!str_eq(b->encoding, "auto") && !str_eq(b->encoding, "base64"))
		return err_set(e, ERR_INVALID, "encoding: must be \"auto\" or \"base64\"");
	return 0;
}

// --- callbacks of envd_run, on the request's thread

static void *feed(void *arg);

static int on_start(void *ctx, uint32_t pid)
{
	struct exec *x = ctx;
	x->result.pid = pid;
	// Its own thread: a program that writes while it reads would otherwise block both of us.
	if (!x->has_input)
		return 0;
	x->feeder_runs = request_id_thread(&x->feeder, feed, x) == 0;
	if (!x->feeder_runs)
		x->stop = STOP_NO_MEMORY;
	return x->stop != STOP_NONE;
}

static int on_data(void *ctx, int stream, const void *data, size_t len)
{
	struct exec *x = ctx;
	int r = exec_result_add(&x->result, stream, data, len);
	if (r < 0)
		x->stop = r == -EAGAIN ? STOP_BUDGET : STOP_NO_MEMORY;
	return r;
}

static int on_tick(void *ctx)
{
	struct exec *x = ctx;
	if (http_req_aborted(x->req))
		x->stop = STOP_CLIENT_GONE;
	else if (http_req_closing(x->req))
		x->stop = STOP_CLOSING;
	else if (clock_monotonic_ns() > x->deadline_ns)
		x->stop = STOP_DEADLINE;
	return x->stop != STOP_NONE;
}

// --- calls beside it, each thread with its own connection

static int client_new(const char *base_url, struct http_client **ret, struct err *e)
{
	const struct http_client_config cfg = {.base_url = base_url, .passes_request_id = true};
	return http_client_new(&cfg, ret, e);
}

static void *feed(void *arg)
{
	struct exec *x = arg;
	_cleanup_(http_client_freep) struct http_client *client = NULL;
	if (client_new(x->base_url, &client, NULL) < 0)
		return NULL;
	// Errors mean that the program does not read any more: its own affair.
	int r = 0;
	for (size_t at = 0; at < x->input.len && r == 0; at += STDIN_PIECE) {
		_cleanup_strbuf_ struct strbuf b64 = {0};
		str_base64_encode(&b64, x->input.data + at, MIN(x->input.len - at, STDIN_PIECE));
		_cleanup_json_ json_t *req = json_pack("{s:{s:I}, s:{s:s}}", "process", "pid",
			(json_int_t)x->result.pid, "input", "stdin", b64.data);
		uint64_t now = clock_monotonic_ns();
		if (!req || now >= x->deadline_ns)
			return NULL;
		r = envd_unary(client, &x->target, "process.Process/SendInput", req,
			(int)((x->deadline_ns - now) / NSEC_PER_MSEC) + 1, NULL, NULL);
	}
	_cleanup_json_ json_t *req =
		json_pack("{s:{s:I}}", "process", "pid", (json_int_t)x->result.pid);
	envd_unary(
		client, &x->target, "process.Process/CloseStdin", req, CONTROL_CALL_MS, NULL, NULL);
	return NULL;
}

// The program of a request that nobody waits for any more.
static enum exec_fate kill_program(struct exec *x)
{
	_cleanup_(http_client_freep) struct http_client *client = NULL;
	struct err e = {0};
	if (client_new(x->base_url, &client, NULL) < 0)
		return EXEC_UNKNOWN;
	_cleanup_json_ json_t *req = json_pack("{s:{s:I}, s:s}", "process", "pid",
		(json_int_t)x->result.pid, "signal", "SIGNAL_SIGKILL");
	int r = envd_unary(
		client, &x->target, "process.Process/SendSignal", req, CONTROL_CALL_MS, NULL, &e);
	return r == 0 ? EXEC_KILLED : e.code == ERR_NOT_FOUND ? EXEC_GONE : EXEC_UNKNOWN;
}

// --- what went wrong

static int stop_error(struct exec *x, uint64_t timeout_sec, struct err *e)
{
	static const char *const became[] = {[EXEC_UNKNOWN] = "whether it was killed is not known",
		[EXEC_KILLED] = "the command was killed",
		[EXEC_GONE] = "the command had ended by itself"};
	struct exec_result *res = &x->result;
	if (res->pid)
		res->fate = kill_program(x);
	const char *what = res->pid ? became[res->fate] : "the command had not started";
	switch (x->stop) {
	case STOP_CLIENT_GONE:
		return err_set(e, ERR_CANCELED, "the client went away; %s", what);
	case STOP_CLOSING:
		return err_set(e, ERR_UNAVAILABLE, "the server is stopping; %s", what);
	case STOP_DEADLINE:
		return err_set(e, ERR_TIMEOUT,
			"the sandbox's agent told no end of the command within %u s; %s",
			(unsigned)timeout_sec, what);
	case STOP_BUDGET:
		return err_set(e, ERR_LIMIT,
			"output of commands under way has used up the server's memory for it "
			"(serve "
			"--answer-memory); %s: ask again later, or let it write to a file",
			what);
	default:
		return err_set(e, ERR_INTERNAL, "out of memory; %s", what);
	}
}

// Not by an answer of the agent's.
static bool is_broken(const struct exec *x, const struct err *e)
{
	return e->code == ERR_BAD_GATEWAY || e->code == ERR_UNAVAILABLE ||
	       (e->code == ERR_TIMEOUT && !x->result.pid);
}

// What the end of the call to the agent means.
static int explain(struct control *c, struct exec *x, struct sandbox_row *row, uint64_t timeout_sec,
	int rc, struct err *e)
{
	if (x->stop != STOP_NONE)
		return stop_error(x, timeout_sec, e);
	if (x->result.pid && e->code == ERR_TIMEOUT) {
		x->result.fate = EXEC_KILLED; // by the agent, which says so
		return err_set(e, ERR_TIMEOUT,
			"the command did not end within %u s and was killed, with its process "
			"group",
			(unsigned)timeout_sec);
	}
	if (is_broken(x, e))
		return exec_explain(c, x->req, row, x->began_ns, &x->result, e);
	return rc;
}

// Where its agent is.
static int find_agent(struct control *c, struct exec *x, const char *id, const char *user,
	struct sandbox_row **ret, struct err *e)
{
	struct host_place at;
	struct host_sandbox now;
	struct err why = {0};
	int r = find_live(c, id, ret, e);
	if (r < 0)
		return r;
	r = c->host.ops->address(c->host.host, id, &at, &why);
	if (r < 0 && why.code == ERR_CONFLICT && find_report(c, *ret, &now, NULL) == 0) {
		if (now.state == SANDBOX_PAUSED)
			return err_set(
				e, ERR_CONFLICT, "sandbox '%s' is paused: resume it first", id);
		// The host knew of its end before we did.
		if (row_ended(*ret))
			return find_say_ended(&now, e);
	}
	if (r < 0) {
		*e = why;
		return r;
	}
	snprintf(x->base_url, sizeof x->base_url, "http://%s:%d", at.address, ENVD_PORT);
	x->target = (struct envd_target){.base_url = x->base_url, .token = x->token, .user = user};
	row_get_token(*ret, x->token);
	return 0;
}

static int call_agent(struct control *c, struct exec *x, const char *id,
	const struct envd_process *p, struct envd_exit *ret, struct err *e)
{
	_cleanup_(http_client_freep) struct http_client *client = NULL;
	struct err why = {0};
	int r = agents_take(c->agents, id, x->base_url, &client, e);
	if (r < 0)
		return r;
	r = envd_run(client, &x->target, p, ret, &why);
	// An agent that was started anew and has lost its settings, or a user that is none.
	if (r < 0 && why.code == ERR_UNAUTHENTICATED && !x->result.pid &&
		envd_call_greet(client, &x->target, id, CONTROL_CALL_MS, NULL) == 0)
		r = envd_run(client, &x->target, p, ret, &why);
	if (r < 0)
		*e = why;
	else
		agents_give(c->agents, id, x->base_url, TAKE_PTR(client));
	return r;
}

static int run(struct control *c, struct exec *x, const struct exec_body *b, struct err *e)
{
	char id[64];
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	size_t n = json_array_size(b->args);
	_cleanup_free_ const char **argv = calloc(n + 1, sizeof *argv);
	if (!argv)
		return err_errno(e, ENOMEM, "args");
	for (size_t i = 0; i < n; i++)
		argv[i] = json_string_value(json_array_get(b->args, i));
	find_path_id(c, x->req, id);
	int r = find_agent(c, x, id, b->user, &row, e);
	if (r < 0)
		return r;
	const struct envd_process p = {
		.cmd = b->args ? argv[0] : NULL,
		.args = b->args ? argv + 1 : NULL,
		.shell = b->cmd,
		.env = b->env,
		.cwd = b->cwd,
		.stdin_open = b->stdin_text != NULL,
		.end_on_exit = true,
		.timeout_ms = b->timeout_sec * 1000,
		.on_start = on_start,
		.on_data = on_data,
		.tick = on_tick,
		.ctx = x,
	};
	x->has_input = b->stdin_text != NULL;
	x->began_ns = clock_realtime_ns();
	x->deadline_ns = clock_monotonic_ns() + b->timeout_sec * NSEC_PER_SEC + GUEST_GRACE_NS;
	r = calls_begin(&row->execs, EXEC_CALLS_SANDBOX_MAX, "run a command in this sandbox", e);
	if (r < 0)
		return r;
	r = call_agent(c, x, id, &p, &x->result.exit, e);
	x->result.ended = r == 0;
	if (r < 0)
		r = explain(c, x, row, b->timeout_sec, r, e);
	if (x->feeder_runs)
		pthread_join(x->feeder, NULL);
	calls_end(&row->execs);
	return r;
}

void exec_run(struct http_request *r, void *ctx)
{
	struct exec x = {.req = r};
	struct exec_body b = {0};
	struct err e = {0};
	_cleanup_json_ json_t *body = NULL;
	if (work_refuse_key(r, "a command's output is not kept, so not told again either"))
		return;
	int rc = http_req_json(r, false, &body, &e);
	if (rc == 0)
		rc = read_body(body, &b, &e);
	if (rc == 0 && b.stdin_text &&
		str_base64_decode(&x.input, b.stdin_text, strlen(b.stdin_text)) < 0)
		rc = err_set(&e, ERR_INVALID, "stdin: is not base64");
	x.result.budget = &((struct control *)ctx)->answers;
	x.result.base64 = str_eq(b.encoding, "base64");
	struct control *c = ctx;
	if (rc == 0)
		rc = calls_begin(&c->execs, EXEC_CALLS_MAX, "run a command", &e);
	if (rc == 0) {
		rc = run(c, &x, &b, &e);
		calls_end(&c->execs);
	}
	if (rc == 0)
		exec_answer(r, &x.result);
	else
		exec_answer_error(r, &x.result, &e);
	if (x.began_ns)
		timings_add_exec(((struct control *)ctx)->timings,
			clock_monotonic_ns() - http_req_started_ns(r), rc < 0);
	exec_result_done(&x.result);
	strbuf_done(&x.input);
}
