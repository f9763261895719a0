// SPDX-License-Identifier: Apache-2.0
// How this works. nginx asks /_edge/auth where a sandbox request goes; the configuration it runs on
// never changes (see edge.c). The answer is always 200 with X-Stasis-Target: the guest's address
// and port, or, to refuse, this server's own socket together with X-Stasis-Refusal, a path here
// that gives the right status and body. (An auth_request itself can only refuse with 401 or 403.)
// nginx calls /_edge/refuse/closed on its own when the guest's port does not answer.
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include "base/clock.h"
#include "control/internal.h"
#include "envd/client.h"
#include "http/json.h"

#define FRESH_NS (5 * NSEC_PER_SEC) // programs of a sandbox this young may still be starting
#define PROBES 5
#define PROBE_MS 100

struct refusal {
	const char *name;
	int status;
	const char *message;
	bool names_port;
};

static const struct refusal refusals[] = {
	{"not_found", 502, "The sandbox was not found", false},
	{"closed", 502, "The sandbox is running but port is not open", true},
	{"bad_id", 400, "The sandbox id is malformed", false},
	{"bad_port", 400, "The port must be a number from 1 to 65535", false},
	{"token", 401, "The access token is wrong", false},
	{"internal", 404, "No such path", false},
	{"unavailable", 503, "The host cannot be asked about the sandbox right now", false},
};

struct edge_target {
	char id[64];
	uint64_t port;
};

// "id" or the "id-<client>" of old clients; NULL when good, else the refusal.
static const char *take_id(const char *text, size_t len, struct edge_target *t)
{
	const char *dash = memchr(text, '-', len);
	size_t n = dash ? (size_t)(dash - text) : len;
	if (n >= sizeof t->id)
		return "bad_id";
	memcpy(t->id, text, n);
	t->id[n] = '\0';
	return id_is_sandbox(t->id) ? NULL : "bad_id";
}

static const char *take_port(const char *text, size_t len, struct edge_target *t)
{
	char port[8];
	if (len == 0 || len >= sizeof port)
		return "bad_port";
	memcpy(port, text, len);
	port[len] = '\0';
	return str_to_u64(port, UINT16_MAX, &t->port) < 0 || t->port == 0 ? "bad_port" : NULL;
}

static const char *find_target(
	struct control *c, const struct http_request *r, struct edge_target *ret)
{
	ret->id[0] = '\0';
	ret->port = ENVD_PORT;
	const char *id = http_req_header(r, "E2b-Sandbox-Id");
	const char *port = http_req_header(r, "E2b-Sandbox-Port");
	const char *bad = NULL;
	if (id && *id) {
		bad = take_id(id, strlen(id), ret);
		if (!bad && port && *port)
			bad = take_port(port, strlen(port), ret);
		return bad;
	}
	// "{port}-{id}.<domain>", in lower case and without a port, as nginx's $host is.
	const char *host = http_req_header(r, "X-Stasis-Host");
	if (!host || !str_ends(host, c->domain))
		return "bad_id";
	size_t len = strlen(host) - strlen(c->domain);
	const char *dash = strchr(host, '-');
	if (len < 1 || host[len - 1] != '.' || !dash || dash >= host + len)
		return "bad_id";
	bad = take_id(dash + 1, (size_t)(host + len - 1 - (dash + 1)), ret);
	return bad ? bad : take_port(host, (size_t)(dash - host), ret);
}

// Only the host may ask the agent these. Compared after decoding and removing "." and "..", more
// generously than the agent itself matches.
static bool is_internal_path(const char *uri)
{
	static const char *const internal[] = {
		"init", "freeze", "unfreeze", "collapse", "fsfreeze", "fsthaw", "upgrade"};
	_cleanup_free_ char *path = strndup(uri ? uri : "", strcspn(uri ? uri : "", "?#"));
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

// 0 when something listens, -ECONNREFUSED when not; anything else is for nginx to find out.
static int probe(const char *ip, uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	if (inet_pton(AF_INET, ip, &a.sin_addr) != 1)
		return 0;
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return -errno;
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	if (poll(&p, 1, PROBE_MS) <= 0)
		return 0;
	int errnum = 0;
	socklen_t len = sizeof errnum;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &errnum, &len);
	return -errnum;
}

static const char *find_address(struct control *c, const struct http_request *r,
	const struct edge_target *t, char address[48])
{
	_cleanup_(row_unrefp) struct row *row = NULL;
	struct err e = {0};
	if (sandboxes_find_live(c, t->id, &row, NULL) < 0)
		return "not_found";
	int rc = c->host.ops->address(c->host.host, t->id, address, &e);
	if (rc < 0)
		return e.code == ERR_NOT_FOUND || e.code == ERR_CONFLICT ? "not_found"
									 : "unavailable";
	if (t->port == ENVD_PORT) {
		const char *token = http_req_header(r, "X-Access-Token");
		// Without one the agent decides: a signed URL or /health needs none.
		if (token && *token && !str_eq_secret(token, row->token))
			return "token";
		return is_internal_path(http_req_header(r, "X-Stasis-Uri")) ? "internal" : NULL;
	}
	bool fresh = row->ready_ns && clock_monotonic_ns() - row->ready_ns < FRESH_NS;
	for (int i = 0; fresh && i < PROBES; i++) {
		if (probe(address, (uint16_t)t->port) != -ECONNREFUSED)
			break;
		clock_sleep_ns(PROBE_MS * NSEC_PER_MSEC);
	}
	return NULL;
}

void route_auth(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct edge_target t;
	char address[48], text[160];
	const char *refusal = find_target(c, r, &t);
	if (!refusal)
		refusal = find_address(c, r, &t, address);
	if (refusal) {
		snprintf(text, sizeof text, "unix:%s:", c->socket);
		http_reply_header(r, "X-Stasis-Target", text);
		snprintf(text, sizeof text, "/_edge/refuse/%s", refusal);
		http_reply_header(r, "X-Stasis-Refusal", text);
	} else {
		snprintf(text, sizeof text, "%s:%u", address, (unsigned)t.port);
		http_reply_header(r, "X-Stasis-Target", text);
	}
	http_reply_header(r, "X-Stasis-Id", t.id);
	snprintf(text, sizeof text, "%u", (unsigned)t.port);
	http_reply_header(r, "X-Stasis-Port", text);
	http_reply_empty(r, 200);
}

int route_drop_body(struct http_request *r, void *ctx, const void *data, size_t len)
{
	return 0;
}

void route_refuse(struct http_request *r, void *ctx)
{
	const char *reason = http_req_param(r, "reason");
	if (str_eq(reason, "too_large")) {
		struct err e = {0};
		err_set(&e, ERR_TOO_LARGE, "the body is larger than 1 MiB");
		http_reply_error(r, &e);
		return;
	}
	const struct refusal *f = &refusals[0];
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++)
		if (str_eq(refusals[i].name, reason))
			f = &refusals[i];
	const char *id = http_req_header(r, "X-Stasis-Id"),
		   *port = http_req_header(r, "X-Stasis-Port");
	json_t *j = json_pack("{s:s, s:s, s:i}", "sandboxId", id ? id : "", "message", f->message,
		"code", f->status);
	if (f->names_port && port)
		json_object_set_new(j, "port", json_integer(strtol(port, NULL, 10)));
	http_reply_json(r, f->status, j);
}
