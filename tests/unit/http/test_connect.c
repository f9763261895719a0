// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>
#include "base/json.h"
#include "http/connect.h"

static void test_envelopes_survive_any_split(void **state)
{
	_cleanup_strbuf_ struct strbuf wire = {0}, in = {0}, payload = {0};
	connect_envelope_add(&wire, 0, "hello", 5);
	connect_envelope_add(&wire, 0, "", 0);
	connect_envelope_add_end(&wire, NULL);
	static const char *const want[] = {"hello", "", "{}"};
	unsigned flags, n = 0;
	for (size_t i = 0; i < wire.len; i++) {
		strbuf_add(&in, wire.data + i, 1);
		int r;
		while ((r = connect_envelope_next(&in, &flags, &payload)) == 1) {
			assert_true(n < 3);
			assert_int_equal(payload.len, strlen(want[n]));
			assert_memory_equal(payload.data ? payload.data : "", want[n], payload.len);
			assert_int_equal(flags, n == 2 ? CONNECT_FLAG_END : 0);
			n++;
		}
		assert_int_equal(r, 0);
	}
	assert_int_equal(n, 3);
	assert_int_equal(in.len, 0);
}

static void test_broken_envelopes(void **state)
{
	_cleanup_strbuf_ struct strbuf payload = {0};
	unsigned flags;
	_cleanup_strbuf_ struct strbuf compressed = {0};
	strbuf_add(&compressed, "\x01\0\0\0\1x", 6);
	assert_int_equal(connect_envelope_next(&compressed, &flags, &payload), -EBADMSG);
	_cleanup_strbuf_ struct strbuf big = {0};
	strbuf_add(&big, "\0\xff\xff\xff\xff", 5);
	assert_int_equal(connect_envelope_next(&big, &flags, &payload), -EMSGSIZE);
}

static void test_errors_round_trip(void **state)
{
	static const enum err_code same[] = {ERR_INVALID, ERR_NOT_FOUND, ERR_CONFLICT, ERR_LIMIT,
		ERR_TIMEOUT, ERR_UNAVAILABLE, ERR_INTERNAL, ERR_UNAUTHENTICATED};
	for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
		struct err out = {0}, in = {0};
		err_set(&out, same[i], "the reason \"%zu\"", i);
		_cleanup_strbuf_ struct strbuf wire = {0}, payload = {0};
		connect_envelope_add_end(&wire, &out);
		unsigned flags;
		assert_int_equal(connect_envelope_next(&wire, &flags, &payload), 1);
		assert_true(connect_parse_error(payload.data, payload.len, 200, &in) < 0);
		assert_int_equal(in.code, same[i]);
		assert_string_equal(in.text, out.text);

		_cleanup_json_ json_t *unary = connect_error_json(&out);
		_cleanup_free_ char *text = json_compact(unary);
		struct err in2 = {0};
		assert_true(connect_parse_error(text, strlen(text), 404, &in2) < 0);
		assert_int_equal(in2.code, same[i]);
	}
	struct err e = {0};
	assert_int_equal(connect_parse_error("{}", 2, 200, &e), 0);
	assert_true(connect_parse_error("<html>", 6, 502, &e) < 0);
	assert_int_equal(e.code, ERR_BAD_GATEWAY);
	struct err f = {0};
	assert_true(connect_parse_error("junk", 4, 0, &f) < 0);
	assert_int_equal(f.code, ERR_INTERNAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_envelopes_survive_any_split),
		cmocka_unit_test(test_broken_envelopes),
		cmocka_unit_test(test_errors_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
