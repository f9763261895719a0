// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <string.h>
#include "../check.h"
#include "guestinit/cmdline.h"

static void test_command_line_has_defaults(void **state)
{
	struct cmdline c;
	char bad[64];
	assert_int_equal(cmdline_parse("console=ttyS0 quiet\n", &c, bad, sizeof bad), 0);
	assert_string_equal(c.root, "/dev/vda");
	assert_string_equal(c.rootfstype, "ext4");
	assert_false(c.ro);
	assert_int_equal(c.ip, inet_addr("169.254.0.21"));
	assert_int_equal(c.gateway, inet_addr("169.254.0.22"));
	assert_int_equal(c.prefix, 30);
	assert_int_equal(c.n_dns, 2);
}

static void test_command_line_is_obeyed(void **state)
{
	struct cmdline c;
	char bad[64];
	assert_int_equal(cmdline_parse("root=/dev/vdb ro stasis.ip=10.0.0.2/24 stasis.gw=10.0.0.1 "
				       "rootfstype=xfs stasis.dns=9.9.9.9 root=/dev/vdc",
				 &c, bad, sizeof bad),
		0);
	assert_string_equal(c.root, "/dev/vdc");
	assert_string_equal(c.rootfstype, "xfs");
	assert_true(c.ro);
	assert_int_equal(c.ip, inet_addr("10.0.0.2"));
	assert_int_equal(c.prefix, 24);
	assert_int_equal(c.n_dns, 1);
	assert_int_equal(c.dns[0], inet_addr("9.9.9.9"));
	assert_int_equal(cmdline_parse("ro rw", &c, bad, sizeof bad), 0);
	assert_false(c.ro);
}

static void test_bad_command_line_is_named(void **state)
{
	static const char *const t[] = {"stasis.ip=1.2.3", "stasis.ip=1.2.3.4/33", "stasis.gw=x",
		"stasis.dns=1.1.1.1,", "stasis.dns=1.1.1.1,2.2.2.2,3.3.3.3,4.4.4.4,5.5.5.5",
		"rootfstype=a-name-that-is-far-too-long-for-it"};
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct cmdline c;
		char bad[64], line[200];
		snprintf(line, sizeof line, "quiet %s ro", t[i]);
		assert_int_equal(cmdline_parse(line, &c, bad, sizeof bad), -EINVAL);
		assert_memory_equal(bad, t[i], strlen(bad));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_command_line_has_defaults),
		cmocka_unit_test(test_command_line_is_obeyed),
		cmocka_unit_test(test_bad_command_line_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
