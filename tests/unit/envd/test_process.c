// SPDX-License-Identifier: Apache-2.0
// The process table with real programs (sh, sleep, cat, head of coreutils).
#include "../check.h"
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include "base/clock.h"
#include "base/str.h"
#include "envd/process/handover.h"
#include "envd/process/process.h"

static char *const env[] = {"PATH=/usr/bin:/bin", "GREETING=hello", NULL};

struct options {
	bool stdin_open, pty, ends_on_exit;
	uint64_t timeout_ns;
	const char *tag, *cwd;
};

static int start(struct process_table *t, const char *script, const struct options *o,
	struct process_sub **ret, struct err *e)
{
	char *argv[] = {"sh", "-c", (char *)script, NULL};
	_cleanup_(json_decrefp) json_t *config = json_pack("{s:s}", "cmd", "sh");
	const struct process_start s = {.cmd = "sh",
		.argv = argv,
		.env = env,
		.cwd = o->cwd ? o->cwd : "/",
		.tag = o->tag,
		.stdin_open = o->stdin_open,
		.pty = o->pty,
		.ends_on_exit = o->ends_on_exit,
		.cols = 80,
		.rows = 24,
		.timeout_ns = o->timeout_ns,
		.config = config};
	return process_start(t, &s, ret, e);
}

// Reads to the end; out gets the streams' bytes in the order they came.
static const struct process_end *read_all(struct process_sub *s, struct strbuf *out)
{
	for (;;) {
		struct process_chunk *c;
		enum process_event event =
			process_sub_next(s, clock_monotonic_ns() + 20 * NSEC_PER_SEC, -1, &c);
		if (event == PROCESS_END)
			return process_sub_end(s);
		assert_int_equal(event, PROCESS_DATA);
		if (out)
			strbuf_add(out, c->data, c->len);
		process_chunk_release(s, c);
	}
}

static void expect(
	const char *script, const struct options *o, const char *want_out, const char *want_status)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	_cleanup_(process_sub_freep) struct process_sub *s = NULL;
	_cleanup_strbuf_ struct strbuf out = {0};
	assert_int_equal(start(t, script, o, &s, NULL), 0);
	assert_string_equal(read_all(s, &out)->status, want_status);
	assert_string_equal(out.data ? out.data : "", want_out);
}

static void test_output_and_end(void **state)
{
	const struct options o = {0};
	expect("echo $GREETING; pwd; exit 3", &o, "hello\n/\n", "exit status 3");
	expect("exec 2>&1; echo err >&2", &o, "err\n", "exit status 0");
	expect("kill -9 $$", &o, "", "signal: killed");
	expect("cat", &o, "", "exit status 0"); // standard input is empty
	expect("ls /proc/self/fd | wc -l", &o, "4\n", "exit status 0");
	const struct options tmp = {.cwd = "/tmp"};
	expect("pwd", &tmp, "/tmp\n", "exit status 0");
}

static void test_missing_programs_and_directories(void **state)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	struct process_sub *s = NULL;
	struct err e = {0};
	const struct options o = {.cwd = "/no/such/directory"};
	assert_int_equal(start(t, "true", &o, &s, &e), -EINVAL);
	assert_int_equal(e.code, ERR_INVALID);
	assert_non_null(strstr(e.text, "/no/such/directory"));
	char *argv[] = {"no-such-program", NULL};
	struct process_start p = {.cmd = argv[0], .argv = argv, .env = env, .cwd = "/"};
	assert_int_equal(process_start(t, &p, &s, &e), -EINVAL);
	assert_int_equal(e.code, ERR_INVALID);
	assert_non_null(strstr(e.text, "no-such-program"));
	p.cmd = "/etc/passwd";
	assert_int_equal(process_start(t, &p, &s, &e), -EINVAL);
}

