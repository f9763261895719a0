// SPDX-License-Identifier: Apache-2.0
// process.Process: the protocol's side of process.h.
#include <limits.h>
#include <signal.h>
#include <string.h>
#include "base/clock.h"
#include "envd/process/env.h"
#include "envd/process/path.h"
#include "envd/api/request.h"
#include "envd/api/rpc.h"
#include "envd/api/rpc_process.h"

#define KEEPALIVE_DEFAULT_NS (90 * NSEC_PER_SEC)
#define MAX_STRING (2u << 20) // the kernel's own limit for all arguments together
#define MAX_TAG 256
#define COALESCE (24u << 10) // stop collecting further messages for one write beyond this

// --- streams

struct stream {
	struct http_request *req;
	struct process_sub *sub;
	bool is_start; // its time-out is the process's own
	uint64_t deadline_ns, keepalive_ns;
	bool started, finished;
	struct strbuf out; // encoded, from sent on not yet handed out
	size_t sent;
};

static void stream_free(void *p)
{
	struct stream *s = p;
	process_sub_free(s->sub);
	strbuf_done(&s->out);
	free(s);
}

static void add_text(struct stream *s, const char *json)
{
	connect_envelope_add(&s->out, 0, json, strlen(json));
}

// {"event":{"data":{"stdout":"<base64>"}}}, written by hand: it carries all output.
static void add_data(struct stream *s, const struct process_chunk *c)
{
	static const char *const names[] = {
		[PROCESS_STDOUT] = "stdout", [PROCESS_STDERR] = "stderr", [PROCESS_PTY] = "pty"};
	size_t start = s->out.len;
	connect_envelope_add(&s->out, 0, "", 0);
	size_t payload = s->out.len;
	strbuf_addf(&s->out, "{\"event\":{\"data\":{\"%s\":\"", names[c->stream]);
	str_base64_encode(&s->out, c->data, c->len);
	strbuf_adds(&s->out, "\"}}}");
	if (s->out.failed)
		return;
	size_t len = s->out.len - payload;
	unsigned char *head = (unsigned char *)s->out.data + start;
	for (int i = 0; i < 4; i++)
		head[1 + i] = (unsigned char)(len >> (24 - 8 * i));
}

static void add_end(struct stream *s)
{
	const struct process_end *end = process_sub_end(s->sub);
	if (s->is_start && end->timed_out) {
		struct err e = {0};
		err_set(&e, ERR_TIMEOUT, "the process did not end in time and was killed");
		rpc_add_end(&s->out, &e);
	} else {
		bool ok = end->exited && end->exit_code == 0;
		json_t *o = json_pack("{s:{s:{s:i, s:b, s:s}}}", "event", "end", "exitCode",
			end->exit_code, "exited", end->exited, "status", end->status);
		if (!ok)
			json_object_set_new(json_object_get(json_object_get(o, "event"), "end"),
				"error", json_string(end->status));
		connect_envelope_add_json(&s->out, 0, o);
		json_decref(o);
		rpc_add_end(&s->out, NULL);
	}
	s->finished = true;
}

static void add_timeout(struct stream *s)
{
	struct err e = {0};
	err_set(&e, ERR_TIMEOUT, "the time given for the stream is over; the process goes on");
	rpc_add_end(&s->out, &e);
	s->finished = true;
}

// Waits for one event and encodes it. -errno: the client is gone.
static int take_event(struct stream *s)
{
	uint64_t idle = clock_monotonic_ns() + s->keepalive_ns;
	struct process_chunk *c;
	switch (process_sub_next(s->sub, MIN(idle, s->deadline_ns), http_req_socket(s->req), &c)) {
	case PROCESS_DATA:
		add_data(s, c);
		process_chunk_release(s->sub, c);
		break;
	case PROCESS_END:
		add_end(s);
		break;
	case PROCESS_IDLE:
		if (clock_monotonic_ns() >= s->deadline_ns)
			add_timeout(s);
		else
			add_text(s, "{\"event\":{\"keepalive\":{}}}");
		break;
	case PROCESS_GONE:
		return -ECONNRESET;
	}
	return strbuf_check(&s->out);
}

