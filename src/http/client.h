// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 client on libcurl, over a Unix socket or TCP. A client keeps its connections
// (keep-alive); it belongs to one thread at a time.
#pragma once
#include <jansson.h>
#include <sys/socket.h>
#include "base/err.h"
#include "base/str.h"

struct http_client;

struct http_client_config {
	const char *ca_file; // PEM; whose certificates are trusted for https://; NULL: the system's
	const char *unix_path; // NULL: TCP, to the host of the URL
	const char *base_url;  // "http://127.0.0.1:7070", "http://localhost" with a Unix socket
	const char *const
		*headers; // "Name: value", sent with each request; NULL-terminated, may be NULL
	// Judges each address before a connection is made to it; NULL: all may be.
	bool (*may_connect)(void *ctx, const struct sockaddr *address);
	void *may_connect_ctx;
	bool passes_request_id; // sends X-Request-Id: what the thread works for, if anything
};

struct http_response {
	int status;
	char content_type[96];
	char server_timing[64]; // "" when there is none
	char request_id[160];	// X-Request-Id; "" when there is none
	char header[2][96];	// of the call's keep_header; "" when there is none
	struct strbuf body;
};

struct http_call {
	const char *method;
	const char *path;	    // percent-encoded by the caller, with query
	const char *const *headers; // further ones, NULL-terminated
	const void *body;
	size_t body_len;
	const char *content_type;   // default application/json where there is a body
	const char *keep_header[2]; // names of the answer's headers; NULL: none
	// Streaming upload instead of body: fills buf, returns the count, 0 at the end, -errno to
	// abort.
	ssize_t (*read)(void *ctx, char *buf, size_t max);
	int64_t read_length; // its length, or -1: chunked
	// Streaming download: pieces of a 2xx body go here instead of response->body; non-zero
	// aborts.
	int (*write)(void *ctx, const char *data, size_t len);
	// Called about every 100 ms and at each wake-up; non-zero aborts the call with -ECANCELED.
	int (*tick)(void *ctx);
	void *ctx;
	// Where no byte has moved either way for silence_ms, alive is asked, and again after as
	// long. Other than 0: the call ends so, with its error. May be NULL.
	int (*alive)(void *ctx, struct err *e);
	void *alive_ctx;
	int silence_ms;
	int connect_timeout_ms; // 0: 2000
	int timeout_ms;		// whole call; 0: none
	size_t max_body;	// of response->body; 0: 16 MiB; beyond: -EMSGSIZE
};

int http_client_new(const struct http_client_config *cfg, struct http_client **ret, struct err *e);
struct http_client *http_client_free(struct http_client *c);
DEFINE_CLEANUP(struct http_client *, http_client_free)
// 0 for any complete answer, whatever its status; -ETIMEDOUT, -ECONNREFUSED, -ECONNRESET, -ENOENT
// (no such socket), ... with the error set. Initialise *ret with {0}; http_response_done frees it.
int http_client_call(struct http_client *c, const struct http_call *call, struct http_response *ret,
	struct err *e);
void http_response_done(struct http_response *r);
// The body as JSON, NULL when it is not.
json_t *http_response_json(const struct http_response *r);
