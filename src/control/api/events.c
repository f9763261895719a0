// SPDX-License-Identifier: Apache-2.0
// /v1/events: what happened, as the host told it (feed.h), as pages or followed line by line.
#include <inttypes.h>
#include <string.h>
#include "base/clock.h"
#include "control/internal.h"
#include "http/json.h"

#define PAGE_MAX 100
#define WAIT_MS 1000 // how long a follower may go without a look at its connection
#define KEEPALIVE_NS (15 * NSEC_PER_SEC)

static json_t *event_json(const struct host_event *ev)
{
	return json_pack("{s:I, s:o, s:o, s:s, s:o, s:o}", "seq", (json_int_t)ev->seq, "at",
		control_json_time(ev->at_ns), "sandbox", control_json_or_null(ev->sandbox), "kind",
		ev->kind, "cause", control_json_or_null(ev->cause), "data",
		ev->data ? json_incref(ev->data) : json_object());
}

// --- follow

struct follower {
	struct control *c;
	struct http_request *req;
	char sandbox[64]; // "": all
	uint64_t cursor, since_ns, spoke_ns;
	size_t n; // lines of the last read
	struct strbuf lines;
};

static void follower_free(void *p)
{
	struct follower *f = p;
	strbuf_done(&f->lines);
	free(f);
}

static int add_line(void *ctx, const struct host_event *ev)
{
	struct follower *f = ctx;
	_cleanup_json_ json_t *j = event_json(ev);
	_cleanup_free_ char *text = json_compact(j);
	if (!text)
		return -ENOMEM;
	strbuf_adds(&f->lines, text);
	strbuf_addc(&f->lines, '\n');
	f->cursor = ev->seq;
	f->n++;
	return strbuf_check(&f->lines);
}

static ssize_t follower_next(void *p, char *buf, size_t max)
{
	struct follower *f = p;
	while (f->lines.len == 0) {
		if (http_req_closing(f->req) || feed_is_closed(f->c->feed))
			return 0;
		if (http_req_aborted(f->req))
			return -ECONNRESET;
		// Read before the events are, so that none falls in between.
		uint64_t last = feed_wait(f->c->feed, f->cursor, WAIT_MS);
		f->n = 0;
		int r = last > f->cursor ? feed_read(f->c->feed, f->cursor, f->since_ns,
						   f->sandbox[0] ? f->sandbox : NULL, PAGE_MAX,
						   add_line, f, NULL)
					 : 0;
		if (r < 0)
			return r;
		// Those of other sandboxes are passed over.
		if (f->n < PAGE_MAX)
			f->cursor = MAX(f->cursor, last);
		if (clock_monotonic_ns() - f->spoke_ns > KEEPALIVE_NS)
			strbuf_addc(&f->lines, '\n');
	}
	size_t n = MIN(max, f->lines.len);
	memcpy(buf, f->lines.data, n);
	strbuf_consume(&f->lines, n);
	f->spoke_ns = clock_monotonic_ns();
	return (ssize_t)n;
}

static void follow(struct http_request *r, struct control *c, uint64_t cursor, uint64_t since_ns,
	const char *sandbox)
{
	struct err e = {0};
	struct follower *f = calloc(1, sizeof *f);
	if (!f) {
		err_errno(&e, ENOMEM, "events");
		http_reply_error(r, &e);
		return;
	}
	f->c = c;
	f->req = r;
	f->cursor = cursor;
	f->since_ns = since_ns;
	snprintf(f->sandbox, sizeof f->sandbox, "%s", sandbox);
	f->spoke_ns = clock_monotonic_ns();
	http_reply_stream(r, 200, "application/x-ndjson", follower_next, f, follower_free);
}

// --- page

struct page {
	json_t *list;
	uint64_t cursor;
};

static int add_item(void *ctx, const struct host_event *ev)
{
	struct page *p = ctx;
	p->cursor = ev->seq;
	return json_array_append_new(p->list, event_json(ev)) < 0 ? -ENOMEM : 0;
}

void events_list(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	uint64_t cursor = 0, limit = PAGE_MAX, since = 0;
	char sandbox[64];
	const char *from = http_req_query(r, "cursor"), *max = http_req_query(r, "limit");
	const char *since_text = http_req_query(r, "since"), *live = http_req_query(r, "follow");
	int rc = 0;
	if (from && str_to_u64(from, INT64_MAX, &cursor) < 0)
		rc = err_set(&e, ERR_INVALID, "cursor: must be the number of an event");
	else if (max && (str_to_u64(max, PAGE_MAX, &limit) < 0 || limit == 0))
		rc = err_set(&e, ERR_INVALID, "limit: must be an integer from 1 to %d", PAGE_MAX);
	else if (live && !str_eq(live, "0") && !str_eq(live, "1"))
		rc = err_set(&e, ERR_INVALID, "follow: must be 0 or 1");
	else if (since_text && from)
		rc = err_set(&e, ERR_INVALID,
			"since: a cursor says already where to begin: give one of the two");
	else if (since_text && clock_parse_rfc3339(since_text, &since) < 0)
		rc = err_set(&e, ERR_INVALID,
			"since: must be a time as 2026-11-24T03:00:00Z (RFC 3339; a '+' of an "
			"offset is %%2B in a query)");
	if (rc == 0)
		rc = sandboxes_resolve_filter(c, r, http_req_query(r, "sandbox"), sandbox, &e);
	if (rc == 0 && str_eq(live, "1")) {
		follow(r, c, cursor, since, sandbox);
		return;
	}
	_cleanup_json_ json_t *list = json_array();
	struct page page = {list, cursor};
	if (rc == 0) {
		// What a caller has just been told of is in its next page.
		feed_catch_up(c->feed, NULL);
		uint64_t last = feed_wait(c->feed, UINT64_MAX, 0);
		rc = feed_read(c->feed, cursor, since, sandbox[0] ? sandbox : NULL, limit, add_item,
			&page, &e);
		if (rc == 0 && json_array_size(list) < limit)
			page.cursor = MAX(page.cursor, last);
	}
	if (rc < 0)
		http_reply_error(r, &e);
	else
		http_reply_json(r, 200,
			json_pack("{s:O, s:I}", "events", list, "next_cursor",
				(json_int_t)page.cursor));
}