static ssize_t stream_next(void *p, char *buf, size_t max)
{
	struct stream *s = p;
	if (s->sent == s->out.len) {
		strbuf_consume(&s->out, s->out.len);
		s->sent = 0;
		if (s->finished)
			return 0;
		if (!s->started) {
			char text[64];
			snprintf(text, sizeof text, "{\"event\":{\"start\":{\"pid\":%d}}}",
				(int)process_sub_pid(s->sub));
			add_text(s, text);
			s->started = true;
		} else {
			do {
				int rc = take_event(s);
				if (rc < 0)
					return rc;
			} while (
				!s->finished && s->out.len < COALESCE && process_sub_ready(s->sub));
		}
	}
	size_t n = MIN(max, s->out.len - s->sent);
	memcpy(buf, s->out.data + s->sent, n);
	s->sent += n;
	return (ssize_t)n;
}

static void reply_stream(struct http_request *req, struct process_sub *sub, bool is_start)
{
	struct stream *s = calloc(1, sizeof *s);
	if (!s) {
		struct err e = {0};
		err_errno(&e, ENOMEM, "stream");
		process_sub_free(sub);
		rpc_reply_stream_error(req, &e);
		return;
	}
	uint64_t timeout = rpc_header_time(req, "Connect-Timeout-Ms", NSEC_PER_MSEC);
	uint64_t keepalive = rpc_header_time(req, "Keepalive-Ping-Interval", NSEC_PER_SEC);
	s->req = req;
	s->sub = sub;
	s->is_start = is_start;
	s->keepalive_ns = keepalive ? keepalive : KEEPALIVE_DEFAULT_NS;
	s->deadline_ns = timeout && !is_start ? clock_monotonic_ns() + timeout : UINT64_MAX;
	http_reply_stream(req, 200, RPC_STREAM_TYPE, stream_next, s, stream_free);
}

// --- requests

static int read_selector(json_t *in, struct process_selector *ret, struct err *e)
{
	json_t *process = NULL;
	const char *tag = NULL;
	uint32_t pid = 0;
	const struct json_field outer[] = {{"process", JF_OBJECT, &process, .required = true}};
	int rc = json_read_fields(in, outer, 1, true, e);
	const struct json_field inner[] = {{"tag", JF_STRING, &tag}};
	if (rc == 0)
		rc = json_read_fields(process, inner, 1, true, e);
	if (rc == 0)
		rc = rpc_read_u32(process, "pid", &pid, e);
	if (rc < 0)
		return rc;
	if (!tag && (pid == 0 || pid > INT_MAX))
		return err_set(e, ERR_INVALID, "process: needs a pid or a tag");
	*ret = (struct process_selector){.pid = (pid_t)pid, .tag = tag};
	return 0;
}

static int read_size(json_t *pty, uint16_t *ret_cols, uint16_t *ret_rows, struct err *e)
{
	json_t *size = NULL;
	uint32_t cols = 80, rows = 24;
	const struct json_field f[] = {{"size", JF_OBJECT, &size}};
	int rc = json_read_fields(pty, f, 1, true, e);
	if (rc == 0 && size)
		rc = rpc_read_u32(size, "cols", &cols, e);
	if (rc == 0 && size)
		rc = rpc_read_u32(size, "rows", &rows, e);
	if (rc < 0)
		return rc;
	if (cols > UINT16_MAX || rows > UINT16_MAX)
		return err_set(e, ERR_INVALID, "pty: the size is over %d", UINT16_MAX);
	*ret_cols = (uint16_t)cols;
	*ret_rows = (uint16_t)rows;
	return 0;
}

struct start_request {
	json_t *process, *args, *envs, *pty;
	const char *cmd, *cwd, *tag;
	bool stdin_open;
	uint16_t cols, rows;
};

