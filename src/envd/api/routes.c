// SPDX-License-Identifier: Apache-2.0
#include "envd/api/routes.h"
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/lock.h"
#include "envd/api/entry.h"
#include "envd/api/files_get.h"
#include "envd/api/files_post.h"
#include "envd/api/oom.h"
#include "envd/api/ports.h"
#include "envd/api/files_tar.h"
#include "envd/api/request.h"
#include "envd/api/rpc_filesystem.h"
#include "envd/api/rpc_process.h"
#include "envd/wake/freeze.h"
#include "envd/wake/handover.h"
#include "envd/wake/init.h"

#define SMALL_BODY (1u << 20)
#define MESSAGE_BODY (24u << 20) // a message of CONNECT_MAX_MESSAGE with its escapes

// --- errors

void routes_format_error(
	struct http_request *req, int status, const struct err *e, struct strbuf *out)
{
	const char *path = http_req_path(req);
	if (str_starts(path, "/process.") || str_starts(path, "/filesystem.")) {
		request_add_error(out, err_info(e->code)->connect, e);
		return;
	}
	strbuf_addf(out, "{\"code\":%d,\"message\":", status);
	entry_add_json_string(out, e->text);
	strbuf_addc(out, '}');
}

// --- before every request

// Over which interface the connection came in: its index, 0 when that cannot be told. The listening
// socket has IP_PKTINFO.
static unsigned interface_of(int fd)
{
	char room[CMSG_SPACE(sizeof(struct in_pktinfo)) + 64];
	socklen_t len = sizeof room;
	if (getsockopt(fd, IPPROTO_IP, IP_PKTOPTIONS, room, &len) < 0)
		return 0;
	struct msghdr m = {.msg_control = room, .msg_controllen = len};
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		struct in_pktinfo info;
		if (c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_PKTINFO)
			continue;
		memcpy(&info, CMSG_DATA(c), sizeof info);
		return (unsigned)info.ipi_ifindex;
	}
	return 0;
}

static bool is_from_host(const struct agent *a, struct http_request *req)
{
	struct sockaddr_in peer = {0};
	socklen_t len = sizeof peer;
	int fd = http_req_socket(req);
	if (!a->host.interface[0])
		return true;
	unsigned wanted = if_nametoindex(a->host.interface);
	return wanted && interface_of(fd) == wanted &&
	       getpeername(fd, (struct sockaddr *)&peer, &len) == 0 && peer.sin_family == AF_INET &&
	       peer.sin_addr.s_addr == a->host.peer.s_addr;
}

static bool may_call(
	struct agent *a, struct http_request *req, const struct http_route *route, struct err *e)
{
	if ((route->flags & ROUTE_HOST) && !is_from_host(a, req)) {
		err_set(e, ERR_FORBIDDEN, "only the host may call this");
		return false;
	}
	if (route->flags & (ROUTE_PUBLIC | ROUTE_OWN))
		return true;
	const char *given = http_req_header(req, "X-Access-Token");
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->lock);
	bool closed = !a->token, ok = a->token && str_eq_secret(given ? given : "", a->token);
	if (closed)
		err_set(e, ERR_UNAUTHENTICATED, "no access token was set yet: the host has to");
	else if (!ok &&
		 !((route->flags & ROUTE_ANY) && strcmp(http_req_method(req), "OPTIONS") == 0))
		err_set(e, ERR_UNAUTHENTICATED, "X-Access-Token: missing or wrong");
	return !err_is_set(e);
}

bool routes_before(struct http_request *req, const struct http_route *route, void *ctx)
{
	struct agent *a = ctx;
	struct err e = {0};
	if (http_req_header(req, "Origin"))
		http_reply_header(req, "Access-Control-Allow-Origin", "*");
	if (route->flags & (ROUTE_PUBLIC | ROUTE_HOST)) {
		http_reply_header(req, "X-Envd-Instance", a->instance);
		http_reply_header(req, AGENT_HEADER, a->identity);
	}
	if (may_call(a, req, route, &e))
		return false;
	http_reply_error(req, &e);
	return true;
}

// --- small routes

// Everything that no other route takes; answered before the body.
static int no_body(struct http_request *req, void *ctx, const void *data, size_t len)
{
	return -EPROTO;
}

static void other(struct http_request *req, void *ctx)
{
	const char *headers = http_req_header(req, "Access-Control-Request-Headers");
	struct err e = {0};
	if (strcmp(http_req_method(req), "OPTIONS") != 0) {
		err_set(&e, ERR_NOT_FOUND, "no such call: %s %.200s", http_req_method(req),
			http_req_path(req));
		http_reply_error(req, &e);
		return;
	}
	http_reply_header(req, "Access-Control-Allow-Methods", "GET, POST, HEAD, OPTIONS");
	if (headers)
		http_reply_header(req, "Access-Control-Allow-Headers", headers);
	http_reply_header(req, "Access-Control-Max-Age", "7200");
	http_reply_empty(req, 204);
}

