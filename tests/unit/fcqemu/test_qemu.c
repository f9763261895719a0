// SPDX-License-Identifier: Apache-2.0
// The pieces of the QEMU side that need no guest: command line, control protocol against a peer
// played here, start of something that is no QEMU.
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/file.h"
#include "fcqemu/qemu.h"
#include "vmm/limits.h"

static void command_line_gets_what_the_machine_needs(void **state)
{
	char path[] = "/disk";
	static const struct {
		const char *args, *partuuid, *expected;
		bool root, read_only;
		uint64_t khz;
	} cases[] = {
		{"console=ttyS0", NULL, "console=ttyS0 no-kvmapf reboot=t panic=-1", false, false,
			0},
		{"panic=1 quiet", NULL, "panic=1 quiet root=/dev/vda rw no-kvmapf reboot=t", true,
			false, 0},
		{"panic=1", NULL, "panic=1 root=/dev/vda ro no-kvmapf reboot=t", true, true, 0},
		{"panic=1", "ab-1", "panic=1 root=PARTUUID=ab-1 rw no-kvmapf reboot=t", true, false,
			0},
		{"panic=1", NULL, "panic=1 tsc_early_khz=2400000 tsc=reliable reboot=t", false,
			false, 2400000},
		{"panic=1 -- a b", NULL, "panic=1  no-kvmapf reboot=t -- a b", false, false, 0},
		{"panic=1 x-- b", NULL, "panic=1 x-- b no-kvmapf reboot=t", false, false, 0},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct config c = {.boot_args = (char *)cases[i].args, .n_drives = cases[i].root};
		c.drives[0] = (struct drive){.path = path,
			.root = true,
			.read_only = cases[i].read_only,
			.partuuid = (char *)cases[i].partuuid};
		_cleanup_free_ char *line = NULL;
		assert_int_equal(qemu_command_line(&c, cases[i].khz, &line, NULL), 0);
		assert_string_equal(line, cases[i].expected);
	}
	char longest[CONFIG_BOOT_ARGS_MAX];
	memset(longest, 'x', sizeof longest - 1);
	longest[sizeof longest - 1] = '\0';
	struct config c = {.boot_args = longest};
	char *line = NULL;
	assert_true(qemu_command_line(&c, 0, &line, NULL) < 0);
}

static void clock_rate_is_steady(void **state)
{
	struct tsc_mark m = tsc_mark_now();
	uint64_t a = tsc_khz_since(&m), b = tsc_khz_since(&m);
	assert_true(a > 100000 && a < 10000000);
	assert_true((a > b ? a - b : b - a) < a / 1000);
}

// ---- control protocol

struct peer {
	int ours, theirs;
	struct qmp qmp;
};

