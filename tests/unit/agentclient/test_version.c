// SPDX-License-Identifier: Apache-2.0
// What agents tell of themselves, the truth or not, and what is known of them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "agentclient/version.h"
#include "base/str.h"

#define BUILD "0123456789abcdef"

static void what_an_agent_tells_is_read(void **state)
{
	static const struct {
		const char *header;
		bool instance;
		const char *text, *build;
		unsigned revision;
		bool can_replace;
	} t[] = {
		{"0.1.0-3+" BUILD, true, "0.1.0-3+" BUILD, BUILD, 3, false},
		{"0.1.0-3+" BUILD " can=replace", true, "0.1.0-3+" BUILD, BUILD, 3, true},
		{"0.1.0-3+" BUILD " init=0.1.0-3 can=replace", true,
			"0.1.0-3+" BUILD " init=0.1.0-3", BUILD, 3, true},
		{"12.34.56-7+" BUILD " init=0.1.0-3 new=1 can=replace", true,
			"12.34.56-7+" BUILD " init=0.1.0-3", BUILD, 7, true},
		{"9999.9999.9999-9999+" BUILD, true, "9999.9999.9999-9999+" BUILD, BUILD, 9999,
			false},
		// Nothing is told.
		{NULL, true, "unknown-2", "", 2, false},
		{"", false, "unknown-1", "", 1, false},
		// Nor by what makes no sense.
		{"0.1.0-2+" BUILD, true, "unknown-2", "", 2, false},
		{"0.1.0-0+" BUILD, true, "unknown-2", "", 2, false},
		{"0.1.0-99999+" BUILD, true, "unknown-2", "", 2, false},
		{"99999.1.0-3+" BUILD, true, "unknown-2", "", 2, false},
		{"0.1-3+" BUILD, true, "unknown-2", "", 2, false},
		{"0.1.0-3", true, "unknown-2", "", 2, false},
		{"0.1.0-3+0123456789ABCDEF", true, "unknown-2", "", 2, false},
		{"0.1.0-3+" BUILD "0", true, "unknown-2", "", 2, false},
		{"0.1.0-3+" BUILD "\x1b[31m", true, "unknown-2", "", 2, false},
		{"0.1.0-3+" BUILD " init=\x1b[31m", true, "unknown-2", "", 2, false},
		{"0.1.0-3+" BUILD " init=0.1.0-3x", true, "unknown-2", "", 2, false},
		{"+0.1.0-3+" BUILD, false, "unknown-1", "", 1, false},
		{" 0.1.0-3+" BUILD, true, "unknown-2", "", 2, false},
		{"-1.1.0-3+" BUILD, true, "unknown-2", "", 2, false},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct agent_version v;
		memset(&v, 'x', sizeof v);
		agent_version_read(t[i].header, t[i].instance, &v);
		assert_string_equal(v.text, t[i].text);
		assert_string_equal(v.build, t[i].build);
		assert_int_equal(v.revision, t[i].revision);
		assert_int_equal(v.can_replace, t[i].can_replace);
		assert_int_equal(agent_version_revision(v.text), t[i].revision);
	}
}

static void older_ones_are_told(void **state)
{
	static const struct {
		const char *text, *than;
		bool older;
	} t[] = {
		{"0.1.0-3+" BUILD, "0.1.0-4+" BUILD, true},
		{"0.1.0-3+" BUILD, "0.1.0-3+ffffffffffffffff", false},
		{"0.1.0-4+" BUILD, "0.1.0-3+" BUILD, false},
		{"0.1.0-10+" BUILD, "0.1.0-9+" BUILD, false},
		{"0.9.0-3+" BUILD, "0.10.0-3+" BUILD, true},
		{"1.0.0-3+" BUILD, "0.10.0-9+" BUILD, false},
		{"9999.0.0-9999+" BUILD, "0.1.0-3+" BUILD, false},
		{"unknown-1", "0.1.0-3+" BUILD, true},
		{"", "0.1.0-3+" BUILD, true},
		{"0.1.0-3+" BUILD, "unknown-2", false},
	};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		assert_int_equal(agent_version_is_older(t[i].text, t[i].than), t[i].older);
}

static unsigned count(const char *text)
{
	unsigned n = 0;
	while (agent_weakness(text, n))
		assert_true(strlen(agent_weakness(text, n++)->text) > 10);
	return n;
}

static void weaknesses_go_by_revision(void **state)
{
	assert_int_equal(count("0.1.0-3+" BUILD), 0);
	assert_int_equal(count("9999.0.0-9999+" BUILD), 0);
	assert_true(count("unknown-1") > count("unknown-2"));
	assert_true(count("unknown-2") > 0);
	// Nobody has asked: what the edge does is for those of which it is known.
	assert_true(count("") > 0);
	assert_false(agent_is_owner_only(""));
	assert_false(agent_is_owner_only("rubbish"));
	assert_true(agent_is_owner_only("unknown-1"));
	assert_false(agent_is_owner_only("unknown-2"));
	assert_false(agent_is_owner_only("0.1.0-3+" BUILD));
	assert_string_equal(agent_version_shown("unknown-1"), "before 0.1.0-3");
	assert_string_equal(agent_version_shown("0.1.0-3+" BUILD), "0.1.0-3+" BUILD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_an_agent_tells_is_read),
		cmocka_unit_test(older_ones_are_told),
		cmocka_unit_test(weaknesses_go_by_revision),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
