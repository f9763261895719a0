// SPDX-License-Identifier: Apache-2.0
#include <string.h>
#include "../check.h"
#include "base/id.h"

static void sandbox_ids(void **state)
{
	char a[SANDBOX_ID_SIZE], b[SANDBOX_ID_SIZE];
	bool seen[128] = {0};
	unsigned kinds = 0;
	for (int i = 0; i < 500; i++) {
		id_new_sandbox(a);
		id_new_sandbox(b);
		assert_int_equal(strlen(a), SANDBOX_ID_LEN);
		assert_int_equal(a[0], 'i');
		assert_true(id_is_sandbox(a));
		assert_string_not_equal(a, b);
		for (const char *p = a; *p; p++) {
			kinds += !seen[(unsigned char)*p];
			seen[(unsigned char)*p] = true;
		}
	}
	assert_int_equal(kinds, 36); // all letters and digits turn up in 10,000 draws
}

static void what_is_no_sandbox_id(void **state)
{
	static const char *const bad[] = {"", "A", "a-b", "a/b", "..", "a b", "a\n", "\xc3\xa9",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(id_is_sandbox(bad[i]));
	assert_true(id_is_sandbox("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
}

static void uuids(void **state)
{
	char a[UUID_SIZE], b[UUID_SIZE];
	id_new_uuid(a);
	id_new_uuid(b);
	assert_true(id_is_uuid(a));
	assert_string_not_equal(a, b);
	assert_int_equal(a[14], '4');
	assert_non_null(strchr("89ab", a[19]));
	assert_false(id_is_uuid("00000000-0000-4000-8000-00000000000"));
	assert_false(id_is_uuid("00000000-0000-4000-8000-00000000000g"));
	assert_false(id_is_uuid("00000000_0000-4000-8000-000000000000"));
}

static void names(void **state)
{
	static const char *const good[] = {"a", "base", "0.1_x-y", "debian-12"};
	static const char *const bad[] = {"", ".a", "-a", "_a", "A", "a/b", "a b", "..",
		"a23456789012345678901234567890123456789012345678901234567890abcd"};
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(id_is_name(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(id_is_name(bad[i]));
}

static void hex(void **state)
{
	char out[9];
	id_hex("\x00\xff\x1a\x80", 4, out);
	assert_string_equal(out, "00ff1a80");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sandbox_ids),
		cmocka_unit_test(what_is_no_sandbox_id),
		cmocka_unit_test(uuids),
		cmocka_unit_test(names),
		cmocka_unit_test(hex),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
