// SPDX-License-Identifier: Apache-2.0
// How this works. nginx.conf.in reads from the request what opens a port: two headers, up to two
// cookies of our name (RFC 6265 lets a sibling domain's page add its own) and a link's code, and
// takes all of them out of what the guest is sent. A visit with a code answers 303 and the cookie.
#include "control/edge/port_gate.h"
#include <inttypes.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "control/edge/target.h"
#include "control/state/port_access.h"
#include "control/state/port_links.h"

static const char *header(const struct http_request *r, const char *name)
{
	const char *value = http_req_header(r, name);
	return value ? value : "";
}

// A page of another sandbox is same-site, so that SameSite does not stop its calls: a browser says
// with Origin whose page it is. Pages of this sandbox's other ports are its own. nginx tells an
// Origin only where it is not the host that is asked.
static bool is_foreign_page(
	struct control *c, const struct http_request *r, const struct sandbox_row *row)
{
	const char *origin = header(r, "X-Stasis-Origin");
	const char *host = strstr(origin, "://");
	struct edge_target from;
	if (!*origin)
		return false;
	_cleanup_free_ char *name = host ? strndup(host + 3, strcspn(host + 3, ":/")) : NULL;
	return !name || target_parse(NULL, NULL, name, c->domain, &from) ||
	       !str_eq(from.id, row->id);
}

static bool has_cookie(struct control *c, const struct http_request *r,
	const struct sandbox_row *row, uint16_t port, uint64_t now_sec)
{
	const char *p = header(r, "X-Stasis-Port-Cookies");
	bool found = false;
	for (p += strspn(p, " "); *p; p += strspn(p, " ")) {
		char one[PORT_COOKIE_SIZE];
		size_t n = strcspn(p, " ");
		if (n < sizeof one) {
			memcpy(one, p, n);
			one[n] = '\0';
			found |= port_access_is_cookie(row, port, now_sec, one);
		}
		p += n;
	}
	return found && !is_foreign_page(c, r, row);
}

// Only a GET: what looks at a link before it shows it to somebody asks with HEAD.
static bool use_link(struct control *c, struct http_request *r, const struct sandbox_row *row,
	uint16_t port, uint64_t now_ns)
{
	const char *code = header(r, "X-Stasis-Link-Code");
	char value[PORT_COOKIE_SIZE], cookie[PORT_COOKIE_SIZE + 128];
	if (!*code || !str_eq(header(r, "X-Stasis-Method"), "GET"))
		return false;
	_cleanup_free_ char *path =
		port_links_use(c->port_links, code, row->id, port, row->port_epoch, now_ns);
	if (!path)
		return false;
	// Of the prefix browsers see to it that no other host can set it; it needs Secure.
	bool secure = str_eq(header(r, "X-Stasis-Proto"), "https");
	port_access_cookie(row, port, now_ns / NSEC_PER_SEC + PORT_COOKIE_SEC, value);
	snprintf(cookie, sizeof cookie,
		"%sstasis-port=%s; Path=/; Max-Age=%u; HttpOnly; SameSite=Lax%s",
		secure ? "__Host-" : "", value, PORT_COOKIE_SEC, secure ? "; Secure" : "");
	http_reply_header(r, "X-Stasis-Set-Cookie", cookie);
	http_reply_header(r, "X-Stasis-Location", path);
	return true;
}

const char *port_gate(struct control *c, struct http_request *r, const struct sandbox_row *row,
	uint16_t port, bool *ret_known)
{
	uint64_t now_ns = clock_realtime_ns();
	bool opens = port_access_is_token(row, header(r, "X-Stasis-Port-Token")) ||
		     port_access_is_token(row, header(r, "E2b-Traffic-Access-Token")) ||
		     has_cookie(c, r, row, port, now_ns / NSEC_PER_SEC);
	*ret_known |= opens;
	if (use_link(c, r, row, port, now_ns))
		return "link";
	// Browsers send no credentials with the question before a call.
	bool preflight = str_eq(header(r, "X-Stasis-Preflight"), "1");
	return !row->is_private || opens || preflight ? NULL : "port_token";
}