static int setup(void **state)
{
	struct peer *p = calloc(1, sizeof *p);
	int sv[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	p->ours = sv[0];
	p->theirs = sv[1];
	p->qmp.fd = -1;
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct peer *p = *state;
	qmp_close(&p->qmp);
	safe_close(p->ours);
	safe_close(p->theirs);
	free(p);
	return 0;
}

static void say(struct peer *p, const char *text)
{
	assert_int_equal(file_write_full(p->theirs, text, strlen(text)), 0);
}

// What it will be asked next is known, so the answers can wait in the socket already.
static void greet(struct peer *p)
{
	say(p, "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": "
	       "22}}}}\r\n"
	       "{\"return\": {}, \"id\": 1}\r\n");
	assert_int_equal(qmp_open(&p->qmp, TAKE_FD(p->ours), -1, 1000, NULL), 0);
}

static void greeting_tells_the_version(void **state)
{
	struct peer *p = *state;
	greet(p);
	assert_string_equal(p->qmp.version, "7.2.22");
}

static void events_and_late_answers_are_passed_over(void **state)
{
	struct peer *p = *state;
	struct err e = {0};
	json_t *ret = NULL;
	greet(p);
	say(p, "{\"event\": \"STOP\"}\n");
	assert_int_equal(qmp_call(&p->qmp, "stop", NULL, -1, 20, NULL, &e), -ETIMEDOUT);
	assert_int_equal(e.code, ERR_TIMEOUT);
	assert_string_equal(e.text, "QEMU did not answer stop in time");
	say(p, "{\"return\": {\"late\": 1}, \"id\": 2}\nnot json\n{\"return\": {\"mine\": 1}, "
	       "\"id\": 3}\n");
	assert_int_equal(qmp_call(&p->qmp, "query", NULL, -1, 1000, &ret, &e), 0);
	assert_non_null(json_object_get(ret, "mine"));
	json_decref(ret);
}

// A QEMU that answers each command after that time, as one on a busy machine does.
struct slow {
	int fd;
	int after_ms;
};

static void *answer_slowly(void *arg)
{
	struct slow *s = arg;
	char line[512];
	for (int id = 1; read(s->fd, line, sizeof line) > 0; id++) {
		char answer[64];
		clock_sleep_ns((uint64_t)s->after_ms * NSEC_PER_MSEC);
		snprintf(answer, sizeof answer, "{\"return\": {}, \"id\": %d}\n", id);
		if (send(s->fd, answer, strlen(answer), MSG_NOSIGNAL) < 0)
			break; // given up meanwhile
	}
	return NULL;
}

static int pause_slow_qemu(int after_ms, int limit_ms, struct err *e)
{
	struct qemu q;
	int sv[2];
	pthread_t thread;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	struct slow s = {sv[1], after_ms};
	assert_int_equal(pthread_create(&thread, NULL, answer_slowly, &s), 0);
	qemu_init(&q);
	q.qmp.fd = sv[0];
	if (limit_ms)
		q.state_timeout_ms = limit_ms;
	int rc = qemu_pause(&q, e);
	qemu_done(&q);
	pthread_join(thread, NULL);
	close(sv[1]);
	return rc;
}

// The limit of the program is what its client believes; here both sides of a small one.
static void a_slow_qemu_has_the_time_that_the_client_believes(void **state)
{
	struct err e = {0};
	struct qemu q;
	qemu_init(&q);
	assert_int_equal(q.state_timeout_ms, VMM_STATE_MS);
	assert_true(VMM_STATE_CALL_MS > VMM_STATE_MS);
	assert_int_equal(pause_slow_qemu(300, 20, &e), -ETIMEDOUT);
	assert_string_equal(e.text, "QEMU did not answer stop in time");
	assert_int_equal(pause_slow_qemu(100, 0, &e), 0);
}

static void refusals_carry_the_reason(void **state)
{
	struct peer *p = *state;
	struct err e = {0};
	greet(p);
	say(p, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such node\"}, \"id\": "
	       "2}\n");
	assert_true(qmp_call(&p->qmp, "blockdev-del", json_pack("{s:s}", "node-name", "x"), -1,
			    1000, NULL, &e) < 0);
	assert_string_equal(e.text, "QEMU refused blockdev-del: no such node");
}

static void an_ended_peer_is_told_at_once(void **state)
{
	struct peer *p = *state;
	struct err e = {0};
	greet(p);
	p->theirs = safe_close(p->theirs);
	uint64_t begin = clock_monotonic_ns();
	assert_true(qmp_call(&p->qmp, "stop", NULL, -1, 60000, NULL, &e) < 0);
	assert_true(clock_monotonic_ns() - begin < 10 * NSEC_PER_SEC);
	assert_int_equal(e.code, ERR_BAD_GATEWAY);
}

// ---- start

static void a_start_that_fails_leaves_nothing(void **state)
{
	struct qemu q;
	struct err e = {0};
	char args[] = "quiet", kernel[] = "/dev/null";
	struct config c = {.vcpus = 1, .memory_mib = 64, .kernel = kernel, .boot_args = args};
	struct qemu_options o = {.qemu = "/bin/false", .ramhook = "/dev/null", .accel = ACCEL_TCG};
	qemu_init(&q);
	assert_true(qemu_start(&q, &o, &c, &e) < 0);
	assert_non_null(strstr(e.text, "QEMU ended before it answered its greeting"));
	assert_int_equal(q.pidfd, -1);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); // no child is left

	o.qemu = "/nowhere/qemu";
	assert_true(qemu_start(&q, &o, &c, &e) < 0);
	assert_non_null(strstr(e.text, "/nowhere/qemu"));
	qemu_done(&q);
}

