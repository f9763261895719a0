// SPDX-License-Identifier: Apache-2.0
// Which records of the host's kernel log are about the end of a sandbox.
#include "../check.h"
#include <string.h>
#include "base/str.h"
#include "sandbox/machine/host_oom.h"

#define REST "total-vm:900kB, anon-rss:600kB, file-rss:0kB, shmem-rss:0kB, "

static bool fits(const struct host_oom_look *l, const char *record)
{
	struct oom_summary s = {0};
	struct oom_kill k;
	return oom_parse(record, strlen(record), &s, &k) && host_oom_fits(l, &k);
}

static void test_whose_kill_it_is(void **state)
{
	const struct host_oom_look l = {.uid = 310005, .shim = 900, .from = 9};
	static const char vmm[] =
		"3,9,2000,-;Out of memory: Killed process 812 (qemu-system-x86) " REST
		"UID:310005 pgtables:1kB oom_score_adj:0\n";
	assert_true(fits(&l, vmm));
	assert_true(fits(&l, "3,9,2000,-;Memory cgroup out of memory: Killed process 9 (x) " REST
			     "UID:310005\n"));
	// Another sandbox's, of one that had the uid before, or by a program that writes into the
	// log.
	assert_false(
		fits(&l, "3,9,2000,-;Out of memory: Killed process 812 (x) " REST "UID:310006\n"));
	assert_false(
		fits(&l, "3,8,2000,-;Out of memory: Killed process 812 (x) " REST "UID:310005\n"));
	assert_false(
		fits(&l, "11,9,2000,-;Out of memory: Killed process 812 (x) " REST "UID:310005\n"));
	// The shim is root's: by its number.
	assert_true(fits(
		&l, "3,9,2000,-;Out of memory: Killed process 900 (stasis-shim) " REST "UID:0\n"));
	assert_false(fits(
		&l, "3,9,2000,-;Out of memory: Killed process 901 (stasis-shim) " REST "UID:0\n"));
	const struct host_oom_look unknown = {.uid = 310005, .from = 1};
	assert_false(
		fits(&unknown, "3,9,2000,-;Out of memory: Killed process 900 (x) " REST "UID:0\n"));
	// Started by a server that could not read the log.
	const struct host_oom_look blind = {.uid = 310005};
	assert_false(fits(&blind, vmm));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_whose_kill_it_is)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