static int read_start(json_t *in, struct start_request *r, struct err *e)
{
	*r = (struct start_request){.cwd = "", .stdin_open = true};
	const struct json_field outer[] = {
		{"process", JF_OBJECT, &r->process, .required = true},
		{"pty", JF_OBJECT, &r->pty},
		{"tag", JF_STRING, &r->tag, .max = MAX_TAG},
		{"stdin", JF_BOOL, &r->stdin_open},
	};
	int rc = json_read_fields(in, outer, ARRAY_SIZE(outer), true, e);
	const struct json_field inner[] = {
		{"cmd", JF_STRING, &r->cmd, .required = true, .max = MAX_STRING},
		{"args", JF_ARRAY, &r->args},
		{"envs", JF_OBJECT, &r->envs},
		{"cwd", JF_STRING, &r->cwd},
	};
	if (rc == 0)
		rc = json_read_fields(r->process, inner, ARRAY_SIZE(inner), true, e);
	if (rc == 0 && !*r->cmd)
		rc = err_set(e, ERR_INVALID, "cmd: must not be empty");
	if (rc == 0 && r->pty)
		rc = read_size(r->pty, &r->cols, &r->rows, e);
	return rc;
}

// NULL-terminated, pointing into args; owned by the caller.
static int build_argv(const char *cmd, json_t *args, char ***ret, struct err *e)
{
	size_t n = json_array_size(args), i;
	json_t *v;
	_cleanup_free_ char **argv = calloc(n + 2, sizeof *argv);
	if (!argv)
		return err_errno(e, ENOMEM, "arguments");
	argv[0] = (char *)cmd;
	json_array_foreach (args, i, v) {
		if (!json_is_string(v))
			return err_set(e, ERR_INVALID, "args[%zu]: must be a string", i);
		argv[i + 1] = (char *)json_string_value(v);
	}
	*ret = TAKE_PTR(argv);
	return 0;
}

static int start(
	struct http_request *req, struct rpc_call *c, struct process_sub **ret, struct err *e)
{
	struct start_request r;
	_cleanup_free_ char **argv = NULL, **env = NULL;
	char cwd[PATH_SIZE];
	struct agent *a = c->agent;
	int rc = read_start(c->in, &r, e);
	if (rc == 0)
		rc = build_argv(r.cmd, r.args, &argv, e);
	if (rc == 0)
		rc = request_resolve_path(a, r.cwd, &c->user, cwd, e);
	if (rc < 0)
		return rc;
	const char *path = getenv("PATH");
	_cleanup_json_ json_t *global = agent_env(a);
	rc = env_build(path && *path ? path : ENV_PATH_DEFAULT, c->user.name, c->user.home, global,
		r.envs, &env, e);
	if (rc < 0)
		return rc;
	const struct process_start s = {
		.cmd = r.cmd,
		.argv = argv,
		.env = env,
		.cwd = cwd,
		.tag = r.tag,
		// Run by hand as an ordinary user there is nobody else to become.
		.user = a->as_root || c->user.uid != geteuid() ? &c->user : NULL,
		.stdin_open = r.stdin_open,
		.pty = r.pty != NULL,
		.cols = r.cols,
		.rows = r.rows,
		.timeout_ns = rpc_header_time(req, "Connect-Timeout-Ms", NSEC_PER_MSEC),
		.config = r.process,
		.client_fd = http_req_socket(req),
	};
	return process_start(a->processes, &s, ret, e);
}

void rpc_process_start(struct http_request *req, void *ctx)
{
	struct err e = {0};
	_cleanup_(rpc_call_done) struct rpc_call c = {0};
	struct process_sub *sub;
	if (!rpc_begin_stream(req, ctx, &c))
		return;
	if (start(req, &c, &sub, &e) < 0)
		rpc_reply_stream_error(req, &e);
	else
		reply_stream(req, sub, true);
}

void rpc_process_connect(struct http_request *req, void *ctx)
{
	struct err e = {0};
	_cleanup_(rpc_call_done) struct rpc_call c = {0};
	struct process_selector which;
	struct process_sub *sub;
	if (!rpc_begin_stream(req, ctx, &c))
		return;
	if (read_selector(c.in, &which, &e) < 0 ||
		process_connect(c.agent->processes, &which, &sub, &e) < 0)
		rpc_reply_stream_error(req, &e);
	else
		reply_stream(req, sub, false);
}