// What QEMU is called with; "" when it has no such option.
static void processor_given(enum accel accel, bool load, char *out, size_t size)
{
	char dir[] = "/tmp/test-qemu.XXXXXX", args[] = "quiet", kernel[] = "/dev/null";
	assert_non_null(mkdtemp(dir));
	_cleanup_free_ char *program = str_printf("%s/qemu", dir),
			    *said = str_printf("%s/said", dir);
	_cleanup_free_ char *text = str_printf(
		"#!/bin/sh\nfor a; do [ \"$p\" != -cpu ] || echo \"$a\" >%s; p=$a; done\n", said);
	assert_int_equal(file_write_atomic(AT_FDCWD, program, text, strlen(text), 0755), 0);
	struct config c = {.vcpus = 1, .memory_mib = 64, .kernel = kernel, .boot_args = args};
	struct qemu_options o = {.qemu = program, .ramhook = "/dev/null", .accel = accel};
	struct qemu_incoming in = {.state_fd = open("/dev/null", O_RDONLY | O_CLOEXEC),
		.backend_fd = open("/dev/null", O_RDONLY | O_CLOEXEC),
		.memory = MEMORY_FILE,
		.accel = accel};
	struct qemu q;
	qemu_init(&q);
	assert_true((load ? qemu_load(&q, &o, &c, &in, NULL) : qemu_start(&q, &o, &c, NULL)) < 0);
	qemu_done(&q);
	safe_close(in.state_fd);
	safe_close(in.backend_fd);
	_cleanup_strbuf_ struct strbuf cpu = {0};
	file_read(AT_FDCWD, said, 4096, &cpu);
	snprintf(out, size, "%s", cpu.data ? cpu.data : "");
	file_rm_rf(AT_FDCWD, dir);
}

// Virtualisation in the hands of the guest's root is a way into the host's kernel. No other
// processor is loaded than the one that booted.
static void guests_have_neither_virtual_machines_nor_counters(void **state)
{
	static const enum accel accels[] = {ACCEL_KVM, ACCEL_TCG};
	for (size_t i = 0; i < ARRAY_SIZE(accels); i++) {
		char booted[256], loaded[256];
		processor_given(accels[i], false, booted, sizeof booted);
		processor_given(accels[i], true, loaded, sizeof loaded);
		assert_string_equal(booted, loaded);
		assert_non_null(strstr(booted, accels[i] == ACCEL_KVM ? "host," : "max,"));
		assert_non_null(strstr(booted, "svm=off"));
		assert_non_null(strstr(booted, "vmx=off"));
		assert_non_null(strstr(booted, "pmu=off"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(command_line_gets_what_the_machine_needs),
		cmocka_unit_test(clock_rate_is_steady),
		cmocka_unit_test_setup_teardown(greeting_tells_the_version, setup, teardown),
		cmocka_unit_test_setup_teardown(
			events_and_late_answers_are_passed_over, setup, teardown),
		cmocka_unit_test(a_slow_qemu_has_the_time_that_the_client_believes),
		cmocka_unit_test_setup_teardown(refusals_carry_the_reason, setup, teardown),
		cmocka_unit_test_setup_teardown(an_ended_peer_is_told_at_once, setup, teardown),
		cmocka_unit_test(guests_have_neither_virtual_machines_nor_counters),
		cmocka_unit_test(a_start_that_fails_leaves_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