static void health_get(struct http_request *req, void *ctx)
{
	struct agent *a = ctx;
	struct err e = {0};
	if (a->moving) { // neither the old agent nor the new one can be told from it
		err_set(&e, ERR_UNAVAILABLE, "the agent is being replaced");
		http_reply_error(req, &e);
		return;
	}
	http_reply_header(req, "Cache-Control", "no-store");
	http_reply_header(req, "X-Envd-Version", ENVD_VERSION);
	http_reply_empty(req, 204);
}

static void envs_get(struct http_request *req, void *ctx)
{
	_cleanup_json_ json_t *env = agent_env(ctx);
	http_reply_json(req, 200, json_copy(env));
}

static uint64_t meminfo(const char *text, const char *key)
{
	const char *at = text ? strstr(text, key) : NULL;
	return at ? strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

// Busy share of all processors since the last call (since boot at the first one).
static double cpu_used(struct agent *a)
{
	_cleanup_free_ char *line = NULL;
	uint64_t v[8] = {0}, total = 0;
	if (file_read_line(AT_FDCWD, "/proc/stat", &line) < 0)
		return 0;
	char *p = line + strcspn(line, " ");
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		total += v[i] = strtoull(p, &p, 10);
	uint64_t busy = total - v[3] - v[4]; // idle, iowait
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->lock);
	uint64_t d_busy = busy - a->cpu_busy, d_total = total - a->cpu_total;
	a->cpu_busy = busy;
	a->cpu_total = total;
	return d_total && d_busy <= d_total ? 100.0 * (double)d_busy / (double)d_total : 0;
}

static void metrics_get(struct http_request *req, void *ctx)
{
	_cleanup_strbuf_ struct strbuf mem = {0};
	struct statvfs disk = {0};
	file_read(AT_FDCWD, "/proc/meminfo", SMALL_BODY, &mem);
	statvfs("/", &disk);
	uint64_t total = meminfo(mem.data, "MemTotal:");
	uint64_t used = total - meminfo(mem.data, "MemAvailable:");
	json_t *o = json_pack("{s:I, s:i, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "ts",
		(json_int_t)(clock_realtime_ns() / NSEC_PER_SEC), "cpu_count",
		(int)sysconf(_SC_NPROCESSORS_ONLN), "cpu_used_pct", cpu_used(ctx), "mem_total",
		(json_int_t)total, "mem_used", (json_int_t)used, "mem_cache",
		(json_int_t)meminfo(mem.data, "\nCached:"), "mem_total_mib",
		(json_int_t)(total >> 20), "mem_used_mib", (json_int_t)(used >> 20), "disk_used",
		(json_int_t)((disk.f_blocks - disk.f_bfree) * disk.f_frsize), "disk_total",
		(json_int_t)(disk.f_blocks * disk.f_frsize));
	http_reply_json(req, 200, o);
}

const struct http_route agent_routes[] = {
	{"GET", "/health", health_get, .flags = ROUTE_PUBLIC},
	{"POST", "/init", init_post, .body_limit = SMALL_BODY, .flags = ROUTE_OWN | ROUTE_HOST},
	{"POST", "/freeze", freeze_post, .body_limit = SMALL_BODY, .flags = ROUTE_HOST},
	{"POST", "/thaw", thaw_post, .body_limit = SMALL_BODY, .flags = ROUTE_HOST},
	{"POST", "/upgrade", upgrade_post, .body_limit = HANDOVER_PROGRAM_MAX, .flags = ROUTE_HOST},
	{"POST", "/oom", oom_post, .body_limit = SMALL_BODY, .flags = ROUTE_HOST},
	{"GET", "/envs", envs_get},
	{"GET", "/metrics", metrics_get},
	{"GET", "/ports/{port}", ports_get},
	{"GET", "/files", files_get},
	{"POST", "/files", files_post, files_post_body, .body_limit = SIZE_MAX},
	{"GET", "/files/tar", files_tar_get},
	{"POST", "/files/tar", files_tar_post, files_tar_post_body, .body_limit = SIZE_MAX},
	{"POST", "/process.Process/Start", rpc_process_start, .body_limit = MESSAGE_BODY},
	{"POST", "/process.Process/Connect", rpc_process_connect, .body_limit = SMALL_BODY},
	{"POST", "/process.Process/{method}", rpc_process_unary, .body_limit = MESSAGE_BODY},
	{"POST", "/filesystem.Filesystem/{method}", rpc_filesystem_unary, .body_limit = SMALL_BODY},
	{"*", "/{path...}", other, no_body, .body_limit = SMALL_BODY, .flags = ROUTE_ANY},
};
const size_t agent_n_routes = ARRAY_SIZE(agent_routes);
