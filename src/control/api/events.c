// SPDX-License-Identifier: Apache-2.0
// How this works. A cursor is "<epoch>-<number>": the number of the last event that was read, and
// the counting that it belongs to (feed.h). One whose next event is not kept any more, or that is
// of another counting, is refused: whoever went on from it would miss events without a word. Bare
// numbers, as older clients have them, are taken where they can be right.
#include "control/api/events.h"
#include <inttypes.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "control/api/calls.h"
#include "control/api/find.h"
#include "control/api/caller.h"
#include "control/api/page.h"
#include "control/api/reply.h"
#include "control/state/event_log.h"
#include "control/state/render.h"
#include "base/json.h"

#define WAIT_MS 1000 // how long a follower may go without a look at its connection
#define KEEPALIVE_NS (15 * NSEC_PER_SEC)

void events_format_cursor(const char *epoch, uint64_t seq, char out[EVENT_CURSOR_SIZE])
{
	snprintf(out, EVENT_CURSOR_SIZE, "%s-%" PRIu64, epoch, seq);
}

static int check_cursor(const struct event_log_range *range, uint64_t seq, struct err *e)
{
	if (seq > range->last)
		return err_set(e, ERR_GONE,
			"cursor: there has not been an event %" PRIu64
			" yet, the last one is %" PRIu64
			": begin again, with 'since' or without a cursor",
			seq, range->last);
	if (seq + 1 < range->first)
		return err_set(e, ERR_GONE,
			"cursor: events after %" PRIu64 " are not kept any more, the first one is "
			"%" PRIu64 ": begin again, with 'since' or without a cursor",
			seq, range->first);
	return 0;
}

// A bare 0 is the beginning of what there is.
static int read_cursor(
	const char *text, const struct event_log_range *range, uint64_t *ret, struct err *e)
{
	const char *dash = strchr(text, '-');
	if (str_to_u64(dash ? dash + 1 : text, INT64_MAX, ret) < 0)
		return err_set(
			e, ERR_INVALID, "cursor: is not one that a list of events has given");
	if (!dash)
		return *ret ? check_cursor(range, *ret, e) : 0;
	if ((size_t)(dash - text) != strlen(range->epoch) ||
		strncmp(text, range->epoch, strlen(range->epoch)) != 0)
		return err_set(e, ERR_GONE,
			"cursor: events are counted anew since it was given, for an older copy of "
			"the database was restored: begin again, with 'since' or without a cursor");
	return check_cursor(range, *ret, e);
}

json_t *events_json(const char *epoch, const struct host_event *ev)
{
	char cursor[EVENT_CURSOR_SIZE];
	events_format_cursor(epoch, ev->seq, cursor);
	// The host notes it among the rest; what asked for an event is no detail of it.
	json_t *data = ev->data ? json_copy(ev->data) : json_object();
	const char *request = json_string_value(json_object_get(data, "request_id"));
	json_t *request_id = render_text(request ? request : "");
	json_object_del(data, "request_id");
	return json_pack("{s:I, s:o, s:o, s:s, s:o, s:o, s:s, s:o}", "seq", (json_int_t)ev->seq,
		"at", render_time(ev->at_ns), "sandbox", render_text(ev->sandbox), "kind", ev->kind,
		"cause", render_text(ev->cause), "data", data, "cursor", cursor, "request_id",
		request_id);
}

// --- follow

struct follower {
	struct control *c;
	struct http_request *req;
	char sandbox[64]; // "": all
	char owner[KEY_OWNER_SIZE];
	bool owned; // of that owner alone
	uint64_t cursor, since_ns, spoke_ns;
	struct event_log_range range; // as of the last read
	size_t n;		      // lines of the last read
	struct strbuf lines;
};

static void follower_free(void *p)
{
	struct follower *f = p;
	calls_end(&f->c->followers);
	strbuf_done(&f->lines);
	free(f);
}

static int add_line(void *ctx, const struct host_event *ev)
{
	struct follower *f = ctx;
	_cleanup_json_ json_t *j = events_json(f->range.epoch, ev);
	_cleanup_free_ char *text = json_compact(j);
	if (!text)
		return -ENOMEM;
	strbuf_adds(&f->lines, text);
	strbuf_addc(&f->lines, '\n');
	f->cursor = ev->seq;
	f->n++;
	return strbuf_check(&f->lines);
}

