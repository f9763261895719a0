// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/http1.h"
#include <string.h>
#include <strings.h>

static const char *const method_names[] = {[HTTP1_GET] = "GET",
	[HTTP1_PUT] = "PUT",
	[HTTP1_PATCH] = "PATCH",
	[HTTP1_DELETE] = "DELETE"};

const char http1_too_many[] = "HTTP/1.1 503 \r\nServer: Firecracker API\r\nConnection: close\r\n"
			      "Content-Length: 40\r\n\r\n"
			      "{ \"error\": \"Too many open connections\" }";

const char *http1_method_name(enum http1_method m)
{
	return method_names[m];
}

void http1_request_done(struct http1_request *r)
{
	strbuf_done(&r->body);
}

void http1_done(struct http1_parser *p)
{
	strbuf_done(&p->in);
	http1_request_done(&p->req);
}

int http1_feed(struct http1_parser *p, const void *data, size_t len)
{
	strbuf_add(&p->in, data, len);
	return strbuf_check(&p->in);
}

static int fail(struct http1_parser *p, const char *fmt, ...) _printf_(2, 3);
static int fail(struct http1_parser *p, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(p->error, sizeof p->error, fmt, ap);
	va_end(ap);
	p->at = HTTP1_FAILED;
	return -EBADMSG;
}

static int parse_request_line(struct http1_parser *p, char *line)
{
	char *path = strchr(line, ' ');
	if (!path)
		return fail(p, "Invalid request.");
	*path++ = '\0';
	char *version = strchr(path, ' ');
	if (!version)
		return fail(p, "Invalid request.");
	*version++ = '\0';
	size_t m = 0;
	while (m < ARRAY_SIZE(method_names) && strcmp(line, method_names[m]) != 0)
		m++;
	if (m == ARRAY_SIZE(method_names))
		return fail(p, "Invalid HTTP Method: Unsupported HTTP method.");
	if (!*path)
		return fail(p, "Invalid URI: Empty URI not allowed.");
	// As micro_http reads it: of a whole URL its path, and what begins with no slash has none.
	if (str_starts(path, "http://"))
		path += strcspn(path + 7, "/") + 7;
	if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
		return fail(p, "Invalid HTTP Version: Unsupported HTTP version.");
	p->req.method = (enum http1_method)m;
	snprintf(p->req.path, sizeof p->req.path, "%s", *path == '/' ? path : "/");
	p->headers = 0;
	p->length = 0;
	p->length_seen = p->expect = false;
	return 0;
}

static char *trim(char *s)
{
	while (*s == ' ' || *s == '\t')
		s++;
	size_t n = strlen(s);
	while (n && (s[n - 1] == ' ' || s[n - 1] == '\t'))
		s[--n] = '\0';
	return s;
}

static int parse_header(struct http1_parser *p, char *line)
{
	char *value = strchr(line, ':');
	if (!value)
		return fail(p, "Invalid header format: %s", line);
	*value++ = '\0';
	const char *name = trim(line);
	value = trim(value);
	if (strcasecmp(name, "content-length") == 0) {
		uint64_t n;
		if (str_to_u64(value, UINT32_MAX, &n) < 0 || (p->length_seen && n != p->length))
			return fail(p, "Invalid value. Key: Content-Length; Value: %s", value);
		if (n > HTTP1_BODY_MAX)
			return fail(p,
				"Request payload with size %s is larger than the limit of %u "
				"allowed by server.",
				value, HTTP1_BODY_MAX);
		p->length = n;
		p->length_seen = true;
	} else if (strcasecmp(name, "transfer-encoding") == 0) {
		if (strcasecmp(value, "identity") != 0)
			return fail(p, "Unsupported Transfer-Encoding: send Content-Length.");
	} else if (strcasecmp(name, "expect") == 0) {
		p->expect = strcasecmp(value, "100-continue") == 0;
	}
	return 0; // all others change nothing here
}

// Takes the first line out of the input. 1, 0 when it is not complete, -EBADMSG when too long.
static int take_line(struct http1_parser *p, char line[HTTP1_LINE_MAX])
{
	size_t n = MIN(p->in.len, (size_t)HTTP1_LINE_MAX);
	char *end = n ? memmem(p->in.data, n, "\r\n", 2) : NULL;
	if (!end) {
		if (n < HTTP1_LINE_MAX)
			return 0;
		return fail(
			p, p->at == HTTP1_AT_LINE ? "Invalid request." : "Header line too long.");
	}
	size_t len = (size_t)(end - p->in.data);
	if (memchr(p->in.data, '\0', len))
		return fail(p, "Invalid request.");
	memcpy(line, p->in.data, len);
	line[len] = '\0';
	strbuf_consume(&p->in, len + 2);
	return 1;
}

int http1_next(struct http1_parser *p, struct http1_request *ret)
{
	char line[HTTP1_LINE_MAX];
	while (p->at == HTTP1_AT_LINE || p->at == HTTP1_AT_HEADERS) {
		int rc = take_line(p, line);
		if (rc <= 0)
			return rc;
		if (p->at == HTTP1_AT_LINE) {
			if ((rc = parse_request_line(p, line)) < 0)
				return rc;
			p->at = HTTP1_AT_HEADERS;
		} else if (line[0] == '\0') {
			p->want_continue = p->expect && p->length > 0;
			p->at = HTTP1_AT_BODY;
		} else {
			if (++p->headers > HTTP1_HEADERS_MAX)
				return fail(p, "Too many headers.");
			if ((rc = parse_header(p, line)) < 0)
				return rc;
		}
	}
	if (p->at == HTTP1_FAILED)
		return -EBADMSG;
	if (p->in.len < p->length)
		return 0;
	p->req.has_body = p->length > 0;
	strbuf_add(&p->req.body, p->in.data, p->length);
	if (strbuf_check(&p->req.body) < 0)
		return fail(p, "Out of memory.");
	strbuf_consume(&p->in, p->length);
	*ret = p->req;
	p->req = (struct http1_request){0};
	p->want_continue = false;
	p->at = HTTP1_AT_LINE;
	return 1;
}

void http1_answer(struct strbuf *out, int status, const char *body, bool deprecated)
{
	strbuf_addf(out, "HTTP/1.1 %d \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n",
		status);
	if (deprecated)
		strbuf_adds(out, "Deprecation: true\r\n");
	if (body)
		strbuf_addf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
			strlen(body));
	strbuf_adds(out, "\r\n");
	if (body)
		strbuf_adds(out, body);
}

void http1_answer_error(struct strbuf *out, const char *error)
{
	_cleanup_free_ char *body = str_printf(
		"{ \"error\": \"%s\nAll previous unanswered requests will be dropped.\" }", error);
	http1_answer(out, 400, body ? body : "", false);
}

void http1_answer_continue(struct strbuf *out)
{
	http1_answer(out, 100, NULL, false);
}
