// SPDX-License-Identifier: Apache-2.0
// What a request line asks for: its query, and the route of a table that takes its path.
#pragma once
#include "base/str.h"

#define ROUTE_MAX_PARAMS 8
#define ROUTE_MAX_QUERY 32

struct http_request;

typedef void (*http_handler_fn)(struct http_request *req, void *ctx);
// Streaming upload. Called with each piece, then once with len 0 at the end. Return 0, or a
// negative errno after replying with an error (http_reply_*): the rest of the body is then read and
// dropped.
typedef int (*http_body_fn)(struct http_request *req, void *ctx, const void *data, size_t len);

struct http_route {
	const char *method;  // "GET"; "*" for all
	const char *pattern; // "/v1/sandboxes/{id}/exec"; "{x}" is one segment, a last "{x...}" the
			     // rest
	http_handler_fn handler; // buffered routes: called with the whole body; streaming: called
				 // first, before the body, to prepare (may already reply to refuse)
	http_body_fn body;	 // not NULL: streaming route; the reply comes from body(len 0)
	size_t body_limit;	 // bytes; 0: the server's default. Streaming: SIZE_MAX for none
	unsigned flags;		 // free for the before hook (for example ROUTE_PUBLIC)
	const char *query;	 // as flags: the names that a query may have, joined by blanks
};

struct route_pair {
	const char *name;
	size_t name_len;
	const char *value;
};
// The value of that name, NULL when absent.
const char *route_pair_find(const struct route_pair *p, unsigned n, const char *name);

struct route_query {
	struct route_pair arg[ROUTE_MAX_QUERY];
	unsigned n;
};
// Decodes text ("a=1&b", NULL for none) in place; *ret points into it. False when it has a bad
// escape, a NUL byte or too many names.
bool route_parse_query(char *text, struct route_query *ret);

struct route_match {
	const struct http_route *route;
	char *text; // decoded copy of the path that the parameters point into
	struct route_pair param[ROUTE_MAX_PARAMS];
	unsigned n;
};
// path is as sent. 0, or the HTTP status of the refusal: 400, 404, 405 (then *ret_allow names the
// methods) or 500. HEAD also fits GET. *ret, which was {0}, needs route_match_done in any case.
int route_find(const struct http_route *routes, size_t n, const char *method, const char *path,
	struct route_match *ret, struct strbuf *ret_allow);
void route_match_done(struct route_match *m);
