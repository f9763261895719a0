// SPDX-License-Identifier: Apache-2.0
#include "../check.h"
#include <string.h>
#include "base/str.h"
#include "envd/api/multipart.h"

// What the parser said, as text: "[name|filename]data;" per part.
struct heard {
	struct strbuf text;
	int fail_at_data; // errno to answer with
};

static int on_part(void *ctx, const char *name, const char *filename, struct err *e)
{
	struct heard *h = ctx;
	strbuf_addf(&h->text, "[%s|%s]", name, filename ? filename : "-");
	return 0;
}

static int on_data(void *ctx, const void *data, size_t len, struct err *e)
{
	struct heard *h = ctx;
	strbuf_add(&h->text, data, len);
	return -h->fail_at_data;
}

static int on_end(void *ctx, struct err *e)
{
	struct heard *h = ctx;
	strbuf_addc(&h->text, ';');
	return 0;
}

static const struct multipart_events events = {on_part, on_data, on_end};

// Parses body in pieces of the given size; the result of the last step.
static int parse(const char *type, const char *body, size_t len, size_t piece, struct heard *h,
	struct err *e)
{
	_cleanup_(multipart_freep) struct multipart *m = NULL;
	int rc = multipart_new(type, &events, h, &m, e);
	for (size_t at = 0; rc == 0 && at < len; at += piece)
		rc = multipart_feed(m, body + at, MIN(piece, len - at), e);
	return rc < 0 ? rc : multipart_finish(m, e);
}

static void check(const char *type, const char *body, const char *want)
{
	size_t len = strlen(body);
	for (size_t piece = 1; piece <= len; piece++) {
		_cleanup_strbuf_ _unused_ struct strbuf unused = {0};
		struct heard h = {0};
		struct err e = {0};
		int rc = parse(type, body, len, piece, &h, &e);
		if (rc < 0)
			fail_msg("pieces of %zu: %s", piece, e.text);
		strbuf_addc(&h.text, '\0');
		assert_string_equal(h.text.data, want);
		strbuf_done(&h.text);
	}
}

#define TYPE "multipart/form-data; boundary=XX"
#define HEAD "Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n"

static void test_parts_come_out_whatever_the_pieces(void **state)
{
	check(TYPE, "--XX\r\n" HEAD "\r\nhello\r\n--XX--\r\n", "[file|a.txt]hello;");
	check(TYPE, "--XX\r\n" HEAD "\r\none\r\n--XX\r\n" HEAD "\r\ntwo\r\n--XX--",
		"[file|a.txt]one;[file|a.txt]two;");
	check(TYPE, "preamble\r\n--XX\r\n" HEAD "\r\nx\r\n--XX--\r\nepilogue\r\n--XX\r\n",
		"[file|a.txt]x;");
}

static void test_data_that_looks_like_a_boundary(void **state)
{
	check(TYPE, "--XX\r\n" HEAD "\r\n\r\n--X\r\n-\r\n--\r\n--XY--XX\r\r\n\r\n--XX--",
		"[file|a.txt]\r\n--X\r\n-\r\n--\r\n--XY--XX\r\r\n;");
	check(TYPE, "--XX\r\n" HEAD "\r\n\r\n\r\n\r\n--XX--", "[file|a.txt]\r\n\r\n;");
}

static void test_empty_parts(void **state)
{
	check(TYPE, "--XX\r\n" HEAD "\r\n\r\n--XX--", "[file|a.txt];");
	// The body may be left out altogether (RFC 2046, body-part).
	check(TYPE, "--XX\r\n" HEAD "\r\n--XX--", "[file|a.txt];");
	check(TYPE, "--XX\r\n\r\nno header\r\n--XX--", "[|-]no header;");
	check(TYPE, "--XX--", "");
	check(TYPE, "\r\n--XX--", "");
}

