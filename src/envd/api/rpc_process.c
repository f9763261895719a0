// SPDX-License-Identifier: Apache-2.0
// process.Process: the protocol's side of process.h.
#include <limits.h>
#include <signal.h>
#include <string.h>
#include "base/clock.h"
#include "envd/api/process_stream.h"
#include "envd/api/request.h"
#include "envd/api/rpc.h"
#include "envd/api/rpc_process.h"
#include "envd/process/env.h"
#include "envd/process/path.h"

#define MAX_STRING (2u << 20) // the kernel's own limit for all arguments together
#define MAX_TAG 256

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
	bool stdin_open, ends_on_exit;
	uint16_t cols, rows;
};

static int read_start(json_t *in, struct start_request *r, struct err *e)
{
	*r = (struct start_request){.cwd = "", .stdin_open = true};
	const struct json_field outer[] = {
		{"process", JF_OBJECT, &r->process, .required = true}, {"pty", JF_OBJECT, &r->pty},
		{"tag", JF_STRING, &r->tag, .max = MAX_TAG}, {"stdin", JF_BOOL, &r->stdin_open},
		{"endOnExit", JF_BOOL, &r->ends_on_exit}, // beyond E2B's protocol
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
		.ends_on_exit = r.ends_on_exit,
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
		process_stream_reply(req, sub, true);
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
		process_stream_reply(req, sub, false);
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
