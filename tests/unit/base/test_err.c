// SPDX-License-Identifier: Apache-2.0
#include <string.h>
#include "../check.h"
#include "base/err.h"

static void every_code_has_a_row_and_a_unique_name(void **state)
{
	for (int i = ERR_INVALID; i < ERR_CODE_MAX; i++) {
		const struct err_info *info = err_info((enum err_code)i);
		assert_non_null(info->name);
		assert_in_range(info->http_status, 400, 599);
		assert_in_range(info->exit_code, 1, 255);
		assert_non_null(info->connect);
		assert_int_equal(err_code_from_name(info->name), i);
	}
	assert_ptr_equal(err_info((enum err_code)99), err_info(ERR_INTERNAL));
	assert_int_equal(err_code_from_name("nonsense"), ERR_INTERNAL);
	assert_int_equal(err_code_from_name(NULL), ERR_INTERNAL);
}

static void every_reason_has_a_name_and_an_exit_code(void **state)
{
	for (int i = ERR_REASON_NONE + 1; i < ERR_REASON_MAX; i++) {
		struct err e = {0};
		err_set(&e, ERR_INVALID, "text");
		assert_int_equal(err_exit_code(&e), err_info(ERR_INVALID)->exit_code);
		e.reason = (enum err_reason)i;
		assert_in_range(err_exit_code(&e), 126, 127);
		assert_int_equal(err_reason_from_name(err_reason_name(e.reason)), i);
		err_set(&e, ERR_CONFLICT, "another error"); // keeps nothing of the one before
		assert_int_equal(e.reason, ERR_REASON_NONE);
	}
	assert_null(err_reason_name(ERR_REASON_NONE));
	assert_null(err_reason_name((enum err_reason)99));
	assert_int_equal(err_reason_from_name("nonsense"), ERR_REASON_NONE);
	assert_int_equal(err_reason_from_name(NULL), ERR_REASON_NONE);
}

static void every_code_gives_a_negative_errno(void **state)
{
	for (int i = ERR_INVALID; i < ERR_CODE_MAX; i++) {
		struct err e = {0};
		assert_true(err_set(&e, (enum err_code)i, "text %d", i) < 0);
		assert_int_equal(e.code, i);
		assert_true(err_set(NULL, (enum err_code)i, "text") < 0);
	}
}

static void errno_of_either_sign(void **state)
{
	struct err e = {0};
	assert_int_equal(err_errno(&e, ENOSPC, "write %s", "x"), -ENOSPC);
	assert_int_equal(e.code, ERR_NO_SPACE);
	assert_string_equal(e.text, "write x: No space left on device");
	assert_int_equal(err_errno(&e, -ENOENT, "open"), -ENOENT);
	assert_int_equal(e.code, ERR_NOT_FOUND);
	assert_int_equal(err_errno(&e, 0, "odd"), -EIO); // never 0: that would be success
}

static void context_is_put_before(void **state)
{
	struct err e = {0};
	int rc = err_set(&e, ERR_CONFLICT, "taken");
	assert_int_equal(err_prefix(&e, rc, "slot %d", 3), rc);
	assert_int_equal(err_prefix(&e, rc, "create"), rc);
	assert_string_equal(e.text, "create: slot 3: taken");
	assert_int_equal(e.code, ERR_CONFLICT);
}

static void context_on_a_bare_errno(void **state)
{
	struct err e = {0};
	assert_int_equal(err_prefix(&e, -EACCES, "open"), -EACCES);
	assert_string_equal(e.text, "open: Permission denied");
	assert_int_equal(e.code, ERR_FORBIDDEN);
}

static void long_texts_are_cut_and_terminated(void **state)
{
	struct err e = {0};
	char text[3000];
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	err_set(&e, ERR_INVALID, "%s", text);
	assert_int_equal(strlen(e.text), sizeof e.text - 1);
	err_prefix(&e, -EINVAL, "%s", text);
	assert_int_equal(strlen(e.text), sizeof e.text - 1);
}

static void text_without_an_error(void **state)
{
	struct err e = {0};
	assert_string_equal(err_text(&e, -ENOENT), strerror(ENOENT));
	assert_string_equal(err_text(NULL, ENOENT), strerror(ENOENT));
	assert_false(err_is_set(&e));
	assert_false(err_is_set(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_code_has_a_row_and_a_unique_name),
		cmocka_unit_test(every_reason_has_a_name_and_an_exit_code),
		cmocka_unit_test(every_code_gives_a_negative_errno),
		cmocka_unit_test(errno_of_either_sign),
		cmocka_unit_test(context_is_put_before),
		cmocka_unit_test(context_on_a_bare_errno),
		cmocka_unit_test(long_texts_are_cut_and_terminated),
		cmocka_unit_test(text_without_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
