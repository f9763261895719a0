// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 server on libmicrohttpd, one thread per connection, so handlers may block and read top
// to bottom. Used by the API server (behind nginx, Unix socket) and by envd (TCP in the guest).
//
// Life of a request: route lookup (404, 405) -> before hook (authentication; may answer) -> the
// body is collected up to the route's limit (413 beyond it), or handed piece by piece to a
// streaming route -> handler -> exactly one http_reply_*. A handler that returns without replying
// is a bug and gives a 500.
//
// What is refused before its body is answered at once, and the connection ends: the body is not
// waited for.
#pragma once
#include <jansson.h>
#include <sys/socket.h>
#include "base/err.h"
#include "base/str.h"
#include "http/route.h"

struct http_server;

struct http_server_config {
	const struct http_route *routes;
	size_t n_routes;
	void *ctx;     // handed to all callbacks
	int listen_fd; // a listening socket, Unix or TCP; owned by the server from then on
	size_t default_body_limit; // 0: 1 MiB
	unsigned max_connections;  // 0: 1024
	unsigned idle_timeout_s;   // connections that wait for a request; 0: none
	unsigned body_timeout_s;   // without a piece of a buffered body; 0: none
	size_t body_budget;	   // bytes of all buffered bodies at once (429); 0: none
	// Places that only routes with one of these flags get (429).
	unsigned reserve, reserve_flags;
	// Of peers for whom this is false at most max_others connections are taken, so that they
	// cannot take the places of the others. NULL: it is true for all.
	bool (*is_favoured)(const struct sockaddr *peer, void *ctx);
	unsigned max_others;
	size_t thread_stack; // 0: 256 KiB
	// Each request has an id: its X-Request-Id where that is valid, else one that is made. Each
	// answer gives it back, and the callbacks' threads have it (base/request_id.h).
	bool request_ids;
	// Runs before the body is read; true: it has replied and the request ends.
	bool (*before)(struct http_request *req, const struct http_route *route, void *ctx);
	// Writes the body of an error reply. NULL: {"error":{"code","message"}}, as /v1 has it.
	void (*format_error)(
		struct http_request *req, int status, const struct err *e, struct strbuf *out);
	// After the reply was queued; for access logs and counters. May be NULL.
	void (*done)(struct http_request *req, int status, uint64_t duration_ns, void *ctx);
};

// Binds: host NULL means all addresses of IPv4. Descriptor or -errno with the error set.
int http_listen_tcp(const char *host, uint16_t port, struct err *e);
// Removes a stale socket file of that name first. mode is set before connections are accepted.
int http_listen_unix(const char *path, mode_t mode, struct err *e);

int http_server_start(
	const struct http_server_config *cfg, struct http_server **ret, struct err *e);
// Stops accepting, ends all streams (their http_req_closing() is true), waits for the handlers.
struct http_server *http_server_free(struct http_server *s);
DEFINE_CLEANUP(struct http_server *, http_server_free)
// For a successor that gets the listening socket: no connection is accepted from now on (they wait
// in the socket's queue), and streams end (http_req_closing). *ret_fd is owned by the caller.
int http_server_quiesce(struct http_server *s, int *ret_fd, struct err *e);
// Until nothing is under way. False: something is at until_ns (CLOCK_MONOTONIC).
bool http_server_wait_idle(struct http_server *s, uint64_t until_ns);
unsigned http_server_connections(struct http_server *s);

// --- request; all returned text lives as long as the request
// -----------------------------------------
const char *http_req_method(const struct http_request *r);
const char *http_req_path(const struct http_request *r); // raw, still percent-encoded
const char *http_req_header(const struct http_request *r, const char *name); // NULL when absent
const char *http_req_query(
	const struct http_request *r, const char *name); // decoded; NULL when absent
// The name of the i-th pair of the query, decoded; NULL beyond the last.
const char *http_req_query_name(const struct http_request *r, unsigned i);
const char *http_req_param(const struct http_request *r, const char *name); // "{id}", decoded once
// True when a decoded path parameter or query value held a NUL byte: such a request is answered 400
// by the server itself, so handlers never see it.
const void *http_req_body(
	const struct http_request *r, size_t *ret_len); // buffered routes; NUL-terminated
// The buffered body as a JSON object; an empty body gives {} when allow_empty. Owned by the caller.
int http_req_json(struct http_request *r, bool allow_empty, json_t **ret, struct err *e);
// Per-request pointer of the handlers, freed with its function when the request ends.
void http_req_set_data(struct http_request *r, void *data, void (*free_fn)(void *));
void *http_req_data(const struct http_request *r);
bool http_req_closing(const struct http_request *r); // the server shuts down: streams should end
uint64_t http_req_started_ns(const struct http_request *r);	       // CLOCK_MONOTONIC
const struct http_route *http_req_route(const struct http_request *r); // NULL: none matched
// The client closed its connection. Streams that wait for long must ask (or poll the socket for
// POLLRDHUP together with what they wait for): nothing else ends them before their next write.
bool http_req_aborted(const struct http_request *r);
int http_req_socket(const struct http_request *r); // to poll only

// --- reply: exactly one per request
// -----------------------------------------------------------------
void http_reply_header(
	struct http_request *r, const char *name, const char *value); // before the reply
// One that was set before; NULL: none of that name.
const char *http_reply_get(const struct http_request *r, const char *name);
void http_reply_json(struct http_request *r, int status, json_t *body); // steals body
void http_reply_data(struct http_request *r, int status, const char *content_type, const void *data,
	size_t len);						    // copies
void http_reply_empty(struct http_request *r, int status);	    // 204, or Content-Length: 0
void http_reply_error(struct http_request *r, const struct err *e); // status by the err table
// The body of it: {"error": {"code", "message"}}, and "cause" and "stopped_at" where e has them.
// NULL when out of memory.
json_t *http_error_json(const struct err *e);
void http_reply_error_status(struct http_request *r, int status, const struct err *e);
// An open file from its offset: length bytes with Content-Length, whatever becomes of the file: of
// one that has grown no more, and one that ends before them has the connection cut, so that the
// client sees that the body is short. Owns fd.
void http_reply_fd(struct http_request *r, int status, const char *content_type, int fd,
	uint64_t offset, uint64_t length);
// Chunked stream. next is called on the connection's thread and may block; it fills buf and returns
// the count, 0 for the end, or a negative errno to cut the connection (the client sees an aborted
// body). What is returned is on the wire before next is called again. free_fn runs when the stream
// is over, by whichever end (final, error, aborted by the client).
typedef ssize_t (*http_stream_fn)(void *stream, char *buf, size_t max);
void http_reply_stream(struct http_request *r, int status, const char *content_type,
	http_stream_fn next, void *stream, void (*free_fn)(void *));
bool http_replied(const struct http_request *r);
