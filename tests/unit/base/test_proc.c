// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include "../check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/proc.h"

#define SH(text) ((const char *const[]){"sh", "-c", text, NULL})

static void run_gives_the_output(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	struct err e = {0};
	assert_int_equal(proc_run(SH("cat; echo end"), "input\n", 6, 5000, &out, &e), 0);
	assert_string_equal(out.data, "input\nend\n");
}

static void run_of_much_input_and_output_does_not_block(void **state)
{
	static char big[400000];
	_cleanup_strbuf_ struct strbuf out = {0};
	memset(big, 'x', sizeof big);
	assert_int_equal(proc_run(SH("cat"), big, sizeof big, 10000, &out, NULL), 0);
	assert_int_equal(out.len, sizeof big);
}

static void a_failure_tells_what_was_said(void **state)
{
	struct err e = {0};
	assert_true(proc_run(SH("echo reason >&2; exit 3"), NULL, 0, 5000, NULL, &e) < 0);
	assert_non_null(strstr(e.text, "exit status 3"));
	assert_non_null(strstr(e.text, "reason"));
}

static void a_missing_program_is_named(void **state)
{
	struct err e = {0};
	const char *const argv[] = {"/no/such/program", NULL};
	assert_int_equal(proc_run(argv, NULL, 0, 5000, NULL, &e), -ENOENT);
	assert_non_null(strstr(e.text, "/no/such/program"));
}

static void the_time_out_kills(void **state)
{
	struct err e = {0};
	uint64_t t = clock_monotonic_ns();
	assert_true(proc_run(SH("exec sleep 60"), NULL, 0, 100, NULL, &e) < 0);
	assert_int_equal(e.code, ERR_TIMEOUT);
	assert_true(clock_monotonic_ns() - t < 20 * NSEC_PER_SEC);
}

// A child in the background may hold the output, and a program may close it long before its end.
static void the_end_is_the_programs_not_its_outputs(void **state)
{
	_cleanup_strbuf_ struct strbuf out = {0}, big = {0};
	struct err e = {0};
	assert_int_equal(proc_run(SH("sleep 20 & echo up"), NULL, 0, 15000, &out, &e), 0);
	assert_string_equal(out.data, "up\n");
	assert_int_equal(
		proc_run(SH("sleep 20 & head -c 300000 /dev/zero"), NULL, 0, 15000, &big, &e), 0);
	assert_int_equal(big.len, 300000);
	assert_true(proc_run(SH("exec >&- 2>&-; exec sleep 60"), NULL, 0, 300, NULL, &e) < 0);
	assert_int_equal(e.code, ERR_TIMEOUT);
}

static void only_the_listed_descriptors_are_inherited(void **state)
{
	int leak = open("/dev/null", O_RDONLY); // on purpose without O_CLOEXEC
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	struct proc_fd_map map = {p[1], 7};
	_cleanup_close_ int pidfd = -1;
	char script[200], text[64] = "";
	int status = -1;
	snprintf(script, sizeof script, "test ! -e /proc/self/fd/%d && echo mapped >&7", leak);
	struct proc_spawn s = {.argv = SH(script),
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = -1,
		.fds = &map,
		.n_fds = 1};
	assert_int_equal(proc_spawn(&s, NULL, &pidfd, NULL), 0);
	close(p[1]);
	assert_int_equal(proc_wait(pidfd, 5000, &status), 0);
	assert_int_equal(status, 0);
	assert_int_equal(file_read_full(p[0], text, sizeof text - 1), 7);
	assert_string_equal(text, "mapped\n");
	close(p[0]);
	close(leak);
}

static void stop_escalates_to_kill(void **state)
{
	int p[2], status = 0;
	char c;
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	_cleanup_close_ int pidfd = -1;
	struct proc_spawn s = {.argv = SH("trap '' TERM; echo; while :; do sleep 0.05; done"),
		.stdin_fd = -1,
		.stdout_fd = p[1],
		.stderr_fd = -1};
	assert_int_equal(proc_spawn(&s, NULL, &pidfd, NULL), 0);
	close(p[1]);
	assert_int_equal(read(p[0], &c, 1), 1); // the trap is set
	assert_int_equal(proc_stop(pidfd, 50, &status), 0);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(proc_kill(pidfd, 0), -ESRCH);
	close(p[0]);
}

static void wait_can_give_up(void **state)
{
	_cleanup_close_ int pidfd = -1;
	struct proc_spawn s = {
		.argv = SH("exec sleep 60"), .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
	assert_int_equal(proc_spawn(&s, NULL, &pidfd, NULL), 0);
	assert_int_equal(proc_wait(pidfd, 20, NULL), -ETIMEDOUT);
	assert_int_equal(proc_stop(pidfd, 5000, NULL), 0);
}

static void start_time_names_a_process(void **state)
{
	uint64_t a = 0, b = 1;
	assert_int_equal(proc_start_time(getpid(), &a), 0);
	assert_int_equal(proc_start_time(getpid(), &b), 0);
	assert_true(a == b && a > 0);
	assert_int_equal(proc_start_time(0x3ffffff, &b), -ESRCH);
}

static void status_texts(void **state)
{
	char text[64];
	proc_status_text(W_EXITCODE(3, 0), text, sizeof text);
	assert_string_equal(text, "exit status 3");
	proc_status_text(W_EXITCODE(0, SIGKILL), text, sizeof text);
	assert_string_equal(text, "signal: killed");
	proc_status_text(W_EXITCODE(0, SIGTERM), text, sizeof text);
	assert_string_equal(text, "signal: terminated");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(run_gives_the_output),
		cmocka_unit_test(run_of_much_input_and_output_does_not_block),
		cmocka_unit_test(a_failure_tells_what_was_said),
		cmocka_unit_test(a_missing_program_is_named),
		cmocka_unit_test(the_time_out_kills),
		cmocka_unit_test(the_end_is_the_programs_not_its_outputs),
		cmocka_unit_test(only_the_listed_descriptors_are_inherited),
		cmocka_unit_test(stop_escalates_to_kill),
		cmocka_unit_test(wait_can_give_up),
		cmocka_unit_test(start_time_names_a_process),
		cmocka_unit_test(status_texts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
