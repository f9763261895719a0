// SPDX-License-Identifier: Apache-2.0
#include "http/route.h"
#include <string.h>

#define MAX_SEGMENTS 32

const char *route_pair_find(const struct route_pair *p, unsigned n, const char *name)
{
	size_t len = strlen(name);
	for (unsigned i = 0; i < n; i++)
		if (p[i].name_len == len && memcmp(p[i].name, name, len) == 0)
			return p[i].value;
	return NULL;
}

// Decodes in place; false for a bad escape or a NUL byte.
static bool decode(char *s, bool plus_is_space)
{
	ssize_t n = str_percent_decode(s, plus_is_space);
	return n >= 0 && strlen(s) == (size_t)n;
}

bool route_parse_query(char *text, struct route_query *ret)
{
	char *next = text;
	ret->n = 0;
	while (next && *next) {
		char *name = next;
		next = strchr(name, '&');
		if (next)
			*next++ = '\0';
		if (!*name)
			continue;
		if (ret->n == ROUTE_MAX_QUERY)
			return false;
		char *value = strchr(name, '=');
		if (value)
			*value++ = '\0';
		else
			value = name + strlen(name);
		if (!decode(name, true) || (*value && !decode(value, true)))
			return false;
		ret->arg[ret->n++] = (struct route_pair){name, strlen(name), value};
	}
	return true;
}

// Matches the decoded segments with a pattern and notes the parameters. rest[i] is the raw path
// from segment i on.
static bool match(const char *pattern, char **segment, size_t n, char **rest, struct route_match *m)
{
	size_t i = 0;
	unsigned n_params = 0;
	const char *p = pattern;
	while (*p == '/') {
		p++;
		size_t len = strcspn(p, "/");
		bool param = len >= 2 && p[0] == '{' && p[len - 1] == '}';
		bool is_rest = param && len > 5 && strncmp(p + len - 4, "...}", 4) == 0;
		if (is_rest) {
			if (n_params == ROUTE_MAX_PARAMS)
				return false;
			m->param[n_params++] =
				(struct route_pair){p + 1, len - 5, i < n ? rest[i] : ""};
			m->n = n_params;
			return true;
		}
		if (i == n)
			return false;
		if (param) {
			if (!segment[i][0] || n_params == ROUTE_MAX_PARAMS)
				return false;
			m->param[n_params++] = (struct route_pair){p + 1, len - 2, segment[i]};
		} else if (strlen(segment[i]) != len || strncmp(segment[i], p, len) != 0) {
			return false;
		}
		p += len;
		i++;
	}
	m->n = n_params;
	return i == n;
}

static bool method_fits(const struct http_route *route, const char *method)
{
	return strcmp(route->method, "*") == 0 || strcmp(route->method, method) == 0 ||
	       (strcmp(method, "HEAD") == 0 && strcmp(route->method, "GET") == 0);
}

int route_find(const struct http_route *routes, size_t n_routes, const char *method,
	const char *path, struct route_match *ret, struct strbuf *ret_allow)
{
	// One buffer with the path twice: cut into segments, and whole for a {rest...}.
	size_t len = strlen(path);
	ret->text = malloc(2 * (len + 1));
	if (!ret->text)
		return 500;
	char *copy = ret->text, *whole = ret->text + len + 1;
	memcpy(copy, path, len + 1);
	memcpy(whole, path, len + 1);
	if (copy[0] != '/')
		return 400;

	char *segment[MAX_SEGMENTS], *rest[MAX_SEGMENTS];
	size_t n = 0;
	for (char *p = copy; p; n++) {
		*p++ = '\0';
		if (n == MAX_SEGMENTS)
			return 404;
		segment[n] = p;
		rest[n] = whole + (p - copy);
		p = strchr(p, '/');
	}
	for (size_t i = 0; i < n; i++)
		if (!decode(segment[i], false))
			return 400;

	for (size_t i = 0; i < n_routes; i++) {
		const struct http_route *route = &routes[i];
		if (!match(route->pattern, segment, n, rest, ret))
			continue;
		if (method_fits(route, method)) {
			ret->route = route;
			break;
		}
		strbuf_addf(ret_allow, "%s%s", ret_allow->len ? ", " : "", route->method);
	}
	if (!ret->route)
		return ret_allow->len ? 405 : 404;
	// A rest is still raw; only the last parameter can be one.
	if (ret->n > 0) {
		char *last = (char *)ret->param[ret->n - 1].value;
		if (last >= whole && last <= whole + len && !decode(last, false))
			return 400;
	}
	return 0;
}

void route_match_done(struct route_match *m)
{
	free(m->text);
}
