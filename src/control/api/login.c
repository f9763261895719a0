// SPDX-License-Identifier: Apache-2.0
#include "control/api/login.h"
#include <string.h>
#include "base/str.h"
#include "control/api/reply.h"

const char *login_bearer(const char *authorization)
{
	static const char scheme[] = "Bearer ";
	size_t n = sizeof scheme - 1;
	return authorization && strncasecmp(authorization, scheme, n) == 0 ? authorization + n
									   : NULL;
}

const char *login_key(const struct http_request *r)
{
	const char *key = http_req_header(r, "X-API-Key");
	return key ? key : login_bearer(http_req_header(r, "Authorization"));
}

int login_key_id(struct control *c, struct http_request *r, char ret_id[UUID_SIZE], struct err *e)
{
	const char *key = login_key(r);
	return key && keys_find(c->keys, key, ret_id)
		       ? 0
		       : err_set(e, ERR_UNAUTHENTICATED, "unknown API key");
}

// --- before the handlers

// The i-th of names that are joined by blanks; false beyond the last.
static bool nth_name(const char *names, size_t i, char out[32])
{
	for (const char *p = names ? names : ""; *p; p += strcspn(p, " "), p += strspn(p, " "))
		if (i-- == 0) {
			snprintf(out, 32, "%.*s", (int)strcspn(p, " "), p);
			return true;
		}
	return false;
}

static int unknown_name(const struct http_route *route, const char *name, struct err *e)
{
	char known[32], near[32] = "";
	unsigned best = strlen(name) > 4 ? 3 : 2; // below this: like enough
	for (size_t i = 0; nth_name(route->query, i, known); i++) {
		unsigned d = str_distance(name, known);
		if (d < best) {
			best = d;
			memcpy(near, known, sizeof near);
		}
	}
	if (near[0])
		return err_set(e, ERR_INVALID, "query: unknown name '%.100s' (did you mean '%s'?)",
			name, near);
	if (!route->query)
		return err_set(e, ERR_INVALID,
			"query: unknown name '%.100s': this call takes no query", name);
	return err_set(e, ERR_INVALID, "query: unknown name '%.100s': this call knows %s", name,
		route->query);
}

// Refused as unknown fields of a body are: a filter that is not understood must not be passed over.
static int check_query(struct http_request *r, const struct http_route *route, struct err *e)
{
	const char *name;
	char known[32];
	for (unsigned i = 0; (name = http_req_query_name(r, i)); i++) {
		bool fits = false;
		for (size_t k = 0; !fits && nth_name(route->query, k, known); k++)
			fits = str_eq(name, known);
		if (!fits)
			return unknown_name(route, name, e);
		for (unsigned k = 0; k < i; k++)
			if (str_eq(http_req_query_name(r, k), name))
				return err_set(e, ERR_INVALID, "query: '%s' is given twice", name);
	}
	return 0;
}

bool login_before(struct http_request *r, const struct http_route *route, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	if (route->flags & ROUTE_EDGE) {
		const char *key = http_req_header(r, "X-Stasis-Edge");
		if (key && str_eq_secret(key, c->edge_key))
			return false;
		err_set(&e, ERR_NOT_FOUND, "no such path: %s %.200s", http_req_method(r),
			http_req_path(r));
	} else {
		const char *key = login_key(r);
		if ((route->flags & ROUTE_PUBLIC) || (key && keys_check(c->keys, key))) {
			if (check_query(r, route, &e) == 0)
				return false;
			reply_error(r, &e);
			return true;
		}
		err_set(&e, ERR_UNAUTHENTICATED, "%s",
			key ? "unknown API key"
			    : "no API key: send it as X-API-Key or as a bearer token");
	}
	reply_error(r, &e);
	return true;
}
