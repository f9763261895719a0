// SPDX-License-Identifier: Apache-2.0
#include "control/api/audit.h"
#include <inttypes.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "control/api/caller.h"
#include "control/api/login.h"
#include "control/api/page.h"
#include "control/api/reply.h"
#include "control/state/audit.h"
#include "control/state/render.h"

#define TEXT_MAX 200

// What a client has sent: cut, and as JSON takes it.
static json_t *sent(const char *text)
{
	char out[TEXT_MAX + 1];
	if (!text || !*text)
		return json_null();
	snprintf(out, sizeof out, "%s", text);
	for (char *p = out; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
			*p = '?';
	return json_string(out);
}

static json_t *who(const struct key_info *k)
{
	return k ? json_pack("{s:s, s:s, s:s, s:o}", "id", k->id, "name", k->name, "scope",
			   key_scope_name(k->scope), "owner", render_text(k->owner))
		 : json_null();
}

static const char *outcome(int status)
{
	return status < 400 ? "done" : status < 500 ? "refused" : "failed";
}

void audit_note(struct control *c, struct http_request *r, int status)
{
	const struct http_route *route = http_req_route(r);
	uint64_t suppressed = 0;
	bool refused = status == 401 || status == 403 || status == 429;
	if (!route || !c->audit || (route->flags & ROUTE_EDGE))
		return;
	bool change = !str_eq(route->method, "GET") && !(route->flags & ROUTE_QUIET);
	if (refused ? !audit_takes_refusal(c->audit, &suppressed) : !change)
		return;
	const char *id = http_req_param(r, "id");
	json_t *j = json_pack("{s:o, s:o, s:o, s:s, s:s, s:o, s:i, s:s, s:o}", "key",
		who(caller_key(r)), "from", sent(http_req_header(r, "X-Stasis-From")), "request_id",
		sent(http_req_header(r, "X-Request-Id")), "method", route->method, "call",
		route->pattern, "target", sent(id ? id : http_req_param(r, "name")), "status",
		status, "outcome", outcome(status), "operation",
		sent(http_reply_get(r, "Stasis-Operation")));
	if (j && suppressed)
		json_object_set_new(j, "suppressed", json_integer((json_int_t)suppressed));
	audit_write(c->audit, j);
}

// --- GET /v1/audit

static int add(void *ctx, json_t *line)
{
	return json_array_append(ctx, line) < 0 ? -ENOMEM : 0;
}

static int read_query(struct control *c, struct http_request *r, uint64_t *cursor,
	uint64_t *since_ns, uint64_t *limit, struct err *e)
{
	const char *from = http_req_query(r, "cursor"), *since = http_req_query(r, "since");
	uint64_t first, last;
	audit_range(c->audit, &first, &last);
	*cursor = *since_ns = 0;
	int rc = page_read_limit(r, limit, e);
	if (rc < 0)
		return rc;
	if (from && since)
		return err_set(e, ERR_INVALID,
			"since: a cursor says already where to begin: give one of the two");
	if (since && clock_parse_rfc3339(since, since_ns) < 0)
		return err_set(
			e, ERR_INVALID, "since: must be a time as 2026-11-24T03:00:00Z (RFC 3339)");
	if (from && str_to_u64(from, INT64_MAX, cursor) < 0)
		return err_set(e, ERR_INVALID, "cursor: is not one that the audit log has given");
	if (from && *cursor && (*cursor > last || *cursor + 1 < first))
		return err_set(e, ERR_GONE,
			"cursor: lines %" PRIu64 " to %" PRIu64
			" are kept: begin again, with 'since' or without a cursor",
			first, last);
	return 0;
}

void audit_list(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	uint64_t cursor, since_ns, limit;
	struct err e = {0};
	json_t *out = json_array();
	int rc = read_query(c, r, &cursor, &since_ns, &limit, &e);
	if (rc == 0)
		rc = audit_read(c->audit, cursor, since_ns, limit, add, out, &e);
	if (rc < 0) {
		json_decref(out);
		reply_error(r, &e);
		return;
	}
	size_t n = json_array_size(out);
	json_int_t last = json_integer_value(json_object_get(json_array_get(out, n - 1), "seq"));
	char next[24];
	snprintf(next, sizeof next, "%" PRIu64, n ? (uint64_t)last : cursor);
	http_reply_json(r, 200, json_pack("{s:o, s:s}", "audit", out, "next_cursor", next));
}
