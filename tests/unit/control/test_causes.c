// SPDX-License-Identifier: Apache-2.0
// Every way in which a sandbox ends, and every code with which an operation fails, has its words.
#include "../check.h"
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/str.h"
#include "control/api/causes.h"

static void check_sentence(const char *what, const char *s)
{
	assert_non_null(s);
	size_t len = strlen(s);
	if (len < 4 || len > 400 || (s[len - 1] != '.' && s[len - 1] != '\'') || s[0] < 'A' ||
		s[0] > 'Z')
		fail_msg("%s: '%s'", what, s);
}

static void test_every_end_has_its_words(void **state)
{
	static const char *const by[] = {"api", "timeout", "guest", "host", "server"};
	for (int i = 0; i < END_CAUSE_MAX; i++) {
		const char *name = end_cause_name((enum end_cause)i);
		assert_true(name && *name);
		assert_int_equal(end_cause_parse(name), i);
		const struct cause_text *t = causes_of_end(name);
		assert_non_null(t);
		check_sentence(name, t->what);
		check_sentence(name, t->advice);
		bool known = false;
		for (size_t k = 0; k < ARRAY_SIZE(by); k++)
			known |= str_eq(by[k], t->by);
		if (!known)
			fail_msg("%s is by %s", name, t->by);
		for (int k = 0; k < i; k++)
			assert_string_not_equal(name, end_cause_name((enum end_cause)k));
	}
	assert_null(causes_of_end("of a newer host"));
	assert_null(causes_of_end(""));
	assert_int_equal(end_cause_parse("x"), END_CAUSE_MAX);
	assert_string_equal(end_cause_name(END_CAUSE_MAX), "unknown");
}

static void test_every_failure_has_an_advice(void **state)
{
	for (int i = 0; i < ERR_CODE_MAX; i++)
		check_sentence(err_info((enum err_code)i)->name, causes_advice((enum err_code)i));
	check_sentence("beyond", causes_advice(ERR_CODE_MAX));
	check_sentence("guest", causes_oom_advice(false));
	check_sentence("cgroup", causes_oom_advice(true));
}

// Whoever reads a cause in a list finds it in the documents.
static void test_documents_have_them(void **state)
{
	static const char *const documents[] = {"docs/operations.md", "docs/api.md"};
	for (size_t d = 0; d < ARRAY_SIZE(documents); d++) {
		_cleanup_strbuf_ struct strbuf text = {0};
		_cleanup_free_ char *path = str_printf("%s/%s", ROOT, documents[d]);
		assert_int_equal(file_read(AT_FDCWD, path, 4u << 20, &text), 0);
		for (int i = 0; i < END_CAUSE_MAX; i++)
			if (!strstr(text.data, end_cause_name((enum end_cause)i)))
				fail_msg("%s does not have %s", documents[d],
					end_cause_name((enum end_cause)i));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_end_has_its_words),
		cmocka_unit_test(test_every_failure_has_an_advice),
		cmocka_unit_test(test_documents_have_them),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
