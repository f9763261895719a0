// SPDX-License-Identifier: Apache-2.0
#include "control/api/login.h"
#include <string.h>
#include "base/str.h"
#include "control/api/caller.h"
#include "control/api/find.h"
#include "control/api/reply.h"

// --- credentials

// What follows a scheme's name and its blanks; NULL: another scheme.
static const char *after_scheme(const char *authorization, const char *scheme)
{
	size_t n = strlen(scheme);
	if (!authorization || strncasecmp(authorization, scheme, n) != 0 || authorization[n] != ' ')
		return NULL;
	return authorization + n + strspn(authorization + n, " ");
}

const char *login_bearer(const char *authorization)
{
	return after_scheme(authorization, "Bearer");
}

const char *login_key(struct http_request *r)
{
	const char *key = http_req_header(r, "X-API-Key");
	return key ? key : login_bearer(http_req_header(r, "Authorization"));
}

// One word; its first n bytes.
static bool is_key(struct control *c, const char *text, size_t n)
{
	char word[256];
	if (n == 0 || n >= sizeof word)
		return false;
	memcpy(word, text, n);
	word[n] = '\0';
	bool yes = keys_looks_like_one(word) || keys_is_known(c->keys, word);
	explicit_bzero(word, sizeof word);
	return yes;
}

// Any word of it: whatever a client has put around the key. Those of a key's letters are one.
static bool has_word(struct control *c, const char *text, size_t len)
{
	static const char between[] = " \t,;:=\"'";
	for (const char *p = text, *end = text + len; p < end; p++) {
		size_t n = 0;
		while (p + n < end && p[n] && !strchr(between, p[n]))
			n++;
		if (is_key(c, p, n))
			return true;
		p += n;
	}
	return false;
}

bool login_has_key(struct control *c, const char *value)
{
	_cleanup_strbuf_ struct strbuf plain = {0};
	if (has_word(c, value, strlen(value)))
		return true;
	const char *basic = after_scheme(value, "Basic");
	size_t len = basic ? strcspn(basic, " \t") : 0;
	if (!len || str_base64_decode(&plain, basic, len) < 0 || !plain.len)
		return false;
	bool has = has_word(c, plain.data, plain.len);
	explicit_bzero(plain.data, plain.len);
	return has;
}

// --- names of the query

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

// --- before the handlers

static bool may(const struct http_request *r, const struct http_route *route, struct err *e)
{
	const struct key_info *k = caller_key(r);
	bool reads = str_eq(route->method, "GET") || (route->flags & ROUTE_QUIET);
	if (k->scope == KEY_ADMIN)
		return true;
	if ((route->flags & ROUTE_OVERVIEW) && !caller_owner(r))
		return true;
	if (route->flags & (ROUTE_ADMIN | ROUTE_OVERVIEW))
		err_set(e, ERR_FORBIDDEN,
			"this call is for keys of the scope admin, and this key's is %s",
			key_scope_name(k->scope));
	else if (k->scope == KEY_READ && !reads)
		err_set(e, ERR_FORBIDDEN,
			"this key only reads: a change needs one of the scope sandboxes");
	return !err_is_set(e);
}

// Another owner's sandbox is told of in the same words as one that never was.
static int check_path(struct control *c, struct http_request *r, struct err *e)
{
	const char *text = http_req_param(r, "id");
	char id[64], owner[KEY_OWNER_SIZE];
	if (!text || !caller_owner(r) || !str_starts(http_req_path(r), "/v1/sandboxes/"))
		return 0;
	find_id(c, r, text, id);
	int rc = rows_owner(c->rows, id, owner, e);
	return rc < 0 || caller_sees(r, owner) ? rc : find_none(text, e);
}

static int identify(struct control *c, struct http_request *r, struct err *e)
{
	const char *text = login_key(r);
	struct key_info *k = NULL;
	if (!(k = malloc(sizeof *k)))
		return err_errno(e, ENOMEM, "key");
	int rc = keys_check(c->keys, text, k, e);
	if (rc < 0) {
		free(k);
		return rc;
	}
	http_req_set_data(r, k, free);
	return 0;
}

static int check_edge(struct control *c, struct http_request *r, struct err *e)
{
	const char *key = http_req_header(r, "X-Stasis-Edge");
	if (key && str_eq_secret(key, c->edge_key))
		return 0;
	return err_set(
		e, ERR_NOT_FOUND, "no such path: %s %.200s", http_req_method(r), http_req_path(r));
}

bool login_before(struct http_request *r, const struct http_route *route, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	int rc = 0;
	if (route->flags & ROUTE_EDGE) {
		rc = check_edge(c, r, &e);
	} else if (!(route->flags & ROUTE_PUBLIC)) {
		rc = identify(c, r, &e);
		if (rc == 0 && !may(r, route, &e))
			rc = -EPERM;
		if (rc == 0)
			rc = check_query(r, route, &e);
		if (rc == 0)
			rc = check_path(c, r, &e);
	} else {
		rc = check_query(r, route, &e);
	}
	if (rc < 0)
		reply_error(r, &e);
	return rc < 0;
}
