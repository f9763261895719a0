// SPDX-License-Identifier: Apache-2.0
// logs, health.
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "cli/api.h"
#include "cli/output.h"
#include "http/json.h"

static int collect(void *ctx, const char *data, size_t len)
{
	struct strbuf *b = ctx;
	strbuf_add(b, data, len);
	return b->failed;
}

// What is new in now compared with before. The server keeps the newest part of a long console, so
// the old text may have lost its head: it is then found again by its own last line's worth.
static size_t new_from(const struct strbuf *before, const struct strbuf *now)
{
	if (before->len == 0)
		return 0;
	if (now->len >= before->len && memcmp(before->data, now->data, before->len) == 0)
		return before->len;
	size_t n = MIN(before->len, (size_t)512);
	const char *tail = before->data + before->len - n;
	const char *hit = now->len ? memmem(now->data, now->len, tail, n) : NULL;
	return hit ? (size_t)(hit - now->data) + n : 0;
}

int cmd_logs(struct cli *c, struct err *e)
{
	bool follow = false;
	_cleanup_free_ char *path = NULL, *state_path = NULL;
	_cleanup_strbuf_ struct strbuf before = {0};
	const struct cli_option options[] = {
		{'f', "follow", NULL, "go on until the sandbox ends", OPT_FLAG, &follow},
		{0},
	};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc != 0)
		return rc;
	rc = api_sandbox_path(c->argv[0], "/logs", &path, e);
	if (rc == 0)
		rc = api_sandbox_path(c->argv[0], "", &state_path, e);
	for (bool running = true; rc == 0 && running;) {
		_cleanup_strbuf_ struct strbuf now = {0};
		_cleanup_json_ json_t *s = NULL;
		// Asked before the console is read: what a sandbox says last is not missed.
		if (follow)
			rc = api_call(c, "GET", state_path, NULL, &s, e);
		if (rc == 0)
			rc = api_call_with(c,
				&(struct http_call){
					.method = "GET",
					.path = path,
					.write = collect,
					.ctx = &now,
				},
				NULL, e);
		if (rc < 0)
			return rc;
		size_t from = new_from(&before, &now);
		if (now.len > from)
			fwrite(now.data + from, 1, now.len - from, stdout);
		rc = output_flush();
		const char *state = json_string_value(json_object_get(s, "state"));
		running = follow && !str_eq(state, "stopped") && !str_eq(state, "error");
		if (now.len) {
			struct strbuf old = before;
			before = now;
			now = old;
		}
		if (running)
			clock_sleep_ns(500 * NSEC_PER_MSEC);
	}
	return rc;
}

int cmd_health(struct cli *c, struct err *e)
{
	_cleanup_json_ json_t *h = NULL;
	int rc = cli_parse(c, NULL, 0, 0, e);
	if (rc == 0)
		rc = api_call(c, "GET", "/v1/health", NULL, &h, e);
	if (rc != 0)
		return rc;
	const char *status = json_string_value(json_object_get(h, "status"));
	const char *reason = json_string_value(json_object_get(h, "reason"));
	const char *version = json_string_value(json_object_get(h, "version"));
	if (c->json)
		rc = output_json(h);
	else
		printf("%s%s%s (version %s)\n", status ? status : "unknown", reason ? ": " : "",
			reason ? reason : "", version ? version : "unknown");
	if (!str_eq(status, "ok"))
		c->exit_code = err_info(ERR_UNAVAILABLE)->exit_code;
	return rc;
}
