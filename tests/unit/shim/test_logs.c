// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "base/file.h"
#include "base/str.h"
#include "shim/boundlog.h"
#include "shim/shim.h"

static char dir[] = "/tmp/stasis-logs-XXXXXX";
static char path[64];

static int setup(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	return str_format(path, sizeof path, "%s/log", dir);
}

static int teardown(void **state)
{
	return file_rm_rf(AT_FDCWD, dir);
}

static int fresh(void **state)
{
	unlink(path);
	return 0;
}

static void whatever_is_written_the_newest_half_is_there(void **state)
{
	enum { MAX_LOG = 4096 };
	struct boundlog l;
	_cleanup_strbuf_ struct strbuf all = {0};
	char chunk[7000];
	unsigned seed = 1, n = 0;
	assert_int_equal(boundlog_open(&l, AT_FDCWD, path, MAX_LOG), 0);
	for (int i = 0; i < 500; i++) {
		size_t len = (size_t)rand_r(&seed) % (i % 10 ? 300 : sizeof chunk);
		for (size_t j = 0; j < len; j++)
			chunk[j] = (char)('a' + n++ % 23);
		strbuf_add(&all, chunk, len);
		boundlog_add(&l, chunk, len);
		_cleanup_strbuf_ struct strbuf have = {0};
		assert_int_equal(file_read(AT_FDCWD, path, MAX_LOG, &have), 0);
		assert_true(have.len >= MIN((size_t)MAX_LOG / 2, all.len));
		assert_memory_equal(have.data, all.data + all.len - have.len, have.len);
	}
	boundlog_done(&l);
}

static void reopened_log_is_continued_within_the_limit(void **state)
{
	struct boundlog l;
	_cleanup_strbuf_ struct strbuf have = {0};
	assert_int_equal(boundlog_open(&l, AT_FDCWD, path, 100), 0);
	boundlog_add(&l, "abcdefgh", 8);
	boundlog_done(&l);
	assert_int_equal(boundlog_open(&l, AT_FDCWD, path, 100), 0);
	boundlog_add(&l, "ij", 2);
	boundlog_done(&l);
	assert_int_equal(file_read(AT_FDCWD, path, 100, &have), 0);
	assert_string_equal(have.data, "abcdefghij");
	assert_int_equal(boundlog_open(&l, AT_FDCWD, path, 8), 0); // the limit was lowered
	boundlog_done(&l);
	_cleanup_strbuf_ struct strbuf cut = {0};
	assert_int_equal(file_read(AT_FDCWD, path, 100, &cut), 0);
	assert_string_equal(cut.data, "ghij");
}

static void links_and_directories_are_no_logs(void **state)
{
	struct boundlog l;
	_cleanup_free_ char *link = str_printf("%s/link", dir);
	assert_int_equal(symlink(path, link), 0);
	assert_int_equal(boundlog_open(&l, AT_FDCWD, link, 100), -ELOOP);
	assert_true(boundlog_open(&l, AT_FDCWD, dir, 100) < 0);
	unlink(link);
}

static void full_disk_does_not_stop_the_writer(void **state)
{
	struct boundlog l = {.fd = open("/dev/full", O_RDWR | O_CLOEXEC), .max = 100};
	boundlog_add(&l, "abc", 3);
	assert_int_equal(l.size, 0);
	boundlog_done(&l);
}

static void console_tells_how_the_guest_ended(void **state)
{
	static const struct {
		const char *text, *cause;
	} cases[] = {
		{"", NULL},
		{"login: \n", NULL},
		{"[    1.0] Kernel panic - not syncing: VFS: no root\n[    1.0] Rebooting in 1 "
		 "seconds..\n",
			"guest_panic"},
		{"[    9.0] reboot: Power down\n", "guest_poweroff"},
		{"[    9.0] reboot: Restarting system\r\n", "guest_poweroff"},
		{"[    9.0] sysrq: Resetting\n", "guest_poweroff"},
		{"[    9.0] reboot: System halted\n", "guest_poweroff"},
		// The log spans boots: the latest counts.
		{"Kernel panic - not syncing: x\n[    0.0] Linux\nreboot: Power down\n",
			"guest_poweroff"},
		{"reboot: Power down\n[    0.0] Linux\nKernel panic - not syncing: x\n",
			"guest_panic"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *text = cases[i].text;
		assert_int_equal(file_write_atomic(AT_FDCWD, path, text, strlen(text), 0600), 0);
		const char *cause = shim_judge_console(path);
		if (cases[i].cause)
			assert_string_equal(cause, cases[i].cause);
		else
			assert_null(cause);
	}
	// Only the end is looked at.
	_cleanup_strbuf_ struct strbuf b = {0};
	strbuf_adds(&b, "Kernel panic - not syncing: long ago\n");
	for (int i = 0; i < 2000; i++)
		strbuf_adds(&b, "0123456789\n");
	assert_int_equal(file_write_atomic(AT_FDCWD, path, b.data, b.len, 0600), 0);
	assert_null(shim_judge_console(path));
	unlink(path);
	assert_null(shim_judge_console(path));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(whatever_is_written_the_newest_half_is_there, fresh),
		cmocka_unit_test_setup(reopened_log_is_continued_within_the_limit, fresh),
		cmocka_unit_test_setup(links_and_directories_are_no_logs, fresh),
		cmocka_unit_test_setup(full_disk_does_not_stop_the_writer, fresh),
		cmocka_unit_test_setup(console_tells_how_the_guest_ended, fresh),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
