// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include "fcqemu/http1.h"

#define _cleanup_parser_ _cleanup_(http1_done)
#define _cleanup_request_ _cleanup_(http1_request_done)

static int feed(struct http1_parser *p, const char *text, struct http1_request *r)
{
	assert_int_equal(http1_feed(p, text, strlen(text)), 0);
	return http1_next(p, r);
}

static void request_in_one_piece(void **state)
{
	_cleanup_parser_ struct http1_parser p = {0};
	_cleanup_request_ struct http1_request r = {0};
	assert_int_equal(
		feed(&p, "PUT /drives/a HTTP/1.1\r\nHost: x\r\ncontent-length: 2 \r\n\r\n{}", &r),
		1);
	assert_int_equal(r.method, HTTP1_PUT);
	assert_string_equal(r.path, "/drives/a");
	assert_true(r.has_body);
	assert_string_equal(r.body.data, "{}");
	assert_int_equal(http1_next(&p, &r), 0);
}

static void request_byte_by_byte(void **state)
{
	const char text[] =
		"PATCH /vm HTTP/1.0\r\nContent-Length: 19\r\n\r\n{\"state\": \"Paused\"}";
	_cleanup_parser_ struct http1_parser p = {0};
	_cleanup_request_ struct http1_request r = {0};
	for (size_t i = 0; i < sizeof text - 2; i++) {
		assert_int_equal(http1_feed(&p, text + i, 1), 0);
		assert_int_equal(http1_next(&p, &r), 0);
	}
	assert_int_equal(http1_feed(&p, text + sizeof text - 2, 1), 0);
	assert_int_equal(http1_next(&p, &r), 1);
	assert_int_equal(r.method, HTTP1_PATCH);
	assert_int_equal(r.body.len, 19);
}

static void pipelined_requests_come_in_order(void **state)
{
	_cleanup_parser_ struct http1_parser p = {0};
	struct http1_request r = {0};
	assert_int_equal(
		feed(&p,
			"GET / HTTP/1.1\r\n\r\nPUT /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"
			"GET /version HTTP/1.1\r\n\r\n",
			&r),
		1);
	assert_string_equal(r.path, "/");
	assert_false(r.has_body);
	http1_request_done(&r);
	assert_int_equal(http1_next(&p, &r), 1);
	assert_string_equal(r.body.data, "x");
	http1_request_done(&r);
	assert_int_equal(http1_next(&p, &r), 1);
	assert_string_equal(r.path, "/version");
	http1_request_done(&r);
}

static void wrong_requests_are_errors(void **state)
{
	static const struct {
		const char *text, *error;
	} cases[] = {
		{"POST / HTTP/1.1\r\n\r\n", "Invalid HTTP Method: Unsupported HTTP method."},
		{"get / HTTP/1.1\r\n\r\n", "Invalid HTTP Method: Unsupported HTTP method."},
		{"GET  HTTP/1.1\r\n\r\n", "Invalid URI: Empty URI not allowed."},
		{"GET / HTTP/2\r\n\r\n", "Invalid HTTP Version: Unsupported HTTP version."},
		{"GET /\r\n\r\n", "Invalid request."},
		{"\r\n", "Invalid request."},
		{"GET / HTTP/1.1\r\nno colon\r\n\r\n", "Invalid header format: no colon"},
		{"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
			"Invalid value. Key: Content-Length; Value: -1"},
		{"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
			"Invalid value. Key: Content-Length; Value: 2"},
		{"PUT / HTTP/1.1\r\nContent-Length: 51201\r\n\r\n",
			"Request payload with size 51201 is larger than the limit of 51200 allowed "
			"by "
			"server."},
		{"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
			"Unsupported Transfer-Encoding: send Content-Length."},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_parser_ struct http1_parser p = {0};
		_cleanup_request_ struct http1_request r = {0};
		assert_int_equal(feed(&p, cases[i].text, &r), -EBADMSG);
		assert_string_equal(p.error, cases[i].error);
		// For good: what follows is not trusted either.
		assert_int_equal(feed(&p, "GET / HTTP/1.1\r\n\r\n", &r), -EBADMSG);
	}
}

static int lines_of(size_t path_len, size_t header_len)
{
	_cleanup_parser_ struct http1_parser p = {0};
	_cleanup_request_ struct http1_request r = {0};
	_cleanup_strbuf_ struct strbuf b = {0};
	strbuf_adds(&b, "GET /");
	for (size_t i = 1; i < path_len; i++)
		strbuf_addc(&b, 'p');
	strbuf_adds(&b, " HTTP/1.1\r\nX:");
	for (size_t i = 2; i < header_len; i++)
		strbuf_addc(&b, 'h');
	strbuf_adds(&b, "\r\n\r\n");
	return feed(&p, b.data, &r);
}

static void lines_end_within_1024_bytes(void **state)
{
	const size_t around = strlen("GET  HTTP/1.1\r\n");
	assert_int_equal(lines_of(1024 - around, 1022), 1);
	assert_int_equal(lines_of(1025 - around, 10), -EBADMSG);
	assert_int_equal(lines_of(1, 1023), -EBADMSG);
}

static void endless_headers_are_an_error(void **state)
{
	_cleanup_parser_ struct http1_parser p = {0};
	_cleanup_request_ struct http1_request r = {0};
	int rc = feed(&p, "GET / HTTP/1.1\r\n", &r);
	for (unsigned i = 0; rc == 0 && i <= HTTP1_HEADERS_MAX; i++)
		rc = feed(&p, "a: b\r\n", &r);
	assert_int_equal(rc, -EBADMSG);
}

static void expect_asks_for_continue_once(void **state)
{
	_cleanup_parser_ struct http1_parser p = {0};
	_cleanup_request_ struct http1_request r = {0};
	assert_int_equal(
		feed(&p, "PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
			&r),
		0);
	assert_true(p.want_continue);
	p.want_continue = false;
	assert_int_equal(http1_next(&p, &r), 0);
	assert_false(p.want_continue);
	assert_int_equal(feed(&p, "x", &r), 1);
}

static void answers_look_like_firecrackers(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	http1_answer(&b, 204, NULL, false);
	assert_string_equal(b.data,
		"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n");
	b.len = 0;
	http1_answer(&b, 200, "{}", true);
	assert_string_equal(b.data,
		"HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
		"Deprecation: true\r\nContent-Type: application/json\r\nContent-Length: "
		"2\r\n\r\n{}");
	b.len = 0;
	http1_answer_error(&b, "why");
	assert_non_null(strstr(b.data, "\r\n\r\n{ \"error\": \"why\nAll previous unanswered "
				       "requests will be dropped.\" }"));
	assert_non_null(strstr(http1_too_many, "Content-Length: 40\r\n\r\n"));
	assert_int_equal(strlen(strstr(http1_too_many, "\r\n\r\n") + 4), 40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(request_in_one_piece),
		cmocka_unit_test(request_byte_by_byte),
		cmocka_unit_test(pipelined_requests_come_in_order),
		cmocka_unit_test(wrong_requests_are_errors),
		cmocka_unit_test(lines_end_within_1024_bytes),
		cmocka_unit_test(endless_headers_are_an_error),
		cmocka_unit_test(expect_asks_for_continue_once),
		cmocka_unit_test(answers_look_like_firecrackers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
