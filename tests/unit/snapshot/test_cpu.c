// SPDX-License-Identifier: Apache-2.0
// What a guest would miss on another processor.
#include "../check.h"
#include <string.h>
#include "snapshot/cpu.h"

#define NONE "00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000"
#define AVX512 "00000000 00000000 f0230000 00000000 00000000 00000000 00000000 00000000 00000000"

static void names_of_what_is_missing(void **state)
{
	static const struct {
		const char *wanted, *here, *told; // told NULL: nothing
	} cases[] = {
		{NONE, NONE, NULL},
		{NONE, AVX512, NULL},
		{AVX512, AVX512, NULL},
		{AVX512, NONE, "avx512f, avx512dq, avx512ifma, avx512cd and 3 more"},
		// avx
		{"10000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
			NONE, "avx"},

		{"00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000200",
			NONE, "XCR0 bit 9"},
		// vmx, osxsave, hypervisor; ht; sgx; ospke; svm: none of them is the guest's.
		{"88000020 10000000 00000004 00000010 00000000 00000000 00000004 00000000 00000000",
			NONE, NULL},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char out[200] = "?";
		bool lacks = cpu_lacks(cases[i].wanted, cases[i].here, out, sizeof out);
		assert_int_equal(lacks, cases[i].told != NULL);
		assert_string_equal(out, cases[i].told ? cases[i].told : "");
	}
}

// A list that lies is not taken for an empty one.
static void what_is_no_list(void **state)
{
	static const char *const bad[] = {"", "0", "00000000", NONE " 00000000", NONE " ",
		"0000000g 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
		"-0000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
		"00000000  0000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char out[200];
		assert_true(cpu_lacks(bad[i], NONE, out, sizeof out));
		assert_non_null(strstr(out, "can be read"));
	}
}

static void this_processor_lacks_nothing(void **state)
{
	struct cpu_info c;
	char out[200];
	cpu_describe(&c);
	if (!c.vendor[0])
		skip();
	assert_false(cpu_lacks(c.features, c.features, out, sizeof out));
	assert_true(cpu_lacks(c.features, NONE, out, sizeof out));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_of_what_is_missing),
		cmocka_unit_test(what_is_no_list),
		cmocka_unit_test(this_processor_lacks_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
