// SPDX-License-Identifier: Apache-2.0
// What of src/net needs no privileges: networks, the configuration's limits, the texts for nft.
#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include "base/file.h"
#include "net/maker.h"

static void cidr_reads_what_it_writes(void **state)
{
	static const char *const texts[] = {
		"10.213.0.0/16", "0.0.0.0/0", "255.255.255.255/32", "192.0.2.4/31"};
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct cidr c;
		char out[CIDR_TEXT_SIZE];
		assert_int_equal(cidr_parse(texts[i], &c, NULL), 0);
		cidr_format(&c, out);
		assert_string_equal(out, texts[i]);
	}
	struct cidr c;
	assert_int_equal(cidr_parse("192.0.2.1", &c, NULL), 0);
	assert_int_equal(c.prefix, 32);
	assert_int_equal(c.addr, 0xc0000201);
}

static void cidr_refuses_what_is_none(void **state)
{
	static const char *const texts[] = {"", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8",
		"10.0.0.0/-1", "10.0.0.0/8/8", " 10.0.0.0/8", "10.0.0.0/8 ", "10.0.0.256/32",
		"::1/128", "10.0.0.0/99999999999999999999", "1000.1000.1000.1000.1000/8",
		"10.0.0.0/8; flush ruleset"};
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct cidr c;
		struct err e = {0};
		assert_true(cidr_parse(texts[i], &c, &e) < 0);
		assert_int_equal(e.code, ERR_INVALID);
	}
	struct cidr c;
	struct err e = {0};
	assert_true(cidr_parse("10.1.2.3/8", &c, &e) < 0);
	assert_non_null(strstr(e.text, "10.0.0.0/8"));
}

static bool overlap(const char *a, const char *b)
{
	struct cidr x, y;
	assert_int_equal(cidr_parse(a, &x, NULL), 0);
	assert_int_equal(cidr_parse(b, &y, NULL), 0);
	assert_int_equal(cidr_overlaps(&x, &y), cidr_overlaps(&y, &x));
	return cidr_overlaps(&x, &y);
}

static void cidr_overlap_is_containment(void **state)
{
	assert_true(overlap("10.0.0.0/8", "10.213.0.0/16"));
	assert_true(overlap("10.213.0.0/16", "10.213.255.255"));
	assert_true(overlap("0.0.0.0/0", "192.0.2.1"));
	assert_false(overlap("10.212.0.0/16", "10.213.0.0/16"));
	assert_false(overlap("192.0.2.0/31", "192.0.2.2/31"));
}

struct dir {
	char path[64];
};

static int make_dir(void **state)
{
	static struct dir d;
	snprintf(d.path, sizeof d.path, "/tmp/stasis-net-unit.XXXXXX");
	*state = &d;
	return mkdtemp(d.path) ? 0 : -1;
}

static int remove_dir(void **state)
{
	return file_rm_rf(AT_FDCWD, ((struct dir *)*state)->path);
}

static int init(void **state, const char *range, unsigned max, unsigned warm, struct err *e)
{
	struct dir *d = *state;
	struct maker m;
	struct slot_pool_config cfg = {
		.run_dir = d->path, .range = range, .max = max, .warm = warm, .uid_base = 1};
	int rc = maker_init(&m, &cfg, e);
	if (rc == 0)
		maker_done(&m);
	return rc;
}

static void configuration_is_checked(void **state)
{
	struct err e = {0};
	assert_int_equal(init(state, "10.213.0.0/16", 32768, 0, &e), 0);
	assert_int_equal(init(state, "10.213.0.0/24", 128, 128, &e), 0);
	assert_true(init(state, "10.213.0.0/24", 129, 0, &e) < 0);
	assert_non_null(strstr(e.text, "has room for 128"));
	assert_true(init(state, "10.213.0.0/24", 4, 5, &e) < 0);
	assert_true(init(state, "10.213.0.0/24", 0, 0, &e) < 0);
	assert_true(init(state, "10.0.0.0/8", 32769, 0, &e) < 0);
	assert_true(init(state, "10.0.0.0/7", 1, 0, &e) < 0);
	assert_true(init(state, "10.0.0.0/32", 1, 0, &e) < 0);
	assert_true(init(state, "169.254.0.0/16", 1, 0, &e) < 0); // the guest's own link
	assert_true(init(state, "ten", 1, 0, &e) < 0);
	assert_non_null(strstr(e.text, "--slot-range"));
}