static enum rpc_code call_list(struct rpc_call *c, struct err *e)
{
	c->out = json_pack("{s:o}", "processes", process_list(c->agent->processes));
	return RPC_OK;
}

static enum rpc_code call_update(struct rpc_call *c, struct err *e)
{
	struct process_selector which;
	json_t *pty = NULL;
	uint16_t cols, rows;
	const struct json_field f[] = {{"pty", JF_OBJECT, &pty}};
	if (read_selector(c->in, &which, e) < 0 || json_read_fields(c->in, f, 1, true, e) < 0)
		return RPC_FROM_ERR;
	if (!pty)
		return RPC_OK;
	if (read_size(pty, &cols, &rows, e) < 0 ||
		process_resize(c->agent->processes, &which, cols, rows, e) < 0)
		return RPC_FROM_ERR;
	return RPC_OK;
}

static enum rpc_code call_send_input(struct rpc_call *c, struct err *e)
{
	struct process_selector which;
	json_t *input = NULL;
	const char *text[2] = {NULL, NULL}; // stdin, pty
	const struct json_field outer[] = {{"input", JF_OBJECT, &input}};
	const struct json_field inner[] = {
		{"stdin", JF_STRING, &text[0], .max = CONNECT_MAX_MESSAGE},
		{"pty", JF_STRING, &text[1], .max = CONNECT_MAX_MESSAGE}};
	_cleanup_strbuf_ struct strbuf data = {0};
	if (read_selector(c->in, &which, e) < 0 || json_read_fields(c->in, outer, 1, true, e) < 0 ||
		(input && json_read_fields(input, inner, 2, true, e) < 0))
		return RPC_FROM_ERR;
	bool pty = text[1] != NULL;
	const char *b64 = text[pty];
	if (!b64) {
		err_set(e, ERR_UNIMPLEMENTED, "input: needs 'stdin' or 'pty'");
		return RPC_FROM_ERR;
	}
	if (str_base64_decode(&data, b64, strlen(b64)) < 0) {
		err_set(e, ERR_INVALID, "input: not valid base64");
		return RPC_FROM_ERR;
	}
	if (process_write(c->agent->processes, &which, pty, data.data, data.len, e) < 0)
		return RPC_FROM_ERR;
	return RPC_OK;
}

static enum rpc_code call_send_signal(struct rpc_call *c, struct err *e)
{
	struct process_selector which;
	if (read_selector(c->in, &which, e) < 0)
		return RPC_FROM_ERR;
	json_t *v = json_object_get(c->in, "signal");
	const char *name = json_string_value(v);
	int sig = 0;
	if (str_eq(name, "SIGNAL_SIGKILL") || json_integer_value(v) == SIGKILL)
		sig = SIGKILL;
	else if (str_eq(name, "SIGNAL_SIGTERM") || json_integer_value(v) == SIGTERM)
		sig = SIGTERM;
	if (!sig) {
		err_set(e, ERR_UNIMPLEMENTED,
			"signal: only SIGNAL_SIGKILL and SIGNAL_SIGTERM can be sent");
		return RPC_FROM_ERR;
	}
	if (process_signal(c->agent->processes, &which, sig, e) < 0)
		return RPC_FROM_ERR;
	return RPC_OK;
}

static enum rpc_code call_close_stdin(struct rpc_call *c, struct err *e)
{
	struct process_selector which;
	if (read_selector(c->in, &which, e) < 0)
		return RPC_FROM_ERR;
	int rc = process_close_stdin(c->agent->processes, &which, e);
	return rc == -ENOTTY ? RPC_UNKNOWN : rc < 0 ? RPC_FROM_ERR : RPC_OK;
}

void rpc_process_unary(struct http_request *req, void *ctx)
{
	static const struct rpc_method methods[] = {
		{"CloseStdin", call_close_stdin},
		{"List", call_list},
		{"SendInput", call_send_input},
		{"SendSignal", call_send_signal},
		{"Update", call_update},
	};
	rpc_serve_unary(req, ctx, methods, ARRAY_SIZE(methods));
}