static void test_input_and_its_end(void **state)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	_cleanup_(process_sub_freep) struct process_sub *s = NULL;
	_cleanup_strbuf_ struct strbuf out = {0};
	struct err e = {0};
	const struct options o = {.stdin_open = true, .tag = "cat"};
	// It lives on without its input: what follows is said of that and not of a process that
	// ended.
	assert_int_equal(start(t, "cat; echo .; exec sleep 100", &o, &s, NULL), 0);
	const struct process_selector tag = {.tag = "cat"}, pid = {.pid = process_sub_pid(s)};
	assert_int_equal(process_write(t, &tag, false, "one ", 4, &e), 0);
	assert_int_equal(process_write(t, &pid, false, "two", 3, &e), 0);
	assert_true(process_write(t, &pid, true, "x", 1, &e) < 0);
	assert_int_equal(e.code, ERR_INTERNAL);
	assert_true(process_resize(t, &pid, 1, 1, &e) < 0);
	assert_int_equal(process_close_stdin(t, &pid, &e), 0);
	assert_int_equal(process_close_stdin(t, &pid, &e), 0);
	assert_true(process_write(t, &pid, false, "x", 1, &e) < 0);
	assert_int_equal(e.code, ERR_INTERNAL);
	while (!out.data || !strchr(out.data, '\n')) {
		struct process_chunk *c;
		assert_int_equal(
			process_sub_next(s, clock_monotonic_ns() + 20 * NSEC_PER_SEC, -1, &c),
			PROCESS_DATA);
		strbuf_add(&out, c->data, c->len);
		process_chunk_release(s, c);
	}
	assert_string_equal(out.data, "one two.\n");
	assert_int_equal(process_signal(t, &pid, SIGKILL, &e), 0);
	assert_string_equal(read_all(s, NULL)->status, "signal: killed");
	assert_int_equal(process_write(t, &pid, false, "x", 1, &e), -ENOENT);
	assert_int_equal(e.code, ERR_NOT_FOUND);
}

static void test_input_that_nobody_reads_fails_at_the_end(void **state)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	_cleanup_(process_sub_freep) struct process_sub *s = NULL;
	static char big[1 << 20];
	struct err e = {0};
	const struct options o = {.stdin_open = true, .timeout_ns = 300 * NSEC_PER_MSEC};
	assert_int_equal(start(t, "sleep 100", &o, &s, NULL), 0);
	const struct process_selector pid = {.pid = process_sub_pid(s)};
	assert_true(process_write(t, &pid, false, big, sizeof big, &e) < 0);
	assert_int_equal(e.code, ERR_INTERNAL);
	assert_true(read_all(s, NULL)->timed_out);
}

static void test_the_time_limit_kills_the_group(void **state)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	_cleanup_(process_sub_freep) struct process_sub *s = NULL;
	_cleanup_strbuf_ struct strbuf out = {0};
	const struct options o = {.timeout_ns = 500 * NSEC_PER_MSEC};
	assert_int_equal(start(t, "sleep 100 & echo $!; wait", &o, &s, NULL), 0);
	const struct process_end *end = read_all(s, &out);
	assert_true(end->timed_out);
	assert_string_equal(end->status, "signal: killed");
	// The child was killed too: soon it is a zombie at most, until whoever inherits it looks.
	pid_t child = (pid_t)strtol(out.data, NULL, 10);
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	struct pollfd pf = {.fd = pidfd, .events = POLLIN};
	assert_true(pidfd < 0 || poll(&pf, 1, 10000) == 1);
}

static void test_a_background_child_delays_the_end_but_not_a_kill(void **state)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	_cleanup_(process_sub_freep) struct process_sub *s = NULL, *k = NULL;
	_cleanup_strbuf_ struct strbuf out = {0};
	const struct options o = {0};
	assert_int_equal(start(t, "(sleep 0.3; echo late) & echo early", &o, &s, NULL), 0);
	assert_string_equal(read_all(s, &out)->status, "exit status 0");
	assert_string_equal(out.data, "early\nlate\n");
	// Holds the pipe from another session, out of the kill's reach.
	assert_int_equal(start(t, "setsid sleep 5 & echo up; exec sleep 100", &o, &k, NULL), 0);
	struct process_chunk *c;
	assert_int_equal(process_sub_next(k, UINT64_MAX, -1, &c), PROCESS_DATA);
	process_chunk_release(k, c);
	const struct process_selector pid = {.pid = process_sub_pid(k)};
	uint64_t before = clock_monotonic_ns();
	assert_int_equal(process_signal(t, &pid, SIGKILL, NULL), 0);
	assert_string_equal(read_all(k, NULL)->status, "signal: killed");
	assert_true(clock_monotonic_ns() - before < 4 * NSEC_PER_SEC);
}

