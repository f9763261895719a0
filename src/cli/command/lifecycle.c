// SPDX-License-Identifier: Apache-2.0
// pause, resume, fork.
#include <string.h>
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/command/all.h"

#define MAX_TIMEOUT_SEC 2592000
#define MAX_LINE (1u << 20)

// What both print: nothing on success, as rm does.
static int show(struct cli *c, const json_t *sandbox, bool verbose)
{
	if (c->json)
		return output_json(sandbox);
	return verbose ? output_phases(json_object_get(sandbox, "phases"), stderr) : 0;
}

int cmd_pause(struct cli *c, struct err *e)
{
	bool verbose = false;
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_t *sandbox = NULL;
	const struct cli_option options[] = {
		{'v', "verbose", NULL, "show how long each step took", OPT_FLAG, &verbose},
		{0},
	};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc != 0)
		return rc;
	rc = api_sandbox_path(c->argv[0], "/pause", &path, e);
	if (rc == 0)
		rc = api_call_slow(c, "POST", path, NULL, "pausing the sandbox", &sandbox, e);
	return rc < 0 ? rc : show(c, sandbox, verbose);
}

int cmd_resume(struct cli *c, struct err *e)
{
	bool verbose = false, has_timeout = false, disk_only = false;
	uint64_t timeout = 0;
	const char *from = NULL;
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_t *sandbox = NULL, *body = json_object();
	const struct cli_option options[] = {
		{0, "timeout", "TIME", "life from now (default: as it was created with)",
			OPT_SECONDS, &timeout, 0, MAX_TIMEOUT_SEC, &has_timeout},
		{0, "from", "SNAPSHOT", "take it back to this snapshot of its own", OPT_STRING,
			&from},
		{0, "disk-only", NULL, "boot from its disk, without its memory", OPT_FLAG,
			&disk_only},
		{'v', "verbose", NULL, "show how long each step took", OPT_FLAG, &verbose},
		{0},
	};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc != 0)
		return rc;
	if (has_timeout)
		json_object_set_new(body, "timeout_sec", json_integer((json_int_t)timeout));
	if (from && json_object_set_new(body, "from", json_string(from)) < 0)
		return err_set(e, ERR_INVALID, "--from: the name is not UTF-8");
	if (disk_only)
		json_object_set_new(body, "disk_only", json_true());
	rc = api_sandbox_path(c->argv[0], "/resume", &path, e);
	if (rc == 0)
		rc = api_call_slow(c, "POST", path, body, "resuming the sandbox", &sandbox, e);
	return rc < 0 ? rc : show(c, sandbox, verbose);
}

// --- fork

struct forking {
	struct cli *c;
	struct strbuf line;
	bool verbose, failed;
	int rc; // of our output
};

// A child that did not come up is told at once; the exit code is the first one's.
static void tell_child(struct forking *f, const json_t *child)
{
	const json_t *error = json_object_get(child, "error");
	const char *id = json_string_value(json_object_get(child, "id"));
	if (!error) {
		if (!f->c->json)
			puts(id ? id : "-");
		if (f->verbose && !f->c->json)
			output_phases(json_object_get(child, "phases"), stderr);
		return;
	}
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *message = json_string_value(json_object_get(error, "message"));
	output_complain("%s: %s", id ? id : "a child", message ? message : "no reason was given");
	if (!f->failed)
		f->c->exit_code = err_info(err_code_from_name(code ? code : ""))->exit_code;
	f->failed = true;
}

static int on_child(void *ctx, const char *data, size_t len)
{
	struct forking *f = ctx;
	strbuf_add(&f->line, data, len);
	for (char *nl; f->line.len && (nl = memchr(f->line.data, '\n', f->line.len));) {
		size_t n = (size_t)(nl - f->line.data);
		_cleanup_json_ json_t *child = json_loadb(f->line.data, n, 0, NULL);
		if (child)
			tell_child(f, child);
		strbuf_consume(&f->line, n + 1);
	}
	f->rc = output_flush();
	return f->rc < 0 || f->line.failed || f->line.len > MAX_LINE;
}

static int fork_lines(
	struct cli *c, const char *path, const json_t *body, bool verbose, struct err *e)
{
	struct forking f = {.c = c, .verbose = verbose};
	_cleanup_free_ char *text = json_compact(body);
	if (!text)
		return err_errno(e, ENOMEM, "fork");
	int rc = api_call_with(c,
		&(struct http_call){
			.method = "POST",
			.path = path,
			.headers = (const char *const[]){"Accept: application/x-ndjson", NULL},
			.body = text,
			.body_len = strlen(text),
			.write = on_child,
			.ctx = &f,
		},
		NULL, e);
	strbuf_done(&f.line);
	if (f.rc < 0)
		return err_errno(e, f.rc, "standard output");
	return rc;
}

int cmd_fork(struct cli *c, struct err *e)
{
	uint64_t count = 1, timeout = 0;
	bool has_timeout = false, verbose = false;
	const char *on_timeout = NULL;
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_t *env = NULL, *metadata = NULL, *body = json_object(), *answer = NULL;
	const struct cli_option options[] = {
		{'n', "count", "N", "so many children (default: 1)", OPT_U64, &count, 1, 100},
		{0, "timeout", "TIME", "life of the children (default: as the source's was)",
			OPT_SECONDS, &timeout, 0, MAX_TIMEOUT_SEC, &has_timeout},
		{0, "on-timeout", "kill|pause", "what happens then (default: the source's)",
			OPT_STRING, &on_timeout},
		{'e', "env", "K=V", "environment of new processes; repeatable", OPT_MAP, &env},
		{0, "metadata", "K=V", "label, instead of the source's; repeatable", OPT_MAP,
			&metadata},
		{'v', "verbose", NULL, "show how long each step took", OPT_FLAG, &verbose},
		{0},
	};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc != 0)
		return rc;
	json_object_set_new(body, "count", json_integer((json_int_t)count));
	if (has_timeout)
		json_object_set_new(body, "timeout_sec", json_integer((json_int_t)timeout));
	if (on_timeout)
		json_object_set_new(body, "on_timeout", json_string(on_timeout));
	if (env)
		json_object_set(body, "env", env);
	if (metadata)
		json_object_set(body, "metadata", metadata);
	rc = api_sandbox_path(c->argv[0], "/fork", &path, e);
	if (rc < 0)
		return rc;
	if (!c->json)
		return fork_lines(c, path, body, verbose, e);
	rc = api_call_slow(c, "POST", path, body, "forking the sandbox", &answer, e);
	if (rc < 0)
		return rc;
	struct forking f = {.c = c};
	const json_t *child = NULL;
	size_t i;
	json_array_foreach (json_object_get(answer, "children"), i, child)
		tell_child(&f, child);
	return output_json(answer);
}
