// SPDX-License-Identifier: Apache-2.0
// How this works. nginx asks /_edge/auth where a sandbox request goes; the configuration it runs on
// never changes (see edge.c). The answer is 200 with X-Stasis-Target, the guest's address and port,
// or 403 with the status and the body that nginx then gives: X-Stasis-Refusal,
// X-Stasis-Refusal-Body. (An auth_request itself can only refuse with 401 or 403.) nginx.conf.in
// has the list of these statuses. nginx asks /_edge/closed on its own when the guest's port does
// not answer.
#include "control/edge/route.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include "base/clock.h"
#include "control/api/agents.h"
#include "control/api/context.h"
#include "control/api/find.h"
#include "control/api/login.h"
#include "control/api/reply.h"
#include "control/edge/port_gate.h"
#include "control/edge/target.h"
#include "agentclient/client.h"
#include "base/json.h"

#define FRESH_NS (5 * NSEC_PER_SEC) // programs of a sandbox this young may still be starting
#define PROBES 5
#define PROBE_MS 100
#define ASK_MS 1000 // the agent, about a closed port
// So many at once, of all sandboxes: what guests can make last must not take the edge's places. A
// question beyond that is answered without.
#define SLOW_MAX 64

struct refusal {
	const char *name;
	int status;
	const char *message;
	bool names_port;
};

static const struct refusal refusals[] = {
	{"not_found", 502, "The sandbox was not found", false},
	{"closed", 502, "The sandbox is running but port is not open", true},
	{"no_answer", 502,
		"The port is open, but what listens there gave no answer in HTTP/1.1 (or one with "
		"more than 256 KiB of headers)",
		true},
	{"no_answer_in_time", 504,
		"The port is open, but what listens there did not answer in time", true},
	{"loopback", 502,
		"The sandbox is running but port is not open: a server listens on it on the "
		"guest's "
		"loopback only; let it listen on 0.0.0.0",
		true},
	{"bad_id", 400, "The sandbox id is malformed", false},
	{"bad_port", 400, "The port must be a number from 1 to 65535", false},
	{"token", 401, "The access token is missing or wrong", false},
	{"link", 303, "The link is used up: go where Location says", false},
	{"port_token", 401,
		"The ports of this sandbox are private: send its port token as "
		"X-Stasis-Port-Token, or open a new link (stasis port ID PORT --link)",
		false},
	{"owner", 401,
		"The agent in this sandbox is an older one with a known weakness: until it is made "
		"anew, each port wants the access token of the sandbox (X-Access-Token)",
		false},
	{"internal", 404, "No such path", false},
	{"unavailable", 503, "The host cannot be asked about the sandbox right now", false},
};

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

static void wait_for_port(const char *ip, uint16_t port)
{
	for (int i = 0; i < PROBES && probe(ip, port) == -ECONNREFUSED; i++)
		clock_sleep_ns(PROBE_MS * NSEC_PER_MSEC);
}

static bool slow_begin(struct control *c)
{
	if (atomic_fetch_add(&c->slow_questions, 1) < SLOW_MAX)
		return true;
	atomic_fetch_sub(&c->slow_questions, 1);
	return false;
}

static void slow_end(struct control *c)
{
	atomic_fetch_sub(&c->slow_questions, 1);
}

// What a stranger may ask the agent: whether it is there, and what a browser asks before a call.
static bool needs_token(const struct http_request *r)
{
	const char *method = http_req_header(r, "X-Stasis-Method");
	const char *uri = http_req_header(r, "X-Stasis-Uri");
	if (!method || !uri)
		return true;
	size_t len = strcspn(uri, "?#");
	bool health = len == strlen("/health") && strncmp(uri, "/health", len) == 0;
	return strcmp(method, "OPTIONS") != 0 && !(health && strcmp(method, "GET") == 0);
}