static void test_odd_boundaries(void **state)
{
	check("Multipart/Form-Data; charset=utf-8; boundary=\"a b:c=?\"",
		"--a b:c=?\r\n" HEAD "\r\nx\r\n--a b:c=?--", "[file|a.txt]x;");
	check("multipart/form-data;boundary=----formdata-undici-012345678901",
		"------formdata-undici-012345678901\r\n" HEAD
		"\r\nx\r\n------formdata-undici-012345678901--",
		"[file|a.txt]x;");
	check(TYPE, "--XX \t \r\n" HEAD "\r\nx\r\n--XX  \r\n" HEAD "\r\ny\r\n--XX--",
		"[file|a.txt]x;[file|a.txt]y;");
}

static void test_names_and_file_names(void **state)
{
	check(TYPE,
		"--XX\r\ncontent-disposition:form-data;name=file;filename=\"C:\\dir\\a "
		"\\\"b\\\\\"\r\n"
		"Content-Type: text/plain\r\n\r\nx\r\n--XX--",
		"[file|C:\\dir\\a \"b\\]x;");
	check(TYPE, "--XX\r\nX-Other: 1\r\n" HEAD "\r\nx\r\n--XX--", "[file|a.txt]x;");
	check(TYPE,
		"--XX\r\nContent-Disposition: form-data; name=\"k\"; "
		"filename=\"x;y=z/\xc3\xa9\"\r\n"
		"\r\nv\r\n--XX--",
		"[k|x;y=z/\xc3\xa9]v;");
	check(TYPE,
		"--XX\r\nContent-Disposition: form-data; filename=\"\"; "
		"name=\"k\"\r\n\r\nv\r\n--XX--",
		"[k|]v;");
}

static void refuse(const char *type, const char *body, size_t len)
{
	for (size_t piece = 1; piece <= len; piece += 7) {
		struct heard h = {0};
		struct err e = {0};
		assert_int_equal(parse(type, body, len, piece, &h, &e), -EINVAL);
		assert_int_equal(e.code, ERR_INVALID);
		strbuf_done(&h.text);
	}
}

static void test_broken_bodies_are_refused(void **state)
{
	static const char *const bodies[] = {"x", "--XX", "--XX\r\n" HEAD,
		"--XX\r\n" HEAD "\r\nhello", "--XX\r\n" HEAD "\r\nhello\r\n--XX", "--XXY\r\n",
		"--XX\r\n" HEAD "\r\nx\r\n--XXY--"};
	for (size_t i = 0; i < ARRAY_SIZE(bodies); i++)
		refuse(TYPE, bodies[i], strlen(bodies[i]));
	refuse(TYPE, "--XX\r\na\0b\r\n\r\nx\r\n--XX--", 23);
	static char large[40000] = "--XX\r\n";
	memset(large + 6, 'h', sizeof large - 6);
	refuse(TYPE, large, sizeof large);
	static const char *const types[] = {"multipart/form-data",
		"multipart/form-data; boundary=", "multipart/form-data; boundary=\"\"",
		"multipart/form-database; boundary=x", "multipart/mixed; boundary=x", "text/plain"};
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		refuse(types[i], "--x--", 5);
}

static void test_an_error_of_the_receiver_ends_it(void **state)
{
	struct heard h = {.fail_at_data = ENOSPC};
	static const char body[] = "--XX\r\n" HEAD "\r\nhello\r\n--XX--";
	assert_int_equal(parse(TYPE, body, strlen(body), strlen(body), &h, NULL), -ENOSPC);
	strbuf_done(&h.text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parts_come_out_whatever_the_pieces),
		cmocka_unit_test(test_data_that_looks_like_a_boundary),
		cmocka_unit_test(test_empty_parts),
		cmocka_unit_test(test_odd_boundaries),
		cmocka_unit_test(test_names_and_file_names),
		cmocka_unit_test(test_broken_bodies_are_refused),
		cmocka_unit_test(test_an_error_of_the_receiver_ends_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
