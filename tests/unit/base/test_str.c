// SPDX-License-Identifier: Apache-2.0
#include <string.h>
#include "../check.h"
#include "base/str.h"

static void strbuf_grows_and_stays_terminated(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	for (int i = 0; i < 1000; i++)
		strbuf_addf(&b, "%d,", i);
	assert_int_equal(strbuf_check(&b), 0);
	assert_int_equal(b.len, 10 * 2 + 90 * 3 + 900 * 4);
	assert_int_equal(strlen(b.data), b.len);
	strbuf_consume(&b, b.len - 4);
	assert_string_equal(b.data, "999,");
	strbuf_consume(&b, 100);
	assert_int_equal(b.len, 0);
}

static void strbuf_keeps_zero_bytes(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	strbuf_add(&b, "a\0b", 3);
	strbuf_addc(&b, 'c');
	assert_int_equal(b.len, 4);
	assert_memory_equal(b.data, "a\0bc", 5);
}

static void steal_of_an_empty_buffer_is_an_empty_text(void **state)
{
	struct strbuf b = {0};
	_cleanup_free_ char *s = strbuf_steal(&b);
	assert_string_equal(s, "");
	assert_null(b.data);
}

static void a_sum_that_overflows_fails_the_buffer(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	strbuf_adds(&b, "x");
	strbuf_add(&b, "y", SIZE_MAX);
	assert_true(b.failed);
	assert_int_equal(strbuf_check(&b), -ENOMEM);
	assert_null(strbuf_steal(&b));
}

static void numbers_are_whole_and_bounded(void **state)
{
	uint64_t v = 7;
	assert_int_equal(str_to_u64("0", UINT64_MAX, &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(str_to_u64("18446744073709551615", UINT64_MAX, &v), 0);
	assert_true(v == UINT64_MAX);
	v = 7;
	assert_int_equal(str_to_u64("18446744073709551616", UINT64_MAX, &v), -ERANGE);
	assert_int_equal(str_to_u64("11", 10, &v), -ERANGE);
	static const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "0x10", "1e3", "abc"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(str_to_u64(bad[i], UINT64_MAX, &v), -EINVAL);
	assert_int_equal(str_to_u64(NULL, 1, &v), -EINVAL);
	assert_int_equal(v, 7);
}

static void format_refuses_to_cut(void **state)
{
	char out[4];
	assert_int_equal(str_format(out, sizeof out, "%s", "abc"), 0);
	assert_int_equal(str_format(out, sizeof out, "%s", "abcd"), -ENAMETOOLONG);
}

static void percent_decoding(void **state)
{
	char plain[] = "a%20b+c%2F%zz";
	assert_int_equal(str_percent_decode(plain, false), -EINVAL);
	char path[] = "a%20b+c%2f%C3%A9";
	assert_int_equal(str_percent_decode(path, false), 8);
	assert_string_equal(path, "a b+c/\xc3\xa9");
	char query[] = "a+b";
	assert_int_equal(str_percent_decode(query, true), 3);
	assert_string_equal(query, "a b");
	char zero[] = "a%00b";
	assert_int_equal(str_percent_decode(zero, false), 3);
	char cut[] = "a%2";
	assert_int_equal(str_percent_decode(cut, false), -EINVAL);
}

static void percent_encoding_comes_back(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char all[256];
	for (int i = 0; i < 255; i++)
		all[i] = (char)(i + 1);
	all[255] = '\0';
	str_percent_encode(&b, all);
	assert_null(strpbrk(b.data, "/?&=+# "));
	assert_int_equal(str_percent_decode(b.data, true), 255);
	assert_memory_equal(b.data, all, 256);
}

static void base64_round_trip_of_all_lengths(void **state)
{
	unsigned char in[100];
	for (size_t i = 0; i < sizeof in; i++)
		in[i] = (unsigned char)(i * 37 + 200);
	for (size_t n = 0; n <= sizeof in; n++) {
		_cleanup_strbuf_ struct strbuf text = {0}, back = {0};
		str_base64_encode(&text, in, n);
		assert_int_equal(text.len, (n + 2) / 3 * 4);
		assert_int_equal(str_base64_decode(&back, text.data, text.len), 0);
		assert_int_equal(back.len, n);
		assert_memory_equal(back.data, in, n);
	}
}

static void base64_of_the_standard(void **state)
{
	// RFC 4648, section 10
	static const char *const v[][2] = {{"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"},
		{"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}};
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		str_base64_encode(&b, v[i][0], strlen(v[i][0]));
		assert_string_equal(b.data, v[i][1]);
	}
}

static void base64_refuses_what_is_not(void **state)
{
	static const char *const bad[] = {"A", "AA=A", "A===", "AA*A", "AAAAA", "Zg=", "AA AA"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		assert_int_equal(str_base64_decode(&b, bad[i], strlen(bad[i])), -EINVAL);
		assert_int_equal(b.len, 0);
	}
	_cleanup_strbuf_ struct strbuf b = {0};
	assert_int_equal(str_base64_decode(&b, "Zg", 2), 0); // padding is optional
	assert_string_equal(b.data, "f");
}

static void utf8(void **state)
{
	static const char *const good[] = {"", "a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
	// overlong, surrogate, above U+10FFFF, cut short, lone continuation
	static const char *const bad[] = {"\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80",
		"\xf4\x90\x80\x80", "\xe2\x82", "\x80", "\xff"};
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(str_is_utf8(good[i], strlen(good[i])));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(str_is_utf8(bad[i], strlen(bad[i])));
}

static void secrets(void **state)
{
	assert_true(str_eq_secret("abc", "abc"));
	assert_false(str_eq_secret("abc", "abd"));
	assert_false(str_eq_secret("abc", "abcd"));
	assert_false(str_eq_secret("", "a"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(strbuf_grows_and_stays_terminated),
		cmocka_unit_test(strbuf_keeps_zero_bytes),
		cmocka_unit_test(steal_of_an_empty_buffer_is_an_empty_text),
		cmocka_unit_test(a_sum_that_overflows_fails_the_buffer),
		cmocka_unit_test(numbers_are_whole_and_bounded),
		cmocka_unit_test(format_refuses_to_cut),
		cmocka_unit_test(percent_decoding),
		cmocka_unit_test(percent_encoding_comes_back),
		cmocka_unit_test(base64_round_trip_of_all_lengths),
		cmocka_unit_test(base64_of_the_standard),
		cmocka_unit_test(base64_refuses_what_is_not),
		cmocka_unit_test(utf8),
		cmocka_unit_test(secrets),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
