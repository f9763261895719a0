// SPDX-License-Identifier: Apache-2.0
// A request line, "METHOD PATH?QUERY", of a server with routes of each kind.
#include <string.h>
#include "http/route.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const struct http_route routes[] = {
	{.method = "GET", .pattern = "/v1/things/{id}"},
	{.method = "POST", .pattern = "/v1/things/{id}/{what}"},
	{.method = "*", .pattern = "/files/{id}/{path...}"},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_free_ char *method = strndup((const char *)data, len);
	_cleanup_strbuf_ struct strbuf allow = {0};
	_cleanup_(route_match_done) struct route_match m = {0};
	struct route_query q;
	char *path = method ? strchr(method, ' ') : NULL;
	if (!path)
		return 0;
	*path++ = '\0';
	char *query = strchr(path, '?');
	if (query)
		*query++ = '\0';
	size_t room = query ? strlen(query) + 1 : 0;
	if (route_parse_query(query, &q))
		for (unsigned i = 0; i < q.n; i++)
			if (q.arg[i].value + strlen(q.arg[i].value) >= query + room)
				abort();
	int status = route_find(routes, ARRAY_SIZE(routes), method, path, &m, &allow);
	if ((status == 0) != (m.route != NULL) && status != 400)
		abort();
	if ((status == 405) != (allow.len > 0) && status != 0)
		abort();
	if (status == 0 && !route_pair_find(m.param, m.n, "id"))
		abort();
	return 0;
}
