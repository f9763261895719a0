// SPDX-License-Identifier: Apache-2.0
// events: once, or for as long as the server tells them.
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/value.h"
#include "cli/command/all.h"
#include "cli/command/list.h"

static const char *const columns[] = {"at", "sandbox", "kind", "cause"};

static const char *text_of(const json_t *ev, const char *name)
{
	const char *s = json_string_value(json_object_get(ev, name));
	return s && *s ? s : "-";
}

static void add_row(struct table *t, const json_t *ev)
{
	table_cell(t, "%lld", (long long)json_integer_value(json_object_get(ev, "seq")));
	for (size_t i = 0; i < ARRAY_SIZE(columns); i++)
		table_cell(t, "%s", text_of(ev, columns[i]));
}

static const struct list_kind listed = {.array = "events",
	.name = "seq",
	.titles = (const char *const[]){"SEQ", "AT", "SANDBOX", "EVENT", "CAUSE", NULL},
	.states = 3,
	.row = add_row};

// From where: after an event (its number, or a cursor as the server gives them), or from a time on.
struct since {
	char cursor[64]; // empty: from the beginning
	char time[64];	 // RFC 3339; empty: none
};

static bool is_cursor(const char *text)
{
	uint64_t number;
	const char *dash = strchr(text, '-');
	size_t n = dash ? (size_t)(dash - text) : 0;
	return str_to_u64(dash ? dash + 1 : text, INT64_MAX, &number) == 0 &&
	       (!dash || (n == 16 && strspn(text, "0123456789abcdef") == n));
}

static int parse_since(const char *text, struct since *ret, struct err *e)
{
	uint64_t seconds, at, now = clock_realtime_ns();
	if (is_cursor(text))
		return str_format(ret->cursor, sizeof ret->cursor, "%s", text);
	if (strcmp(text, "none") != 0 && cli_parse_seconds(text, &seconds) == 0) {
		at = seconds < now / NSEC_PER_SEC ? now - seconds * NSEC_PER_SEC : 0;
		clock_format_rfc3339(at, ret->time);
		return 0;
	}
	if (clock_parse_rfc3339(text, &at) < 0)
		return err_set(e, ERR_INVALID,
			"--since: '%s' is neither a time ago such as 90s, 5m or 2h, nor a time "
			"such as "
			"2026-01-31T12:00:00Z, nor the number of an event",
			text);
	return str_format(ret->time, sizeof ret->time, "%s", text);
}

static int events_path(const struct since *since, const char *sandbox, const char *more,
	struct strbuf *path, struct err *e)
{
	strbuf_addf(path, "/v1/events?%s", more);
	if (since->time[0]) {
		strbuf_adds(path, "&since=");
		str_percent_encode(path, since->time);
	} else {
		strbuf_addf(path, "&cursor=%s", since->cursor[0] ? since->cursor : "0");
	}
	if (sandbox) {
		strbuf_adds(path, "&sandbox=");
		str_percent_encode(path, sandbox);
	}
	return strbuf_check(path) < 0 ? err_errno(e, ENOMEM, "events") : 0;
}

// --- following

struct follower {
	struct strbuf line;
	const struct list *how;
	bool json, colored;
	int rc;
	struct err error;
};

static int print_event(struct follower *f, const char *text, size_t len)
{
	_cleanup_json_ json_t *ev = json_loadb(text, len, 0, NULL);
	if (!ev)
		return 0;
	if (f->json) {
		printf("%.*s\n", (int)len, text);
		return 0;
	}
	int rc = list_print_one(f->how, &listed, ev, &f->error);
	if (rc <= 0)
		return rc;
	const char *what = text_of(ev, "kind"),
		   *color = f->colored ? output_state_color(what) : NULL;
	printf("%-6lld  %s  %-21s  %s%-14s%s  %s\n",
		(long long)json_integer_value(json_object_get(ev, "seq")), text_of(ev, "at"),
		text_of(ev, "sandbox"), color ? color : "", what, color ? OUTPUT_COLOR_END : "",
		text_of(ev, "cause"));
	return 0;
}