static void slots_have_names_and_addresses_of_their_own(void **state)
{
	struct dir *d = *state;
	struct maker m, same, other;
	struct slot a, b;
	char path[80];
	struct slot_pool_config cfg = {
		.run_dir = d->path, .range = "10.213.0.0/16", .max = 32768, .uid_base = 1};
	assert_int_equal(maker_init(&m, &cfg, NULL), 0);
	maker_describe(&m, 0, &a);
	maker_describe(&m, 32767, &b);
	assert_string_equal(a.address, "10.213.0.1");
	assert_string_equal(b.address, "10.213.255.255");
	assert_true(strlen(b.host_if) <= 15 && strncmp(b.host_if, m.prefix, 9) == 0);
	// One directory is one pool, by whatever path.
	snprintf(path, sizeof path, "%s/../%s/.", d->path, strrchr(d->path, '/') + 1);
	assert_int_equal(maker_init_names(&same, path, NULL), 0);
	assert_string_equal(same.prefix, m.prefix);
	assert_int_equal(maker_init_names(&other, "/tmp", NULL), 0);
	assert_string_not_equal(other.prefix, m.prefix);
	assert_int_equal(maker_init_names(&other, "/nonexistent", NULL), -ENOENT);
	maker_done(&m);
}

static void texts_name_every_network(void **state)
{
	struct cidr allow[2];
	struct policy p = {.allow = allow, .n_allow = 2};
	_cleanup_strbuf_ struct strbuf slot = {0}, host = {0};
	assert_int_equal(cidr_parse("10.213.0.0/16", &p.range, NULL), 0);
	assert_int_equal(cidr_parse("10.5.0.0/24", &allow[0], NULL), 0);
	assert_int_equal(cidr_parse("192.168.3.4", &allow[1], NULL), 0);
	policy_slot_text(&slot, &p, 0x0ad50000, 0x0ad50001);
	policy_host_text(&host, &p, "stasis_abcdef", "stabcdef-");
	assert_int_equal(strbuf_check(&slot), 0);
	assert_int_equal(strbuf_check(&host), 0);
	for (size_t i = 0; policy_denied[i]; i++) {
		struct cidr c;
		assert_int_equal(cidr_parse(policy_denied[i], &c, NULL), 0);
		assert_non_null(strstr(slot.data, policy_denied[i]));
		assert_non_null(strstr(host.data, policy_denied[i]));
	}
	assert_non_null(strstr(slot.data, "elements = { 10.5.0.0/24, 192.168.3.4/32 }"));
	assert_non_null(strstr(slot.data, "ip saddr 10.213.0.0 ip daddr 10.213.0.1 dnat"));
	assert_non_null(strstr(host.data, "iifname \"stabcdef-*\""));
}

static void resolvers_that_are_none_are_named(void **state)
{
	static const struct {
		const char *list, *names;
	} bad[] = {{"", "needs an address"}, {" , ", "needs an address"},
		{"localhost", "localhost"}, {"10.0.0.1,1.2.3", "'1.2.3'"},
		{"1.2.3.4.5", "1.2.3.4.5"}, {"10.0.0.1:53", ":53"}, {"2001:db8::1", "no IPv6"},
		{"::", "no IPv6"}, {"0.0.0.0", "0.0.0.0"}, {"127.0.0.53", "127.0.0.53"},
		{"224.0.0.251", "multicast"}, {"255.255.255.255", "255.255"},
		{"169.254.0.22", "own link"}, {"10.0.0.1,10.0.0.2,10.0.0.1", "twice"},
		{"10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4", "at most 3"}, {"10.0.0.1/32", "/32"},
		{"10.0.0.1;flush", "flush"}, {"010.0.0.1", "010.0.0.1"},
		{"1111111111111111111111111111111111111111111111111111111111", "1111"}};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct resolvers r;
		struct err e = {0};
		assert_int_equal(resolvers_parse(bad[i].list, &r, &e), -EINVAL);
		if (!strstr(e.text, bad[i].names) || e.code != ERR_INVALID)
			fail_msg("'%s': %s", bad[i].list, e.text);
	}
	struct resolvers r;
	char text[RESOLVERS_TEXT_SIZE];
	assert_int_equal(
		resolvers_parse(" 10.0.0.53, 255.1.1.1	169.254.169.253 ", &r, NULL), -EINVAL);
	assert_int_equal(
		resolvers_parse(" 10.0.0.53, 192.168.1.1	169.254.169.253 ", &r, NULL), 0);
	resolvers_format(&r, text);
	assert_string_equal(text, "10.0.0.53,192.168.1.1,169.254.169.253");
	assert_int_equal(
		resolvers_parse("100.100.100.101,200.200.200.201,169.254.169.254", &r, NULL), 0);
	resolvers_format(&r, text);
	assert_int_equal(strlen(text), RESOLVERS_TEXT_SIZE - 1);
}