// A guest whose agent has a known weakness is for its owner alone, whatever port is asked for.
static const char *refuse_stranger(const struct http_request *r, const char *wanted)
{
	const char *token = http_req_header(r, "X-Access-Token");
	return token && str_eq_secret(token, wanted) ? NULL : "owner";
}

// Decided here and not by the agent, which belongs to whoever is root in the guest.
static const char *refuse_agent_call(const struct http_request *r, const char *wanted)
{
	const char *token = http_req_header(r, "X-Access-Token");
	if (target_is_internal_path(http_req_header(r, "X-Stasis-Uri")))
		return "internal";
	if (token && *token ? !str_eq_secret(token, wanted) : needs_token(r))
		return "token";
	return NULL;
}

static bool shows_key(struct control *c, struct http_request *r)
{
	struct key_info k;
	return keys_check(c->keys, login_key(r), &k, NULL) == 0;
}

// *ret_known: the request shows a token of the sandbox or a key, so no limit of strangers is for
// it.
static const char *find_place(struct control *c, struct http_request *r,
	const struct edge_target *t, struct host_place *ret, bool *ret_known)
{
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	struct err e = {0};
	if (find_live(c, t->id, &row, NULL) < 0)
		return "not_found";
	int rc = c->host.ops->address(c->host.host, t->id, ret, &e);
	if (rc < 0)
		return e.code == ERR_NOT_FOUND || e.code == ERR_CONFLICT ? "not_found"
									 : "unavailable";
	const char *sent = http_req_header(r, "X-Access-Token");
	char token[SHA256_HEX_SIZE];
	row_get_token(row, token);
	*ret_known = (sent && str_eq_secret(sent, token)) || shows_key(c, r);
	const char *refused = ret->owner_only ? refuse_stranger(r, token) : NULL;
	if (refused || t->port == ENVD_PORT)
		return refused ? refused : refuse_agent_call(r, token);
	if ((refused = port_gate(c, r, row, t->port, ret_known)))
		return refused;
	bool fresh = row->ready_ns && clock_monotonic_ns() - row->ready_ns < FRESH_NS;
	if (fresh && slow_begin(c)) {
		wait_for_port(ret->address, t->port);
		slow_end(c);
	}
	return NULL;
}

// The client's credentials go on to the guest (its programs may have keys of their own), but a key
// of this server, or of another one, does not: no guest may see it.
static void pass_credentials(struct control *c, struct http_request *r)
{
	const char *key = http_req_header(r, "X-API-Key");
	const char *auth = http_req_header(r, "Authorization");
	if (key && !login_has_key(c, key))
		http_reply_header(r, "X-Stasis-Api-Key", key);
	if (auth && !login_has_key(c, auth))
		http_reply_header(r, "X-Stasis-Authorization", auth);
}

// The body of an answer that refuses; *ret_status its status.
static json_t *refusal_body(const char *name, const char *id, const char *port, int *ret_status)
{
	const struct refusal *f = &refusals[0];
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++)
		if (str_eq(refusals[i].name, name))
			f = &refusals[i];
	json_t *j = json_pack("{s:s, s:s, s:i}", "sandboxId", id ? id : "", "message", f->message,
		"code", f->status);
	if (f->names_port && port)
		json_object_set_new(j, "port", json_integer(strtol(port, NULL, 10)));
	*ret_status = f->status;
	return j;
}

static void refuse(struct http_request *r, const char *name, const char *id)
{
	int status;
	char text[16];
	_cleanup_json_ json_t *j = refusal_body(name, id, NULL, &status);
	_cleanup_free_ char *body = json_compact(j);
	snprintf(text, sizeof text, "%d", status);
	http_reply_header(r, "X-Stasis-Refusal", text);
	http_reply_header(r, "X-Stasis-Refusal-Body", body ? body : "");
	reply_retry_after(r, status);
	http_reply_empty(r, 403);
}