// Whoever holds its output is left to itself, and can write on until the table goes.
static void test_an_end_with_the_leader(void **state)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	_cleanup_(process_sub_freep) struct process_sub *s = NULL, *p = NULL, *k = NULL;
	_cleanup_strbuf_ struct strbuf out = {0}, big = {0};
	const struct options o = {.ends_on_exit = true, .stdin_open = true},
			     pty = {.ends_on_exit = true, .pty = true};
	// The input stays open, and so does a writer that waits for somebody to read it.
	assert_int_equal(start(t, "(exec sleep 100) & echo up; exit 3", &o, &s, NULL), 0);
	const struct process_end *end = read_all(s, &out);
	assert_string_equal(out.data, "up\n");
	assert_int_equal(end->exit_code, 3);
	assert_true(end->output_open && !end->timed_out);
	const struct process_selector pid = {.pid = process_sub_pid(s)};
	assert_int_equal(process_signal(t, &pid, SIGKILL, NULL), -ENOENT);
	assert_int_equal(process_write(t, &pid, false, "x", 1, NULL), -ENOENT);

	assert_int_equal(start(t, "while sleep 0.01; do echo; done >&2 & head -c 1000000 /dev/zero",
				 &o, &k, NULL),
		0);
	end = read_all(k, &big);
	assert_true(big.len >= 1000000);
	assert_string_equal(end->status, "exit status 0");

	out.len = 0;
	assert_int_equal(start(t, "trap '' HUP; sleep 100 & echo up; exit 4", &pty, &p, NULL), 0);
	end = read_all(p, &out);
	assert_int_equal(end->exit_code, 4);
	assert_string_equal(out.data, "up\r\n");
	_cleanup_(json_decrefp) json_t *list = process_list(t);
	assert_int_equal(json_array_size(list), 0);
}

static void test_a_kill_after_the_leaders_end(void **state)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	_cleanup_(process_sub_freep) struct process_sub *s = NULL;
	const struct options o = {0};
	assert_int_equal(start(t, "sleep 5 & exit 7", &o, &s, NULL), 0);
	const struct process_selector pid = {.pid = process_sub_pid(s)};
	// The end of the leader cannot be seen from here while its child holds the pipes.
	for (int i = 0; i < 2000; i++) {
		char path[64];
		snprintf(path, sizeof path, "/proc/%d", (int)pid.pid);
		if (access(path, F_OK) < 0)
			break;
		clock_sleep_ns(NSEC_PER_MSEC);
	}
	uint64_t before = clock_monotonic_ns();
	// A kernel before 6.9 reaches nobody, and says so.
	assert_in_range(-process_signal(t, &pid, SIGKILL, NULL), 0, ENOENT);
	assert_string_equal(read_all(s, NULL)->status, "exit status 7");
	assert_true(clock_monotonic_ns() - before < 4 * NSEC_PER_SEC);
}

static void test_the_slowest_subscriber_sets_the_pace(void **state)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	_cleanup_(process_sub_freep) struct process_sub *s = NULL, *slow = NULL;
	const struct options o = {.stdin_open = true};
	assert_int_equal(
		start(t, "read x; head -c 4000000 /dev/zero; echo done >&2", &o, &s, NULL), 0);
	const struct process_selector pid = {.pid = process_sub_pid(s)};
	assert_int_equal(process_connect(t, &pid, &slow, NULL), 0);
	assert_int_equal(process_write(t, &pid, false, "\n", 1, NULL), 0);
	// While slow does not read, the other one gets what fits into slow's queue and no more.
	size_t got = 0;
	struct process_chunk *c;
	while (process_sub_next(s, clock_monotonic_ns() + 300 * NSEC_PER_MSEC, -1, &c) ==
		PROCESS_DATA) {
		got += c->len;
		process_chunk_release(s, c);
	}
	assert_in_range(got, 1, 400000);
	_cleanup_strbuf_ struct strbuf out = {0};
	slow = process_sub_free(slow);
	read_all(s, &out);
	assert_int_equal(got + out.len, 4000005);
}

static void test_late_comers(void **state)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	_cleanup_(process_sub_freep) struct process_sub *s = NULL, *late = NULL;
	struct err e = {0};
	const struct options o = {.tag = "job"};
	assert_int_equal(start(t, "exit 4", &o, &s, NULL), 0);
	read_all(s, NULL);
	const struct process_selector tag = {.tag = "job"}, other = {.tag = "other"};
	assert_int_equal(process_connect(t, &tag, &late, NULL), 0);
	assert_int_equal(process_sub_pid(late), process_sub_pid(s));
	assert_int_equal(read_all(late, NULL)->exit_code, 4);
	late = process_sub_free(late);
	assert_int_equal(process_connect(t, &other, &late, &e), -ENOENT);
	assert_int_equal(process_signal(t, &tag, SIGTERM, &e), -ENOENT);
	_cleanup_(json_decrefp) json_t *list = process_list(t);
	assert_int_equal(json_array_size(list), 0);
}