static void resolvers_are_those_of_the_host(void **state)
{
	const struct dir *d = *state;
	static const struct {
		const char *main, *upstream, *want;
	} cases[] = {
		{"nameserver 192.168.1.1\nsearch office.example\noptions ndots:2\n", NULL,
			"192.168.1.1"},
		{"# nameserver 1.2.3.4\n;nameserver 1.2.3.4\n nameserver 1.2.3.4\n"
		 "nameserver\t9.9.9.9 # quad\nnameserver 9.9.9.9",
			NULL, "9.9.9.9"},
		{"nameserver 127.0.0.53\noptions edns0 trust-ad\n",
			"nameserver 10.1.0.2\nnameserver fe80::1%eth0\nnameserver 10.1.0.3\n",
			"10.1.0.2,10.1.0.3"},
		{"nameserver 127.0.0.1\nnameserver 10.9.9.9\n", "nameserver 10.1.0.2\n",
			"10.9.9.9"},
		{"nameserver 127.0.0.53\n", "nameserver 127.0.0.1\n", NULL},
		{"nameserver ::1\nnameserver 2001:db8::1\n", NULL, NULL},
		{"nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n",
			NULL, "1.1.1.1,1.1.1.2,1.1.1.3"},
		{"nameserver 0.0.0.0\nnameserver 169.254.169.254\n", NULL, "169.254.169.254"},
		{"", NULL, NULL},
		{NULL, NULL, NULL},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char main[96], upstream[96], text[RESOLVERS_TEXT_SIZE], from[RESOLVERS_FROM_SIZE];
		struct resolvers r;
		snprintf(main, sizeof main, "%s/resolv%zu", d->path, i);
		snprintf(upstream, sizeof upstream, "%s/upstream%zu", d->path, i);
		if (cases[i].main)
			assert_int_equal(file_write_atomic(AT_FDCWD, main, cases[i].main,
						 strlen(cases[i].main), 0600),
				0);
		if (cases[i].upstream)
			assert_int_equal(file_write_atomic(AT_FDCWD, upstream, cases[i].upstream,
						 strlen(cases[i].upstream), 0600),
				0);
		const char *const files[] = {"/nonexistent", upstream, NULL};
		assert_int_equal(resolvers_of_files(main, files, &r, from), cases[i].want != NULL);
		resolvers_format(&r, text);
		assert_string_equal(text, cases[i].want ? cases[i].want : "1.1.1.1,8.8.8.8");
	}
}

static void resolvers_behind_the_wall_get_a_rule_each(void **state)
{
	struct resolvers r, wall;
	_cleanup_strbuf_ struct strbuf slot = {0}, host = {0};
	assert_int_equal(resolvers_parse("1.1.1.1,10.0.0.53,169.254.169.254", &r, NULL), 0);
	policy_behind_wall(&r, &wall);
	assert_int_equal(wall.n, 2);
	policy_slot_resolvers_text(&slot, &wall);
	assert_string_equal(slot.data, "flush set inet stasis resolvers\n"
				       "add element inet stasis resolvers { 10.0.0.53 }\n"
				       "add element inet stasis resolvers { 169.254.169.254 }\n");
	struct resolvers old = {{0x0a000035}, 1};
	policy_host_resolvers_text(
		&host, "stasis_abcdef", "stabcdef-1", &old, &(struct resolvers){0});
	assert_string_equal(host.data,
		"add element inet stasis_abcdef resolvers { \"stabcdef-1\" . 10.0.0.53 }\n"
		"delete element inet stasis_abcdef resolvers { \"stabcdef-1\" . 10.0.0.53 }\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cidr_reads_what_it_writes),
		cmocka_unit_test(cidr_refuses_what_is_none),
		cmocka_unit_test(cidr_overlap_is_containment),
		cmocka_unit_test_setup_teardown(configuration_is_checked, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(
			slots_have_names_and_addresses_of_their_own, make_dir, remove_dir),
		cmocka_unit_test(texts_name_every_network),
		cmocka_unit_test(resolvers_that_are_none_are_named),
		cmocka_unit_test_setup_teardown(
			resolvers_are_those_of_the_host, make_dir, remove_dir),
		cmocka_unit_test(resolvers_behind_the_wall_get_a_rule_each),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
