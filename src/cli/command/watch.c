// SPDX-License-Identifier: Apache-2.0
// logs, wait, health: reading what the server says, once or when there is something to say.
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/command/all.h"

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

// Where the last lines of a text begin; one without an end counts too.
static size_t last_lines(const struct strbuf *b, uint64_t lines)
{
	size_t at = b->len;
	if (at && b->data[at - 1] == '\n')
		at--;
	for (; at; at--)
		if (b->data[at - 1] == '\n' && --lines == 0)
			return at;
	return 0;
}

// Whether what failed was not there, which is no failure then.
static bool forgive_absence(int *rc, struct err *e)
{
	if (*rc == 0 || e->code != ERR_NOT_FOUND)
		return false;
	*e = (struct err){0};
	*rc = 0;
	return true;
}

static int read_console(struct cli *c, const char *path, struct strbuf *ret, struct err *e)
{
	return api_call_with(c,
		&(struct http_call){
			.method = "GET",
			.path = path,
			.write = collect,
			.ctx = ret,
		},
		NULL, e);
}

int cmd_logs(struct cli *c, struct err *e)
{
	bool follow = false, first = true, known = false;
	uint64_t tail = 0;
	char suffix[40] = "/logs";
	_cleanup_free_ char *path = NULL, *state_path = NULL;
	_cleanup_strbuf_ struct strbuf before = {0};
	const struct cli_option options[] = {
		{'f', "follow", NULL, "go on until the sandbox ends", OPT_FLAG, &follow},
		{'n', "tail", "N", "only the last lines of what is there", OPT_U64, &tail, 1,
			10000},
		{0},
	};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc != 0)
		return rc;
	// To find what is new, all that was there before is needed: the lines are counted here
	// then.
	if (tail && !follow)
		snprintf(suffix, sizeof suffix, "/logs?tail=%llu", (unsigned long long)tail);
	rc = api_sandbox_path(c->argv[0], suffix, &path, e);
	if (rc == 0)
		rc = api_sandbox_path(c->argv[0], "", &state_path, e);
	for (bool running = true; rc == 0 && running;) {
		_cleanup_strbuf_ struct strbuf now = {0};
		_cleanup_json_ json_t *s = NULL;
		// Asked before the console is read: what a sandbox says last is not missed.
		if (follow)
			rc = api_call(c, "GET", state_path, NULL, &s, e);
		// Removed while it was followed, and its console with it.
		if (known && forgive_absence(&rc, e))
			break;
		if (rc < 0)
			return rc;
		const char *state = json_string_value(json_object_get(s, "state"));
		running = follow && !str_eq(state, "stopped") && !str_eq(state, "error");
		rc = read_console(c, path, &now, e);
		// The end may also come between the two; the next state says so.
		bool absent = (known || running) && forgive_absence(&rc, e);
		known = true;
		if (rc < 0)
			return rc;
		size_t from =
			first && follow && tail ? last_lines(&now, tail) : new_from(&before, &now);
		first = first && absent;
		if (now.len > from)
			fwrite(now.data + from, 1, now.len - from, stdout);
		rc = output_flush();
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

// --- wait

#define WAIT_MAX_SEC 3600 // of one call

// Until it is in one of the states, or the deadline (0: none) has passed.
static int wait_for(struct cli *c, const char *id, const char *states, uint64_t deadline,
	json_t **ret, struct err *e)
{
	for (;;) {
		uint64_t now = clock_monotonic_ns(), left = WAIT_MAX_SEC;
		_cleanup_strbuf_ struct strbuf path = {0};
		_cleanup_free_ char *start = NULL;
		if (deadline)
			left = deadline > now ? (deadline - now + NSEC_PER_SEC - 1) / NSEC_PER_SEC
					      : 0;
		int rc = api_sandbox_path(id, "/wait?state=", &start, e);
		if (rc < 0)
			return rc;
		strbuf_adds(&path, start);
		str_percent_encode(&path, states);
		strbuf_addf(&path, "&timeout_sec=%u", (unsigned)MAX(MIN(left, WAIT_MAX_SEC), 1u));
		if (strbuf_check(&path) < 0)
			return err_errno(e, ENOMEM, "%s", id);
		rc = api_call_slow(c, "GET", path.data, NULL, "waiting", ret, e);
		if (rc == 0 || e->code != ERR_TIMEOUT || e->errnum ||
			(deadline && left <= WAIT_MAX_SEC))
			return rc;
		*e = (struct err){0};
	}
}

static int print_states(struct cli *c, char *const *given, json_t *found)
{
	const json_t *s;
	size_t i;
	if (c->json) {
		_cleanup_json_ json_t *answer = json_pack("{s:O}", "sandboxes", found);
		return output_json(answer);
	}
	json_array_foreach (found, i, s) {
		const char *state = json_string_value(json_object_get(s, "state"));
		const char *cause = json_string_value(json_object_get(s, "cause"));
		printf("%s %s%s%s\n", given[i], state ? state : "-", cause ? ": " : "",
			cause ? cause : "");
	}
	return 0;
}

int cmd_wait(struct cli *c, struct err *e)
{
	const char *states = "stopped";
	uint64_t timeout = 0;
	_cleanup_json_ json_t *found = json_array();
	const struct cli_option options[] = {
		{0, "state", "STATE[,STATE]", "for one of these (default: stopped)", OPT_STRING,
			&states},
		{0, "timeout", "TIME", "at most so long: 90s, 5m, 2h (default: none)", OPT_SECONDS,
			&timeout, 0, 31536000},
		{0},
	};
	int rc = cli_parse(c, options, 1, -1, e);
	if (rc != 0)
		return rc;
	uint64_t deadline = timeout ? clock_monotonic_ns() + timeout * NSEC_PER_SEC : 0;
	for (int i = 0; i < c->argc && rc == 0; i++) {
		json_t *s = NULL;
		rc = wait_for(c, c->argv[i], states, deadline, &s, e);
		if (rc == 0)
			json_array_append_new(found, s);
	}
	return rc < 0 ? rc : print_states(c, c->argv, found);
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
