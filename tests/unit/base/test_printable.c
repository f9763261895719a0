// SPDX-License-Identifier: Apache-2.0
#include "../check.h"
#include <string.h>
#include "base/printable.h"

static void check(const char *in, bool lines, const char *out)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	printable_add(&b, in, strlen(in), lines);
	assert_string_equal(b.data ? b.data : "", out);
	assert_true(str_is_utf8(b.data ? b.data : "", b.len));
}

static void test_text_stays(void **state)
{
	check("plain text", false, "plain text");
	check("h\xc3\xa9llo \xe2\x82\xac \xf0\x9f\x98\x80", false,
		"h\xc3\xa9llo \xe2\x82\xac \xf0\x9f\x98\x80");
	check("two\nlines\n", true, "two\nlines\n");
	check("two\nlines", false, "two?lines");
	check("crlf\r\n\ttab", true, "crlf\n tab");
}

static void test_escapes_do_nothing(void **state)
{
	check("\033[31mred\033[0m", false, "red");
	check("\033[2J\033[1;1Hx", false, "x");
	check("\033]0;title\ax", false, "x");
	check("\033]0;title\033\\x", false, "x");
	check("\033Pdcs\033\\x", false, "x");
	check("\033(Bx\033cy", false, "xy");
	check("\033]52;c;unended\nnext", true, "\nnext");
	check("\033[", false, "");
	check("\033", false, "");
	check("\033[31\033[0mx", false, "x");
	check("\xc2\x9b"
	      "2Jx",
		false, "?2Jx");
	check("a\b\a\177\001", false, "a????");
	check("\xe2\x80\xaertl\xe2\x81\xa6", false, "?rtl?");
}

static void test_other_bytes(void **state)
{
	check("\xff\xfe", false, "??");
	check("\xc3", false, "?");
	check("\xed\xa0\x80", false, "???");
	check("\xf0\x9f\x98", false, "???");
	_cleanup_strbuf_ struct strbuf b = {0};
	printable_add(&b, "a\0b", 3, false);
	assert_string_equal(b.data, "a?b");
}

static void test_copies_are_cut_at_characters(void **state)
{
	char out[5];
	printable_copy(out, sizeof out, "abc\xe2\x82\xac", 6);
	assert_string_equal(out, "abc");
	printable_copy(out, sizeof out,
		"a\xe2\x82\xac"
		"b",
		5);
	assert_string_equal(out, "a\xe2\x82\xac");
	printable_copy(out, sizeof out, "", 0);
	assert_string_equal(out, "");
	printable_copy(out, 1, "x", 1);
	assert_string_equal(out, "");
}

static void check_tail(const char *in, const char *out)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	printable_tail(&b, in, strlen(in));
	assert_string_equal(b.data ? b.data : "", out);
}

static void test_tails_are_the_last_lines(void **state)
{
	check_tail("", "");
	check_tail("\n \n\r\n", "");
	check_tail("one", "one\n");
	check_tail("one\r\n\r\n\ttwo\n\n", "one\n two\n");
	check_tail("\033[31mred\033[0m\n\033[2J\n", "red\n");
	_cleanup_strbuf_ struct strbuf many = {0}, last = {0}, got = {0};
	for (int i = 0; i < 500; i++) {
		strbuf_addf(&many, "line %d\n", i);
		if (i >= 500 - (int)PRINTABLE_TAIL_LINES)
			strbuf_addf(&last, "line %d\n", i);
	}
	check_tail(many.data, last.data);
	many.len = last.len = 0;
	for (int i = 0; i < 1500; i++) // a line of 4,500 bytes in 1,500 characters
		strbuf_adds(&many, "\xe2\x82\xac");
	strbuf_adds(&many, "\n");
	printable_tail(&got, many.data, many.len);
	assert_in_range(got.len, PRINTABLE_TAIL_BYTES - 4, PRINTABLE_TAIL_BYTES);
	assert_true(str_is_utf8(got.data, got.len));
	strbuf_adds(&many, "end\n");
	got.len = 0;
	printable_tail(&got, many.data, many.len);
	assert_string_equal(got.data, "end\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text_stays),
		cmocka_unit_test(test_escapes_do_nothing),
		cmocka_unit_test(test_other_bytes),
		cmocka_unit_test(test_copies_are_cut_at_characters),
		cmocka_unit_test(test_tails_are_the_last_lines),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
