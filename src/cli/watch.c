// SPDX-License-Identifier: Apache-2.0
// logs, events, health: reading what the server says, once or for as long as it says it.
#include <string.h>
#include "base/clock.h"
#include "base/id.h"
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

static void event_row(struct table *t, const json_t *ev)
{
	static const char *const names[] = {"at", "sandbox", "kind", "cause"};
	table_cell(t, "%lld", (long long)json_integer_value(json_object_get(ev, "seq")));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *s = json_string_value(json_object_get(ev, names[i]));
		table_cell(t, "%s", s && *s ? s : "-");
	}
}

struct follower {
	struct strbuf line;
	const char *sandbox;
	bool json;
	int rc;
};

static void print_event(const struct follower *f, const char *text, size_t len)
{
	_cleanup_json_ json_t *ev = json_loadb(text, len, 0, NULL);
	const char *names[] = {"at", "sandbox", "kind", "cause"}, *v[4];
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		v[i] = json_string_value(json_object_get(ev, names[i]));
		v[i] = v[i] && *v[i] ? v[i] : "-";
	}
	if (!ev || (f->sandbox && strcmp(v[1], f->sandbox) != 0))
		return;
	if (f->json)
		printf("%.*s\n", (int)len, text);
	else
		printf("%-6lld  %s  %-21s  %-14s  %s\n",
			(long long)json_integer_value(json_object_get(ev, "seq")), v[0], v[1], v[2],
			v[3]);
}

static int on_event_data(void *ctx, const char *data, size_t len)
{
	struct follower *f = ctx;
	strbuf_add(&f->line, data, len);
	for (char *nl; f->line.len && (nl = memchr(f->line.data, '\n', f->line.len));) {
		size_t n = (size_t)(nl - f->line.data);
		if (n)
			print_event(f, f->line.data, n);
		strbuf_consume(&f->line, n + 1);
	}
	f->rc = output_flush();
	return f->rc < 0 || f->line.failed;
}

static int follow_events(struct cli *c, uint64_t cursor, const char *sandbox, struct err *e)
{
	struct follower f = {.sandbox = sandbox, .json = c->json};
	_cleanup_free_ char *path =
		str_printf("/v1/events?follow=1&cursor=%llu", (unsigned long long)cursor);
	int rc = path ? api_call_with(c,
				&(struct http_call){
					.method = "GET",
					.path = path,
					.write = on_event_data,
					.ctx = &f,
				},
				NULL, e)
		      : -ENOMEM;
	strbuf_done(&f.line);
	if (rc == 0)
		return err_set(e, ERR_UNAVAILABLE, "the server ended the stream");
	return rc;
}

int cmd_events(struct cli *c, struct err *e)
{
	bool follow = false;
	const char *sandbox = NULL;
	uint64_t cursor = 0;
	_cleanup_json_ json_t *answer = json_pack("{s:[]}", "events");
	const struct cli_option options[] = {
		{'f', "follow", NULL, "go on until Ctrl-C", OPT_FLAG, &follow},
		{0, "since", "SEQ", "only those after this number", OPT_U64, &cursor},
		{0, "sandbox", "ID", "only of this sandbox", OPT_STRING, &sandbox},
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	if (sandbox && !id_is_sandbox(sandbox))
		return err_set(e, ERR_INVALID, "--sandbox: '%s' is not a sandbox id", sandbox);
	if (follow)
		return follow_events(c, cursor, sandbox, e);
	for (;;) {
		_cleanup_json_ json_t *page = NULL;
		_cleanup_free_ char *path = str_printf("/v1/events?cursor=%llu&limit=100%s%s",
			(unsigned long long)cursor, sandbox ? "&sandbox=" : "",
			sandbox ? sandbox : "");
		rc = path ? api_call(c, "GET", path, NULL, &page, e) : -ENOMEM;
		if (rc < 0)
			return rc;
		json_t *next = json_object_get(page, "next_cursor");
		uint64_t to = (uint64_t)json_integer_value(next);
		json_array_extend(
			json_object_get(answer, "events"), json_object_get(page, "events"));
		if (json_array_size(json_object_get(page, "events")) == 0 || to <= cursor) {
			json_object_set(answer, "next_cursor", next);
			break;
		}
		cursor = to;
	}
	if (c->json)
		return output_json(answer);
	const json_t *ev;
	size_t i;
	_cleanup_table_ struct table t;
	table_init(&t, (const char *const[]){"SEQ", "AT", "SANDBOX", "EVENT", "CAUSE", NULL});
	json_array_foreach (json_object_get(answer, "events"), i, ev)
		event_row(&t, ev);
	return table_print(&t, stdout);
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
