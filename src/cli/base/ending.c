// SPDX-License-Identifier: Apache-2.0
// How this works: the events of the sandbox since it was started, which is a time of the server's
// own clock, are followed until one says what happened.
#include "cli/base/ending.h"
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "cli/base/term.h"

#define WAIT_MS 10000

struct ending {
	struct strbuf line;
	char kind[32], cause[64];
};

static bool take(struct ending *n, const char *text, size_t len)
{
	static const char *const kinds[] = {"paused", "rolled_back", "stopped"};
	_cleanup_json_ json_t *ev = json_loadb(text, len, 0, NULL);
	const char *kind = json_string_value(json_object_get(ev, "kind"));
	const char *cause = json_string_value(json_object_get(ev, "cause"));
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!str_eq(kind, kinds[i]))
			continue;
		snprintf(n->kind, sizeof n->kind, "%s", kind);
		snprintf(n->cause, sizeof n->cause, "%s", cause ? cause : "");
		return true;
	}
	return false;
}

// Non-zero ends the call: it is known.
static int on_data(void *ctx, const char *data, size_t len)
{
	struct ending *n = ctx;
	strbuf_add(&n->line, data, len);
	for (char *nl; n->line.len && (nl = memchr(n->line.data, '\n', n->line.len));) {
		size_t size = (size_t)(nl - n->line.data);
		if (take(n, n->line.data, size))
			return 1;
		strbuf_consume(&n->line, size + 1);
	}
	return n->line.failed;
}

static int tick(void *ctx)
{
	(void)ctx;
	return term_interrupts(NULL) ? -1 : 0;
}

static void follow(struct cli *c, const struct guest *g, struct ending *n)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	struct err e = {0};
	strbuf_adds(&path, "/v1/events?follow=1&since=");
	str_percent_encode(&path, g->since);
	strbuf_adds(&path, "&sandbox=");
	str_percent_encode(&path, g->id);
	if (strbuf_check(&path) == 0)
		api_call_with(c,
			&(struct http_call){.method = "GET",
				.path = path.data,
				.write = on_data,
				.tick = tick,
				.ctx = n,
				.timeout_ms = WAIT_MS},
			NULL, &e);
	strbuf_done(&n->line);
}

int ending_explain(struct cli *c, const struct guest *g, const struct ending_words *words, int rc,
	struct err *e)
{
	struct ending n = {0};
	if ((e->code != ERR_BAD_GATEWAY && e->code != ERR_UNAVAILABLE) || !g->since[0])
		return rc;
	follow(c, g, &n);
	if (!n.kind[0])
		return words->unknown ? err_set(e, e->code, "%s", words->unknown) : rc;
	if (str_eq(n.kind, "paused"))
		return err_set(e, ERR_CONFLICT, "the sandbox was paused: %s", words->paused);
	if (str_eq(n.kind, "rolled_back"))
		return err_set(
			e, ERR_CONFLICT, "the sandbox went back to a snapshot: %s", words->gone);
	return err_set(e, str_eq(n.cause, "timeout") ? ERR_TIMEOUT : ERR_CONFLICT,
		"the sandbox %s (%s): %s", str_eq(n.cause, "killed") ? "was destroyed" : "ended",
		n.cause, words->gone);
}
