// SPDX-License-Identifier: Apache-2.0
#include "control/edge/target.h"
#include <string.h>
#include "base/id.h"
#include "base/str.h"

#define AGENT_PORT 49983

// "id" or the "id-<client>" of old clients.
static const char *take_id(const char *text, size_t len, struct edge_target *t)
{
	const char *dash = memchr(text, '-', len);
	size_t n = dash ? (size_t)(dash - text) : len;
	if (n < sizeof t->id) {
		memcpy(t->id, text, n);
		t->id[n] = '\0';
		if (id_is_sandbox(t->id))
			return NULL;
	}
	t->id[0] = '\0';
	return "bad_id";
}

static const char *take_port(const char *text, size_t len, struct edge_target *t)
{
	char digits[8];
	uint64_t port = 0;
	if (len == 0 || len >= sizeof digits)
		return "bad_port";
	memcpy(digits, text, len);
	digits[len] = '\0';
	if (str_to_u64(digits, UINT16_MAX, &port) < 0 || port == 0)
		return "bad_port";
	t->port = (uint16_t)port;
	return NULL;
}

const char *target_parse(const char *id, const char *port, const char *host, const char *domain,
	struct edge_target *ret)
{
	*ret = (struct edge_target){.port = AGENT_PORT};
	if (id && *id) {
		const char *bad = take_id(id, strlen(id), ret);
		return bad || !port || !*port ? bad : take_port(port, strlen(port), ret);
	}
	if (!host || !str_ends(host, domain))
		return "bad_id";
	size_t len = strlen(host) - strlen(domain);
	const char *dash = strchr(host, '-');
	if (len < 1 || host[len - 1] != '.' || !dash || dash >= host + len - 1)
		return "bad_id";
	const char *bad = take_id(dash + 1, (size_t)(host + len - 1 - (dash + 1)), ret);
	return bad ? bad : take_port(host, (size_t)(dash - host), ret);
}

bool target_is_internal_path(const char *uri)
{
	static const char *const internal[] = {"init", "freeze", "thaw", "unfreeze", "collapse",
		"fsfreeze", "fsthaw", "upgrade", "oom"};
	_cleanup_free_ char *path = uri ? strndup(uri, strcspn(uri, "?#")) : NULL;
	if (!path || str_percent_decode(path, false) < 0)
		return true;
	const char *first = NULL;
	size_t first_len = 0;
	int depth = 0;
	for (const char *p = path; *p;) {
		p += strspn(p, "/");
		size_t len = strcspn(p, "/");
		if (len == 2 && p[0] == '.' && p[1] == '.') {
			depth -= depth > 0;
		} else if (len > 0 && !(len == 1 && p[0] == '.')) {
			if (depth++ == 0) {
				first = p;
				first_len = len;
			}
		}
		p += len;
	}
	for (size_t i = 0; depth == 1 && i < ARRAY_SIZE(internal); i++)
		if (strlen(internal[i]) == first_len && strncmp(first, internal[i], first_len) == 0)
			return true;
	return false;
}
