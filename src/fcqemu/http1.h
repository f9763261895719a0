// SPDX-License-Identifier: Apache-2.0
// The server side of Firecracker's HTTP/1.1 dialect (shared reference, Firecracker 1.1): an
// incremental request parser and the text of answers. No I/O here. libmicrohttpd cannot be used: it
// always sends a reason phrase, Firecracker never does.
//
// Feed bytes as they come, take requests until http1_next returns 0. Limits: request line and each
// header line 1024 bytes with CRLF, body HTTP1_BODY_MAX. After an error the connection is to be
// closed once the error has been sent.
#pragma once
#include "base/str.h"

#define HTTP1_LINE_MAX 1024u
#define HTTP1_HEADERS_MAX 100u // lines; more is no client of this API
#define HTTP1_BODY_MAX 51200u

enum http1_method { HTTP1_GET, HTTP1_PUT, HTTP1_PATCH, HTTP1_DELETE };

struct http1_request {
	enum http1_method method;
	char path[HTTP1_LINE_MAX];
	bool has_body; // a Content-Length above 0
	struct strbuf body;
};

struct http1_parser {
	struct strbuf in;
	enum { HTTP1_AT_LINE, HTTP1_AT_HEADERS, HTTP1_AT_BODY, HTTP1_FAILED } at;
	struct http1_request req; // being put together
	unsigned headers;
	bool length_seen, expect;
	uint64_t length;
	bool want_continue; // set when the client waits for "100"; the caller sends and clears it
	char error[1200];
};

void http1_done(struct http1_parser *p);
void http1_request_done(struct http1_request *r);
// -ENOMEM, or 0.
int http1_feed(struct http1_parser *p, const void *data, size_t len);
// 1: *ret is filled, owned by the caller. 0: more bytes are needed. -EBADMSG: not HTTP, p->error
// says why; every later call fails too.
int http1_next(struct http1_parser *p, struct http1_request *ret);
const char *http1_method_name(enum http1_method m);

// Appends an answer. body NULL: none, and no Content-Length. deprecated: adds the header that tells
// so.
void http1_answer(struct strbuf *out, int status, const char *body, bool deprecated);
// The answer to something that was no request; its body is Firecracker's, which is not valid JSON.
void http1_answer_error(struct strbuf *out, const char *error);
void http1_answer_continue(struct strbuf *out);
// What a connection above the limit gets before it is closed.
extern const char http1_too_many[];