static int on_data(void *ctx, const char *data, size_t len)
{
	struct follower *f = ctx;
	strbuf_add(&f->line, data, len);
	for (char *nl;
		f->rc == 0 && f->line.len && (nl = memchr(f->line.data, '\n', f->line.len));) {
		size_t n = (size_t)(nl - f->line.data);
		if (n)
			f->rc = print_event(f, f->line.data, n);
		strbuf_consume(&f->line, n + 1);
	}
	if (f->rc == 0)
		f->rc = output_flush();
	return f->rc < 0 || f->line.failed;
}

static int follow(struct cli *c, const struct since *since, const char *sandbox,
	const struct list *how, struct err *e)
{
	struct follower f = {.how = how, .json = c->json, .colored = output_colored(stdout)};
	_cleanup_strbuf_ struct strbuf path = {0};
	int rc = events_path(since, sandbox, "follow=1", &path, e);
	if (rc < 0)
		return rc;
	rc = api_call_with(c,
		&(struct http_call){
			.method = "GET", .path = path.data, .write = on_data, .ctx = &f},
		NULL, e);
	strbuf_done(&f.line);
	if (f.rc < 0) {
		*e = f.error;
		return f.rc;
	}
	return rc < 0 ? rc : err_set(e, ERR_UNAVAILABLE, "the server ended the stream");
}

// --- all that there are

// A text, or a number from an older server.
static int read_cursor(const json_t *next, struct since *ret, struct err *e)
{
	int rc = json_is_integer(next)
			 ? str_format(ret->cursor, sizeof ret->cursor, "%lld",
				   (long long)json_integer_value(next))
			 : str_format(ret->cursor, sizeof ret->cursor, "%s",
				   json_string_value(next) ? json_string_value(next) : "");
	return rc < 0 ? err_errno(e, rc, "next_cursor") : 0;
}

static int read_pages(
	struct cli *c, struct since since, const char *sandbox, json_t *answer, struct err *e)
{
	for (;;) {
		_cleanup_json_ json_t *page = NULL;
		_cleanup_strbuf_ struct strbuf path = {0};
		int rc = events_path(&since, sandbox, "limit=100", &path, e);
		if (rc == 0)
			rc = api_call(c, "GET", path.data, NULL, &page, e);
		if (rc < 0)
			return rc;
		json_t *next = json_object_get(page, "next_cursor");
		json_t *events = json_object_get(page, "events");
		struct since after = {0};
		json_array_extend(json_object_get(answer, "events"), events);
		rc = read_cursor(next, &after, e);
		if (rc < 0)
			return rc;
		if (json_array_size(events) == 0 || str_eq(after.cursor, since.cursor)) {
			json_object_set(answer, "next_cursor", next);
			return 0;
		}
		since = after;
	}
}

int cmd_events(struct cli *c, struct err *e)
{
	bool following = false;
	const char *sandbox = NULL, *from = NULL;
	struct since since = {0};
	struct list how = {0};
	_cleanup_json_ json_t *answer = json_pack("{s:[]}", "events");
	const struct cli_option options[] = {
		{'f', "follow", NULL, "go on until Ctrl-C", OPT_FLAG, &following},
		{0, "since", "TIME",
			"only those of the last 1h, 5m, ..., since an RFC 3339 time, or after a "
			"number",
			OPT_STRING, &from},
		{0, "sandbox", "ID", "only of this sandbox", OPT_STRING, &sandbox},
		LIST_OPTIONS(how, "numbers"),
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	// A stream of JSON and one of lines are both of one event a line.
	if (rc == 0)
		rc = list_check(c, &how, e);
	if (rc == 0 && from)
		rc = parse_since(from, &since, e);
	if (rc != 0)
		return rc;
	if (following)
		return follow(c, &since, sandbox, &how, e);
	rc = read_pages(c, since, sandbox, answer, e);
	return rc < 0 ? rc : list_print(c, &how, &listed, answer, e);
}