static int read_more(struct follower *f)
{
	if (f->owned && !f->sandbox[0])
		return event_log_read_of(
			f->c->db, f->cursor, f->since_ns, f->owner, PAGE_MAX, add_line, f, NULL);
	return event_log_read(f->c->db, f->cursor, f->since_ns, f->sandbox[0] ? f->sandbox : NULL,
		PAGE_MAX, add_line, f, NULL);
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
		int r = last > f->cursor ? event_log_range(f->c->db, &f->range, NULL) : 0;
		if (r == 0 && last > f->cursor)
			r = read_more(f);
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

struct query {
	uint64_t cursor, since_ns, limit;
	char sandbox[64]; // "": all
	bool follows;
};

static void follow(struct http_request *r, struct control *c, const struct query *q)
{
	struct err e = {0};
	if (calls_begin(&c->followers, FOLLOW_CALLS_MAX, "follow the events", &e) < 0) {
		reply_error(r, &e);
		return;
	}
	struct follower *f = calloc(1, sizeof *f);
	if (!f) {
		calls_end(&c->followers);
		err_errno(&e, ENOMEM, "events");
		reply_error(r, &e);
		return;
	}
	f->c = c;
	f->req = r;
	f->cursor = q->cursor;
	f->since_ns = q->since_ns;
	f->owned = caller_owner(r) != NULL;
	if (f->owned)
		snprintf(f->owner, sizeof f->owner, "%s", caller_owner(r));
	memcpy(f->sandbox, q->sandbox, sizeof f->sandbox);
	f->spoke_ns = clock_monotonic_ns();
	http_reply_stream(r, 200, "application/x-ndjson", follower_next, f, follower_free);
}

// --- page

struct items {
	json_t *list;
	const char *epoch;
	uint64_t cursor;
};

static int add_item(void *ctx, const struct host_event *ev)
{
	struct items *p = ctx;
	p->cursor = ev->seq;
	return json_array_append_new(p->list, events_json(p->epoch, ev)) < 0 ? -ENOMEM : 0;
}

static void list(struct http_request *r, struct control *c, const struct query *q,
	const struct event_log_range *range)
{
	_cleanup_json_ json_t *out = json_array();
	struct items items = {out, range->epoch, q->cursor};
	struct err e = {0};
	char next[EVENT_CURSOR_SIZE];
	const char *owner = caller_owner(r);
	int rc = owner && !q->sandbox[0] ? event_log_read_of(c->db, q->cursor, q->since_ns, owner,
						   q->limit, add_item, &items, &e)
					 : event_log_read(c->db, q->cursor, q->since_ns,
						   q->sandbox[0] ? q->sandbox : NULL, q->limit,
						   add_item, &items, &e);
	if (rc < 0) {
		reply_error(r, &e);
		return;
	}
	// Those of other sandboxes are passed over.
	if (json_array_size(out) < q->limit)
		items.cursor = MAX(items.cursor, range->last);
	events_format_cursor(range->epoch, items.cursor, next);
	http_reply_json(r, 200,
		json_pack("{s:O, s:s, s:s}", "events", out, "feed", range->epoch, "next_cursor",
			next));
}

static int read_query(struct control *c, struct http_request *r,
	const struct event_log_range *range, struct query *q, struct err *e)
{
	const char *from = http_req_query(r, "cursor"), *since = http_req_query(r, "since");
	const char *live = http_req_query(r, "follow");
	if (live && !str_eq(live, "0") && !str_eq(live, "1"))
		return err_set(e, ERR_INVALID, "follow: must be 0 or 1");
	if (since && from)
		return err_set(e, ERR_INVALID,
			"since: a cursor says already where to begin: give one of the two");
	if (since && clock_parse_rfc3339(since, &q->since_ns) < 0)
		return err_set(e, ERR_INVALID,
			"since: must be a time as 2026-11-24T03:00:00Z (RFC 3339; a '+' of an "
			"offset is %%2B in a query)");
	q->follows = str_eq(live, "1");
	int rc = page_read_limit(r, &q->limit, e);
	if (rc == 0 && from)
		rc = read_cursor(from, range, &q->cursor, e);
	return rc == 0 ? find_filter_id(c, r, http_req_query(r, "sandbox"), q->sandbox, e) : rc;
}

void events_list(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct event_log_range range;
	struct query q = {0};
	struct err e = {0};
	// What a caller has just been told of is in its next page.
	if (!str_eq(http_req_query(r, "follow"), "1"))
		feed_catch_up(c->feed, NULL);
	int rc = event_log_range(c->db, &range, &e);
	if (rc == 0)
		rc = read_query(c, r, &range, &q, &e);
	if (rc < 0)
		reply_error(r, &e);
	else if (q.follows)
		follow(r, c, &q);
	else
		list(r, c, &q, &range);
}