static void test_terminal(void **state)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	_cleanup_(process_sub_freep) struct process_sub *s = NULL;
	_cleanup_strbuf_ struct strbuf out = {0};
	struct err e = {0};
	const struct options o = {.pty = true};
	assert_int_equal(
		start(t, "stty -echo; stty size; read x; stty size; echo $x; test -t 0 -a -t 2", &o,
			&s, NULL),
		0);
	const struct process_selector pid = {.pid = process_sub_pid(s)};
	while (!strstr(out.data ? out.data : "", "24 80\r\n")) {
		struct process_chunk *c;
		assert_int_equal(process_sub_next(s, UINT64_MAX, -1, &c), PROCESS_DATA);
		assert_int_equal(c->stream, PROCESS_PTY);
		strbuf_add(&out, c->data, c->len);
		process_chunk_release(s, c);
	}
	assert_int_equal(process_resize(t, &pid, 100, 40, NULL), 0);
	assert_int_equal(process_close_stdin(t, &pid, &e), -ENOTTY);
	assert_true(process_write(t, &pid, false, "x", 1, &e) < 0);
	assert_int_equal(process_write(t, &pid, true, "typed\n", 6, NULL), 0);
	assert_string_equal(read_all(s, &out)->status, "exit status 0");
	assert_string_equal(out.data, "24 80\r\n40 100\r\ntyped\r\n");
}

static void *hold(void *table)
{
	int rc = process_table_hold(table, clock_monotonic_ns() + 20 * NSEC_PER_SEC);
	return (void *)(intptr_t)rc;
}

// As at a hand-over that failed. The stream is ended by it.
static void hold_and_release(struct process_table *t, struct process_sub **s)
{
	struct process_chunk *c;
	pthread_t thread;
	void *rc;
	assert_int_equal(pthread_create(&thread, NULL, hold, t), 0);
	assert_int_equal(process_sub_next(*s, clock_monotonic_ns() + 20 * NSEC_PER_SEC, -1, &c),
		PROCESS_MOVED);
	*s = process_sub_free(*s);
	assert_int_equal(pthread_join(thread, &rc), 0);
	assert_null(rc);
	process_table_release(t);
}

static uint64_t processor_ns(void)
{
	struct timespec now;
	assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now), 0);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

// Nothing happens meanwhile.
static uint64_t spent_idle_ns(struct process_sub *s)
{
	struct process_chunk *c;
	uint64_t before = processor_ns();
	assert_int_equal(process_sub_next(s, clock_monotonic_ns() + 500 * NSEC_PER_MSEC, -1, &c),
		PROCESS_IDLE);
	return processor_ns() - before;
}

static void test_a_client_that_comes_again_costs_no_processor(void **state)
{
	_cleanup_(process_table_freep) struct process_table *t = process_table_new(-1, "");
	_cleanup_(process_sub_freep) struct process_sub *s = NULL;
	_cleanup_strbuf_ struct strbuf out = {0};
	const struct options o = {.stdin_open = true};
	assert_int_equal(start(t, "read x; echo $x", &o, &s, NULL), 0);
	const struct process_selector pid = {.pid = process_sub_pid(s)};
	hold_and_release(t, &s);
	assert_int_equal(process_connect(t, &pid, &s, NULL), 0);
	assert_in_range(spent_idle_ns(s), 0, 100 * NSEC_PER_MSEC);
	// Nor does a signal that it outlives.
	hold_and_release(t, &s);
	assert_int_equal(process_connect(t, &pid, &s, NULL), 0);
	assert_int_equal(process_signal(t, &pid, SIGCONT, NULL), 0);
	assert_in_range(spent_idle_ns(s), 0, 100 * NSEC_PER_MSEC);
	assert_int_equal(process_write(t, &pid, false, "there\n", 6, NULL), 0);
	assert_string_equal(read_all(s, &out)->status, "exit status 0");
	assert_string_equal(out.data, "there\n");
}

static void test_freeing_the_table_ends_everything(void **state)
{
	struct process_table *t = process_table_new(-1, "");
	struct process_sub *s = NULL;
	const struct options o = {0};
	assert_int_equal(start(t, "yes", &o, &s, NULL), 0); // its pump waits for room
	pid_t pid = process_sub_pid(s);
	process_table_stop(t);
	assert_int_equal(kill(pid, 0), -1);
	process_sub_free(s);
	process_table_free(t);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	close_range(3, ~0u, CLOSE_RANGE_CLOEXEC); // as envd does: what our starter left open
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_output_and_end),
		cmocka_unit_test(test_missing_programs_and_directories),
		cmocka_unit_test(test_input_and_its_end),
		cmocka_unit_test(test_input_that_nobody_reads_fails_at_the_end),
		cmocka_unit_test(test_the_time_limit_kills_the_group),
		cmocka_unit_test(test_a_background_child_delays_the_end_but_not_a_kill),
		cmocka_unit_test(test_an_end_with_the_leader),
		cmocka_unit_test(test_a_kill_after_the_leaders_end),
		cmocka_unit_test(test_the_slowest_subscriber_sets_the_pace),
		cmocka_unit_test(test_late_comers),
		cmocka_unit_test(test_terminal),
		cmocka_unit_test(test_a_client_that_comes_again_costs_no_processor),
		cmocka_unit_test(test_freeing_the_table_ends_everything),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
