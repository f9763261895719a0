// SPDX-License-Identifier: Apache-2.0
// Records of the guest kernel's log, of which guests write parts.
#include "../check.h"
#include <string.h>
#include "base/oomlog.h"
#include "base/str.h"

#define REST                                                                                       \
	"total-vm:461012kB, anon-rss:440320kB, file-rss:12kB, shmem-rss:4kB, UID:1000 "            \
	"pgtables:912kB oom_score_adj:100"

static bool parse(const char *record, struct oom_summary *s, struct oom_kill *k)
{
	struct oom_summary none = {0};
	*k = (struct oom_kill){0};
	return oom_parse(record, strlen(record), s ? s : &none, k);
}

static void test_a_kill_is_read(void **state)
{
	struct oom_kill k;
	assert_true(parse("3,812,5210941,-;Out of memory: Killed process 417 (python3) " REST
			  "\n SUBSYSTEM=x\n",
		NULL, &k));
	assert_int_equal(k.pid, 417);
	assert_int_equal(k.seq, 812);
	assert_int_equal(k.uid, 1000);
	assert_string_equal(k.comm, "python3");
	assert_int_equal(k.rss_bytes, (440320ull + 12 + 4) << 10);
	assert_false(k.in_cgroup);
	assert_string_equal(k.cgroup, "");
	assert_true(parse(
		"3,1,1,-;Out of memory (oom_kill_allocating_task): Killed process 2 (a) " REST "\n",
		NULL, &k));
	// Kernels of another age say less.
	assert_true(
		parse("3,1,1,-;Out of memory: Killed process 2 (a) total-vm:8kB, anon-rss:4kB\n",
			NULL, &k));
	assert_int_equal(k.rss_bytes, 4096);
	assert_int_equal(k.uid, 0);
}

static void test_a_cgroup_is_named_by_the_record_before(void **state)
{
	struct oom_kill k;
	struct oom_summary s = {0};
	assert_false(parse("6,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,"
			   "mems_allowed=0,oom_memcg=/docker/a,b,task_memcg=/docker/a,b/c,"
			   "task=x,pid=1,uid=,pid=9,uid=0\n",
		&s, &k));
	assert_true(parse(
		"3,2,1,-;Memory cgroup out of memory: Killed process 9 (x) " REST "\n", &s, &k));
	assert_true(k.in_cgroup);
	assert_string_equal(k.cgroup, "/docker/a,b");
	// It is about that process alone, and once.
	assert_true(parse(
		"3,2,1,-;Memory cgroup out of memory: Killed process 9 (x) " REST "\n", &s, &k));
	assert_string_equal(k.cgroup, "");
	parse("6,1,1,-;oom-kill:oom_memcg=/a,task_memcg=/a,task=x,pid=8,uid=0\n", &s, &k);
	assert_true(parse(
		"3,2,1,-;Memory cgroup out of memory: Killed process 9 (x) " REST "\n", &s, &k));
	assert_string_equal(k.cgroup, "");
	// Of the whole guest there is no cgroup to name.
	parse("6,1,1,-;oom-kill:constraint=CONSTRAINT_NONE,global_oom,task_memcg=/user,task=x,"
	      "pid=9,uid=0\n",
		&s, &k);
	assert_true(parse("3,2,1,-;Out of memory: Killed process 9 (x) " REST "\n", &s, &k));
	assert_string_equal(k.cgroup, "");
}

// What a program writes into the kernel's log has another facility: 1, or what it asks for.
static void test_programs_cannot_tell_of_kills(void **state)
{
	static const char *const by[] = {"8", "11", "12", "15", "24", "191", "4294967299", "-5"};
	struct oom_kill k;
	for (size_t i = 0; i < ARRAY_SIZE(by); i++) {
		_cleanup_free_ char *text = str_printf(
			"%s,2,1,-;Out of memory: Killed process 9 (x) " REST "\n", by[i]);
		assert_false(parse(text, NULL, &k));
	}
}

// A process is called what it likes, in 15 bytes; the kernel escapes what is not printable.
static void test_names_cannot_lie(void **state)
{
	static const struct {
		const char *name, *comm;
	} names[] = {
		{") total-vm:1kB,", ") total-vm:1kB,"},
		{"a) (b", "a) (b"},
		{"Killed process ", "Killed process "},
		{"\\x1b[2Jx", "x"},
		{"\\x0aOut of m", "?Out of m"},
		{"\\xff\\xfe", "??"},
		{"\\xc3\\xa9", "\xc3\xa9"},
		{"\\xc2\\x9b2J", "?2J"},
		{"\\x5cx41", "\\x41"},
		{"\\x", "\\x"},
		{"\\xe2\\x80\\xaeabc", "?abc"},
		{"", ""},
	};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct oom_kill k;
		_cleanup_free_ char *text = str_printf(
			"3,2,1,-;Out of memory: Killed process 9 (%s) " REST "\n", names[i].name);
		assert_true(parse(text, NULL, &k));
		assert_string_equal(k.comm, names[i].comm);
		assert_int_equal(k.pid, 9);
		assert_int_equal(k.rss_bytes, (440320ull + 12 + 4) << 10);
	}
}

static void test_what_is_no_kill(void **state)
{
	static const char *const no[] = {"", ";", "3", "3,", "3;x", ",2,1,-;Out of memory: x",
		"3,2,1,-;", "3,2,1,-;Out of memory: Killed process",
		"3,2,1,-;Out of memory: Killed process 9",
		"3,2,1,-;Out of memory: Killed process 9 (",
		"3,2,1,-;Out of memory: Killed process 0 (x) " REST,
		"3,2,1,-;Out of memory: Killed process 99999999999999999999 (x) " REST,
		"3,2,1,-;Out of memory: Killed process -9 (x) " REST,
		"3,2,1,-;Out of memory: Killed process 9 (x) total-vm:1kB, anon-rss:-1kB",
		"3,2,1,-;Out of memory: Killed process 9 (x) total-vm:1kB, "
		"anon-rss:18446744073709551616kB",
		"6,2,1,-;oom_reaper: reaped process 9 (x), now anon-rss:0kB, file-rss:0kB",
		"3,2,1,-;python3: Out of memory: Killed process 9 (x) " REST,
		"3,2,1,-;oom-kill:oom_memcg=,pid=", "3,2,1,-;oom-kill:,task_memcg=,pid=1"};
	struct oom_kill k;
	for (size_t i = 0; i < ARRAY_SIZE(no); i++)
		if (parse(no[i], NULL, &k))
			fail_msg("a kill: %s", no[i]);
	char longest[9000];
	memset(longest, 'x', sizeof longest);
	memcpy(longest, "3,2,1,-;Out of memory: Killed process 9 (", 41);
	struct oom_summary s = {0};
	assert_false(oom_parse(longest, sizeof longest, &s, &k));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_kill_is_read),
		cmocka_unit_test(test_a_cgroup_is_named_by_the_record_before),
		cmocka_unit_test(test_programs_cannot_tell_of_kills),
		cmocka_unit_test(test_names_cannot_lie),
		cmocka_unit_test(test_what_is_no_kill),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