void route_auth(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct edge_target t;
	struct host_place at = {0};
	char text[64];
	bool known = false;
	const char *refusal = target_parse(http_req_header(r, "E2b-Sandbox-Id"),
		http_req_header(r, "E2b-Sandbox-Port"), http_req_header(r, "X-Stasis-Host"),
		c->domain, &t);
	if (!refusal)
		refusal = find_place(c, r, &t, &at, &known);
	if (known)
		http_reply_header(r, "X-Stasis-Known", "1");
	if (refusal) {
		refuse(r, refusal, t.id);
		return;
	}
	snprintf(text, sizeof text, "%s:%u", at.address, t.port);
	http_reply_header(r, "X-Stasis-Target", text);
	// It was shown to the edge: a program that serves a port is not to have it.
	if (at.owner_only && t.port != ENVD_PORT)
		http_reply_header(r, "X-Stasis-Token-Taken", "1");
	pass_credentials(c, r);
	http_reply_header(r, "X-Stasis-Id", t.id);
	snprintf(text, sizeof text, "%u", t.port);
	http_reply_header(r, "X-Stasis-Port", text);
	http_reply_empty(r, 200);
}

// nginx found no answer of the guest, and says how many bytes it could send: none to a closed port.
static const char *tell_no_answer(const struct http_request *r)
{
	const char *sent = http_req_header(r, "X-Stasis-Sent"),
		   *status = http_req_header(r, "X-Stasis-Status");
	if (!sent || !strpbrk(sent, "123456789"))
		return "closed";
	return str_eq(status, "504") ? "no_answer_in_time" : "no_answer";
}

// The edge reaches the guest's address alone. Whether a closed port is one of the loopback the
// agent knows.
static bool is_on_loopback(struct control *c, const char *id, const char *port_text)
{
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	_cleanup_(http_client_freep) struct http_client *client = NULL;
	struct host_place at;
	char base_url[80];
	uint64_t port;
	bool loopback = false, outside = false;
	if (!id || !port_text || str_to_u64(port_text, UINT16_MAX, &port) < 0 ||
		port == ENVD_PORT || find_live(c, id, &row, NULL) < 0 ||
		c->host.ops->address(c->host.host, id, &at, NULL) < 0)
		return false;
	snprintf(base_url, sizeof base_url, "http://%s:%d", at.address, ENVD_PORT);
	char token[SHA256_HEX_SIZE];
	row_get_token(row, token);
	const struct envd_target target = {.base_url = base_url, .token = token};
	if (agents_take(c->agents, id, base_url, &client, NULL) < 0 ||
		envd_call_ports(
			client, &target, (uint16_t)port, ASK_MS, &loopback, &outside, NULL) < 0)
		return false;
	agents_give(c->agents, id, base_url, TAKE_PTR(client));
	return loopback && !outside;
}

// For a browser. The texts are of the table above. body is stolen.
static void reply_page(struct http_request *r, int status, json_t *body)
{
	_cleanup_json_ json_t *j = body;
	const char *message = json_string_value(json_object_get(j, "message"));
	_cleanup_free_ char *html =
		str_printf("<!doctype html><title>Stasis</title><h1>%d</h1><p>%s</p>", status,
			message ? message : "");
	http_reply_data(
		r, status, "text/html; charset=utf-8", html ? html : "", html ? strlen(html) : 0);
}

void route_closed(struct http_request *r, void *ctx)
{
	const char *id = http_req_header(r, "X-Stasis-Id"),
		   *port = http_req_header(r, "X-Stasis-Port"), *name = tell_no_answer(r);
	int status;
	if (str_eq(name, "closed") && slow_begin(ctx)) {
		if (is_on_loopback(ctx, id, port))
			name = "loopback";
		slow_end(ctx);
	}
	json_t *j = refusal_body(name, id, port, &status);
	reply_retry_after(r, status);
	const char *page = http_req_header(r, "X-Stasis-Page");
	if (page && *page)
		reply_page(r, status, j);
	else
		http_reply_json(r, status, j);
}

void route_key(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	http_reply_empty(r, shows_key(c, r) ? 204 : 401);
}
