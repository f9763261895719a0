// SPDX-License-Identifier: Apache-2.0
#include <string.h>
#include "../check.h"
#include "base/json.h"

static void fields_are_read_or_refused_by_name(void **state)
{
	const char *name = NULL;
	uint64_t n = 7;
	bool flag = false, present = false;
	int ppm = 0, any = 0;
	json_t *map = NULL;
	const struct json_field fields[] = {
		{.name = "name", .type = JF_STRING, .out = &name, .max = 5, .required = true},
		{.name = "n", .type = JF_U64, .out = &n, .min = 1, .max = 32, .present = &present},
		{.name = "flag", .type = JF_BOOL, .out = &flag},
		{.name = "map", .type = JF_STRING_MAP, .out = &map},
		{.name = "ppm", .type = JF_INT, .out = &ppm, .max = 100},
		{.name = "any", .type = JF_INT, .out = &any},
	};
	static const struct {
		const char *text, *want; // NULL: good
	} cases[] = {
		{"{\"name\":\"abc\",\"n\":32,\"flag\":true,\"map\":{\"a\":\"b\"}}", NULL},
		{"{\"name\":\"abc\",\"n\":null}", NULL},
		{"{}", "name: is missing"},
		{"{\"name\":5}", "name: must be a string"},
		{"{\"name\":\"123456\"}", "name: longer than 5 bytes"},
		{"{\"name\":\"a\",\"n\":0}", "n: must be an integer from 1 to 32"},
		{"{\"name\":\"a\",\"n\":33}", "n: must be an integer from 1 to 32"},
		{"{\"name\":\"a\",\"n\":-1}", "n: must be an integer from 1 to 32"},
		{"{\"name\":\"a\",\"n\":1.5}", "n: must be an integer from 1 to 32"},
		{"{\"name\":\"a\",\"flag\":1}", "flag: must be true or false"},
		{"{\"name\":\"a\",\"map\":{\"k\":1}}", "map: the value of 'k' must be a string"},
		{"{\"name\":\"a\",\"map\":[]}", "map: must be an object of strings"},
		{"{\"name\":\"a\",\"ppm\":-100,\"any\":-2147483647}", NULL},
		{"{\"name\":\"a\",\"ppm\":-101}", "ppm: must be an integer from -100 to 100"},
		{"{\"name\":\"a\",\"ppm\":\"1\"}", "ppm: must be an integer from -100 to 100"},
		{"{\"name\":\"a\",\"any\":2147483648}",
			"any: must be an integer from -2147483647 to 2147483647"},
		{"{\"name\":\"a\",\"oops\":1}", "unknown field 'oops'"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ json_t *j = NULL;
		struct err e = {0};
		assert_int_equal(
			json_parse_object(cases[i].text, strlen(cases[i].text), &j, &e), 0);
		int r = json_read_fields(j, fields, ARRAY_SIZE(fields), false, &e);
		if (!cases[i].want) {
			assert_int_equal(r, 0);
			continue;
		}
		assert_int_equal(r, -EINVAL);
		assert_string_equal(e.text, cases[i].want);
	}
	assert_int_equal(n, 32);
	assert_true(flag);
	assert_int_equal(ppm, -100);
	assert_int_equal(any, -INT32_MAX);
	assert_false(present);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(fields_are_read_or_refused_by_name)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
