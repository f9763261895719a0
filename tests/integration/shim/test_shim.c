// SPDX-License-Identifier: Apache-2.0
// stasis-shim with real namespaces and a dummy VMM. Needs root.
#include "world.h"
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/proc.h"
#include "base/str.h"

static struct world world;

#define DUMMY JAIL_BIN "/dummy-vmm"
static const char *const plain[] = {DUMMY, NULL};

// ---- helpers

static void start(struct box *b)
{
	struct err e = {0};
	if (box_start(b, &world, 10000, &e) < 0)
		fail_msg("start: %s", e.text);
}

static void expect_line(const char *text, const char *fmt, ...)
{
	char line[200] = "\n";
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(line + 1, sizeof line - 2, fmt, ap);
	va_end(ap);
	line[n + 1] = '\n';
	line[n + 2] = '\0';
	_cleanup_free_ char *all = str_printf("\n%s", text);
	if (!strstr(all, line)) {
		print_error("%s", text); // cmocka cuts long messages
		fail_msg("no line '%.*s' in the above", n, line + 1);
	}
}

static void expect_no(const char *text, const char *what)
{
	if (strstr(text, what))
		fail_msg("'%s' in:\n%s", what, text);
}

static size_t count(const char *text, const char *what)
{
	size_t n = 0;
	for (const char *p = text; (p = strstr(p, what)); p++)
		n++;
	return n;
}

static bool directory_is_empty(const char *path)
{
	_cleanup_closedir_ DIR *d = opendir(path);
	assert_non_null(d);
	for (struct dirent *de; (de = readdir(d));)
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
			return false;
	return true;
}

static struct shim_exit read_exit(struct box *b)
{
	struct shim_exit x;
	struct err e = {0};
	assert_true(box_wait_gone(b));
	if (shim_read_exit(b->dir, &x, &e) < 0)
		fail_msg("exit.json: %s", e.text);
	return x;
}

// ---- the jail as the VMM sees it

static void vmm_sees_only_its_jail(void **state)
{
	struct box b;
	box_init(&b, &world, plain);
	start(&b);
	_cleanup_free_ char *r = box_ask(&b, "report");
	assert_non_null(r);
	uint32_t uid = b.spec.uid;
	expect_line(r, "host %s", b.id);
	expect_line(r, "cwd /");
	expect_line(r, "umask 77");
	expect_line(r, "status Uid:\t%u\t%u\t%u\t%u", uid, uid, uid, uid);
	expect_line(r, "status Gid:\t%u\t%u\t%u\t%u", uid, uid, uid, uid);
	expect_line(r, "status Groups:\t ");
	static const char *const sets[] = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"};
	for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
		expect_line(r, "status %s:\t0000000000000000", sets[i]);
	expect_line(r, "status NoNewPrivs:\t1");
	// NOROOT, NO_CAP_AMBIENT_RAISE, and all four locked
	expect_line(r, "securebits %d", 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x80);
	expect_line(r, "limit %-25s %-20d %-20d %-10s", "Max core file size", 0, 0, "bytes");
	expect_line(r, "limit %-25s %-20d %-20d %-10s", "Max open files", 4096, 4096, "files");
	expect_line(r, "limit %-25s %-20d %-20d %-10s", "Max processes", 512, 512, "processes");

	// Root, /usr, /run, /proc and the two files: nothing of the host's tree.
	assert_int_equal(count(r, "mount "), 6);
	expect_no(r, "/old_root");
	static const char *const ro[] = {" /usr ro,", " /vmlinux ro,"};
	for (size_t i = 0; i < ARRAY_SIZE(ro); i++)
		assert_int_equal(count(r, ro[i]), 1);
	static const char *const root[] = {
		"bin", "dev", "lib", "lib64", "proc", "rootfs.img", "run", "tmp", "usr", "vmlinux"};
	for (size_t i = 0; i < ARRAY_SIZE(root); i++)
		expect_line(r, "dir / %s", root[i]);
	assert_int_equal(count(r, "dir / "), ARRAY_SIZE(root));
	expect_line(r, "dir /run EACCES"); // 0711: may pass, may not list
	expect_no(r, "dir /dev kvm");

	// Of processes, only itself; of the host's facts in /proc, none.
	assert_int_equal(count(r, "dir /proc "), 3);
	expect_line(r, "dir /proc self");
	expect_line(r, "dir /proc thread-self");
	expect_line(r, "if lo");
	expect_line(r, "if tap0");
	assert_int_equal(count(r, "\nif "), 2);
	expect_line(r, "env PATH=/usr/bin");
	assert_int_equal(count(r, "\nenv "), 2);
	// stdin, stdout, stderr; its own listening socket, connection and directory
	assert_int_equal(count(r, "dir /proc/self/fd "), 6);
	box_done(&b);
}

static int listen_abstract(const char *name)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	size_t n = strlen(name);
	memcpy(sa.sun_path + 1, name, n);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
	assert_return_code(bind(fd, (struct sockaddr *)&sa, len), errno);
	assert_return_code(listen(fd, 1), errno);
	return fd;
}

static void vmm_cannot_get_out(void **state)
{
	static const struct {
		const char *what, *result;
	} expect[] = {
		{"mount", "EPERM"},
		{"remount", "EPERM"},
		{"umount", "EPERM"},
		{"mknod", "EPERM"},
		{"setuid", "EPERM"},
		{"setgid", "EPERM"},
		{"chroot", "EPERM"},
		{"unshare_mount", "EPERM"},
		{"kill_host", "ESRCH"},
		{"kill_shim", "EPERM"},
		{"stop_shim", "EPERM"},
		{"ptrace_shim", "EPERM"},
		{"shim_root", "ENOENT"},
		{"shim_mem", "ENOENT"},
		{"dotdot", "ENOENT"},
		{"sysctl", "ENOENT"},
		{"sysrq", "ENOENT"},
		{"meminfo", "ENOENT"},
		{"sys", "ENOENT"},
		{"shell", "ENOENT"},
		{"write_root", "EACCES"},
		{"write_usr", "EROFS"},
		{"write_kernel", "EROFS"},
		{"make_in_run", "EACCES"},
		{"unlink_sock", "EACCES"},
		{"rename_sock", "EACCES"},
		{"chmod_run", "EPERM"},
		{"kvm", "ENOENT"},
		{"raise_limit", "EPERM"},
		{"abstract", "ECONNREFUSED"},
		{"foreign_tap", "EPERM"},
		{"hostname", "EPERM"},
		{"raw_socket", "EPERM"},
		{"own_tap", "OK"},
		{"write_disk", "OK"},
		{"read_kernel", "OK"},
		{"write_tmp", "OK"},
		{"null", "OK"},
		{"urandom", "OK"},
		{"child_pagemap", "OK"},
		{"child_mem", "OK"},
	};
	_cleanup_close_ int outside = listen_abstract("stasis-shim-test-outside");
	assert_true(outside >= 0);
	struct box b;
	char command[32];
	box_init(&b, &world, plain);
	b.spec.uid = b.spec.gid = WORLD_UID; // the owner of the world's tap0
	start(&b);
	snprintf(command, sizeof command, "escape %d", (int)getpid());
	_cleanup_free_ char *r = box_ask(&b, command);
	assert_non_null(r);
	for (size_t i = 0; i < ARRAY_SIZE(expect); i++)
		expect_line(r, "%s %s", expect[i].what, expect[i].result);
	expect_line(r, "userfaultfd %s", access("/dev/userfaultfd", F_OK) == 0 ? "OK" : "ENOENT");
	box_done(&b);
}

static void kvm_node_is_there_only_when_asked_for(void **state)
{
	if (access("/dev/kvm", F_OK) < 0)
		skip();
	struct box b;
	box_init(&b, &world, plain);
	b.spec.kvm = true;
	start(&b);
	_cleanup_free_ char *r = box_ask(&b, "report");
	expect_line(r, "dir /dev kvm");
	box_done(&b);
}

// ---- how things end

static void end_of_the_vmm_is_recorded_with_its_cause(void **state)
{
	static const struct {
		const char *command, *cause, *detail;
		int status;
	} cases[] = {
		{"exit 0", "vmm_exit", "exit status 0: ending with 0", 0},
		{"exit 1", "vmm_crash", "exit status 1: ending with 1", 1 << 8},
		{"signal 9", "vmm_crash", "signal: killed", SIGKILL},
		{"signal 11", "vmm_crash", "signal: segmentation fault", SIGSEGV},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct box b;
		uint64_t before = clock_realtime_ns();
		box_init(&b, &world, plain);
		start(&b);
		assert_null(box_ask(&b, cases[i].command));
		struct shim_exit x = read_exit(&b);
		assert_string_equal(x.first, "vmm");
		assert_string_equal(x.cause, cases[i].cause);
		assert_string_equal(x.detail, cases[i].detail);
		assert_int_equal(x.status, cases[i].status);
		assert_true(x.at_ns > before && x.at_ns < clock_realtime_ns());
		box_done(&b);
	}
}

static void all_descendants_end_with_the_vmm(void **state)
{
	struct box b;
	box_init(&b, &world, plain);
	start(&b);
	_cleanup_free_ char *r = box_ask(&b, "orphan");
	assert_non_null(r);
	assert_int_equal(world_count_processes(b.spec.uid), 2);
	assert_null(box_ask(&b, "exit 0"));
	read_exit(&b);
	assert_int_equal(world_count_processes(b.spec.uid), 0);
	box_done(&b);
}

static void lost_pager_ends_the_vmm(void **state)
{
	static const char *const pager[] = {DUMMY, "--pager", NULL};
	struct box b;
	box_init(&b, &world, plain);
	b.spec.pager_argv = pager;
	start(&b);
	assert_int_equal(world_count_processes(b.spec.uid), 2);
	_cleanup_free_ char *path = str_printf("%s/run/pager.sock", b.dir);
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	assert_int_equal(str_format(sa.sun_path, sizeof sa.sun_path, "%s", path), 0);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_return_code(connect(fd, (struct sockaddr *)&sa, sizeof sa), errno);
	assert_int_equal(file_write_full(fd, "exit 0", 6), 0);
	struct shim_exit x = read_exit(&b);
	assert_string_equal(x.first, "pager");
	assert_string_equal(x.cause, "pager_lost");
	assert_int_equal(world_count_processes(b.spec.uid), 0);
	box_done(&b);
}

static void sigterm_is_recorded_as_killed(void **state)
{
	struct box b;
	box_init(&b, &world, plain);
	start(&b);
	assert_int_equal(proc_kill(b.pidfd, SIGTERM), 0);
	struct shim_exit x = read_exit(&b);
	assert_string_equal(x.first, "shim");
	assert_string_equal(x.cause, "killed");
	assert_int_equal(x.status, SIGTERM);
	box_done(&b);
}

static void vmm_that_ignores_sigterm_is_killed(void **state)
{
	static const char *const argv[] = {DUMMY, "--ignore-term", NULL};
	struct box b;
	box_init(&b, &world, argv);
	start(&b);
	assert_int_equal(proc_kill(b.pidfd, SIGTERM), 0);
	struct shim_exit x = read_exit(&b);
	assert_string_equal(x.cause, "killed");
	assert_int_equal(x.status, SIGKILL);
	box_done(&b);
}

static void stop_does_not_ask_the_vmm(void **state)
{
	static const char *const argv[] = {DUMMY, "--ignore-term", NULL};
	struct box b;
	struct err e = {0};
	box_init(&b, &world, argv);
	start(&b);
	assert_int_equal(shim_stop(b.dir, b.pidfd, &e), 0);
	assert_false(file_exists(AT_FDCWD, b.dir));
	box_done(&b); // a second stop is fine
}

// A process that is traced stays in its PID namespace until the tracer has seen its end, as one
// that is stuck in the kernel does.
static void sandbox_whose_processes_do_not_end_is_told_as_such(void **state)
{
	struct box b;
	struct err e = {0};
	box_init(&b, &world, plain);
	start(&b);
	pid_t vmm = b.state.vmm_pid;
	assert_return_code(ptrace(PTRACE_SEIZE, vmm, NULL, NULL), errno);
	assert_int_equal(shim_kill(b.dir, b.pidfd), 0);
	assert_int_equal(shim_wait_gone(b.dir, b.pidfd, 20, &e), -ETIMEDOUT);
	assert_int_equal(e.code, ERR_TIMEOUT);
	// The same after a restart of the server, when the lock is free already.
	assert_int_equal(shim_kill(b.dir, -1), 0);
	assert_int_equal(shim_wait_gone(b.dir, -1, 20, &e), -ETIMEDOUT);
	assert_true(file_exists(AT_FDCWD, b.dir));
	assert_int_equal(world_count_processes(b.spec.uid), 1);
	assert_int_equal(waitpid(vmm, NULL, __WALL), vmm);
	assert_int_equal(shim_wait_gone(b.dir, -1, 10000, &e), 0);
	assert_false(file_exists(AT_FDCWD, b.dir));
	assert_int_equal(shim_kill(b.dir, b.pidfd), 0);
	assert_int_equal(shim_kill(b.dir, -1), 0);
	box_done(&b);
}

static void killed_shim_takes_everything_along(void **state)
{
	struct box b;
	struct shim_state st;
	struct shim_exit x;
	struct err e = {0};
	int pidfd;
	box_init(&b, &world, plain);
	start(&b);
	_cleanup_close_ int vmm = proc_pidfd_open(b.state.vmm_pid);
	assert_true(vmm >= 0);
	assert_int_equal(proc_kill(b.pidfd, SIGKILL), 0);
	assert_true(box_wait_gone(&b));
	// By contract nothing is left when the shim's descriptor tells its end.
	assert_int_equal(proc_kill(vmm, 0), -ESRCH);
	assert_int_equal(world_count_processes(b.spec.uid), 0);
	assert_int_equal(shim_adopt(b.dir, &st, &pidfd, &e), -ESRCH);
	assert_int_equal(shim_read_exit(b.dir, &x, &e), -ENOENT);
	box_done(&b);
}

// ---- failing starts

static void start_fails(struct box *b, int timeout_ms, enum err_code code, const char *text)
{
	struct err e = {0};
	assert_true(box_start(b, &world, timeout_ms, &e) < 0);
	if (e.code != code || !strstr(e.text, text))
		fail_msg("expected '%s', got: %s", text, e.text);
	assert_int_equal(world_count_processes(b->spec.uid), 0);
	assert_true(directory_is_empty(b->dir));
	assert_int_equal(b->pidfd, -1);
}

static void vmm_that_ends_at_once_fails_the_start_with_its_last_line(void **state)
{
	static const char *const argv[] = {DUMMY, "--fail", NULL};
	struct box b;
	box_init(&b, &world, argv);
	start_fails(&b, 10000, ERR_INTERNAL,
		"before its API socket accepted: exit status 3: no such device ?[31m");
	box_done(&b);
}

static void missing_program_is_named(void **state)
{
	static const char *const argv[] = {"/usr/bin/nothing", NULL};
	struct box b;
	box_init(&b, &world, argv);
	start_fails(&b, 10000, ERR_INTERNAL, "start /usr/bin/nothing: No such file or directory");
	box_done(&b);
}

static void vmm_without_socket_times_out_and_is_undone(void **state)
{
	static const char *const argv[] = {DUMMY, "--no-socket", NULL};
	struct box b;
	box_init(&b, &world, argv);
	start_fails(&b, 200, ERR_TIMEOUT, "within 200 ms");
	box_done(&b);
}

static void missing_inputs_are_named_and_undone(void **state)
{
	struct box b;
	box_init(&b, &world, plain);
	const struct shim_spec good = b.spec;
	b.spec.netns = "/nonexistent/netns";
	start_fails(&b, 10000, ERR_NOT_FOUND, "network namespace /nonexistent/netns");
	b.spec = good;
	b.spec.runtime_dir = "/nonexistent/runtime";
	start_fails(&b, 10000, ERR_NOT_FOUND, "runtime /nonexistent/runtime");
	b.spec = good;
	b.spec.console_path = "/nonexistent/console.log";
	start_fails(&b, 10000, ERR_NOT_FOUND, "console log /nonexistent/console.log");
	b.spec = good;
	b.binds[0].source = "/nonexistent/kernel";
	start_fails(&b, 10000, ERR_NOT_FOUND, "/nonexistent/kernel");
	b.binds[0].source = "/dev/zero";
	start_fails(&b, 10000, ERR_INVALID, "/dev/zero: not a regular file");
	b.binds[0] = (struct shim_bind){world.kernel, "/usr/bin/x", false};
	start_fails(&b, 10000, ERR_INVALID, "binds[0].target");
	box_done(&b);
}

static void injected_faults_are_undone(void **state)
{
	static const char *const points[] = {"shim.before_jail", "shim.before_state"};
	for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
		struct box b;
		box_init(&b, &world, plain);
		_cleanup_free_ char *fail = str_printf("%s:fail", points[i]);
		_cleanup_free_ char *kill9 = str_printf("%s:kill", points[i]);
		setenv("STASIS_FAULT", fail, 1);
		start_fails(&b, 10000, ERR_INTERNAL, points[i]);
		setenv("STASIS_FAULT", kill9, 1);
		start_fails(&b, 10000, ERR_INTERNAL, "the shim was killed while starting");
		unsetenv("STASIS_FAULT");
		start(&b);
		box_done(&b);
	}
}

static void end_without_record_reads_as_killed_hard(void **state)
{
	struct box b;
	struct shim_exit x;
	setenv("STASIS_FAULT", "shim.before_exit:kill", 1);
	box_init(&b, &world, plain);
	start(&b);
	unsetenv("STASIS_FAULT");
	assert_null(box_ask(&b, "exit 0"));
	assert_true(box_wait_gone(&b));
	assert_int_equal(shim_read_exit(b.dir, &x, NULL), -ENOENT);
	box_done(&b);
}

static void bad_specification_files_are_refused_by_name(void **state)
{
	static const struct {
		const char *json, *error;
	} cases[] = {
		{"", "bad JSON"},
		{"{", "bad JSON"},
		{"[]", "not a JSON object"},
		{"{}", "id: missing"},
		{"{\"id\": 1}", "id: must be a text"},
		{"{\"colour\": 1}", "unknown field 'colour'"},
	};
	_cleanup_free_ char *path = str_printf("%s/bad.json", world.dir);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err e = {0};
		assert_int_equal(file_write_atomic(AT_FDCWD, path, cases[i].json,
					 strlen(cases[i].json), 0600),
			0);
		const char *argv[] = {world.shim, path, NULL};
		assert_true(proc_run(argv, NULL, 0, 10000, NULL, &e) < 0);
		if (!strstr(e.text, cases[i].error))
			fail_msg("expected '%s', got: %s", cases[i].error, e.text);
	}
	const char *absent[] = {world.shim, "/nonexistent/spec.json", NULL};
	struct err e = {0};
	assert_true(proc_run(absent, NULL, 0, 10000, NULL, &e) < 0);
	assert_non_null(strstr(e.text, "No such file"));
}

static void second_start_in_one_directory_is_refused(void **state)
{
	struct box b;
	struct err e = {0};
	struct shim_state st;
	int pidfd = -1;
	box_init(&b, &world, plain);
	start(&b);
	assert_true(shim_start(world.shim, &b.spec, 5000, &st, &pidfd, &e) < 0);
	assert_int_equal(e.code, ERR_CONFLICT);
	_cleanup_free_ char *r = box_ask(&b, "report");
	assert_non_null(r); // the first one is unharmed
	// The program itself refuses too, whatever its starter believes.
	_cleanup_free_ char *spec = str_printf("%s/spec.json", b.dir);
	const char *argv[] = {world.shim, spec, NULL};
	assert_true(proc_run(argv, NULL, 0, 10000, NULL, &e) < 0);
	assert_non_null(strstr(e.text, "already run by process"));
	box_done(&b);
}

// ---- restart of the server

static void sandbox_survives_its_starter_and_is_adopted(void **state)
{
	struct box b;
	struct err e = {0};
	box_init(&b, &world, plain);
	pid_t pid = fork();
	if (pid == 0)
		_exit(box_start(&b, &world, 10000, NULL) < 0);
	int status;
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	if (shim_adopt(b.dir, &b.state, &b.pidfd, &e) < 0)
		fail_msg("adopt: %s", e.text);
	assert_string_equal(b.state.id, b.id);
	assert_int_equal(b.state.uid, b.spec.uid);
	struct stat st;
	char path[64];
	snprintf(path, sizeof path, "/proc/%d", b.state.vmm_pid);
	assert_return_code(stat(path, &st), errno);
	assert_int_equal(st.st_uid, b.spec.uid);
	_cleanup_free_ char *r = box_ask(&b, "report");
	assert_non_null(r);
	assert_null(box_ask(&b, "exit 0"));
	struct shim_exit x = read_exit(&b);
	assert_string_equal(x.cause, "vmm_exit");
	box_done(&b);
}

static void adoption_checks_boot_and_start_time(void **state)
{
	struct box b;
	struct err e = {0};
	struct shim_state st;
	int pidfd = -1;
	_cleanup_strbuf_ struct strbuf good = {0};
	box_init(&b, &world, plain);
	assert_int_equal(shim_adopt(b.dir, &st, &pidfd, &e), -ESRCH); // never started
	start(&b);
	_cleanup_free_ char *path = str_printf("%s/state.json", b.dir);
	assert_int_equal(file_read(AT_FDCWD, path, 4096, &good), 0);
	static const char *const fields[] = {"\"start_time\":", "\"boot_id\":\""};
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		_cleanup_free_ char *bad = strdup(good.data);
		char *p = strstr(bad, fields[i]) + strlen(fields[i]);
		*p = *p == '1' ? '2' : '1';
		assert_int_equal(file_write_atomic(AT_FDCWD, path, bad, strlen(bad), 0600), 0);
		assert_int_equal(shim_adopt(b.dir, &st, &pidfd, &e), -ESRCH);
	}
	assert_int_equal(file_write_atomic(AT_FDCWD, path, good.data, good.len, 0600), 0);
	assert_int_equal(shim_adopt(b.dir, &st, &pidfd, &e), 0);
	close(pidfd);
	box_done(&b);
}

// A server killed in the middle of a start leaves no state.json; the lock still tells who runs.
static void stop_finds_a_shim_that_was_never_ready(void **state)
{
	static const char *const argv[] = {DUMMY, "--no-socket", NULL};
	struct box b;
	struct err e = {0};
	box_init(&b, &world, argv);
	_cleanup_close_ int events = inotify_init1(IN_CLOEXEC);
	_cleanup_close_ int log = open(b.console, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(log >= 0);
	assert_true(inotify_add_watch(events, b.console, IN_MODIFY) >= 0);
	pid_t pid = fork();
	if (pid == 0)
		_exit(box_start(&b, &world, 60000, NULL) < 0);
	char buf[4096];
	assert_true(read(events, buf, sizeof buf) > 0); // the VMM has said "up"
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(world_count_processes(b.spec.uid), 1);
	assert_int_equal(shim_stop(b.dir, -1, &e), 0);
	assert_int_equal(world_count_processes(b.spec.uid), 0);
	box_done(&b);
}

static void stop_of_what_never_ran_is_success(void **state)
{
	struct box b;
	struct err e = {0};
	box_init(&b, &world, plain);
	assert_int_equal(shim_stop(b.dir, -1, &e), 0);
	assert_int_equal(shim_stop(b.dir, -1, &e), 0);
	box_done(&b);
}

// ---- readiness, logs, many

static char state_of(int32_t pid)
{
	char path[64], line[512];
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	FILE *f = fopen(path, "re");
	assert_non_null(f);
	assert_non_null(fgets(line, sizeof line, f));
	fclose(f);
	return strrchr(line, ')')[2];
}

static void socket_that_listens_late_is_awaited(void **state)
{
	static const char *const argv[] = {DUMMY, "--late", NULL};
	struct box b;
	box_init(&b, &world, argv);
	start(&b);
	_cleanup_free_ char *r = box_ask(&b, "report");
	assert_non_null(r);
	// Then it sleeps: the time of the last try must not keep it running round and round.
	int naps = 0;
	for (int i = 0; i < 1000 && naps < 3; i++) {
		clock_sleep_ns(NSEC_PER_MSEC);
		naps += state_of(b.state.pid) == 'S';
	}
	assert_int_equal(naps, 3);
	box_done(&b);
}

// Firecracker's own lines are not among the guest's.
static void what_the_vmm_logs_is_kept_apart(void **state)
{
	static const char *const argv[] = {DUMMY, "--log", NULL};
	struct box b;
	struct stat st;
	box_init(&b, &world, argv);
	_cleanup_free_ char *path = str_printf("%s/vmm-%s.log", world.dir, b.id);
	_cleanup_free_ char *pipe = str_printf("%s" JAIL_VMM_LOG, b.dir);
	b.spec.vmm_log_path = path;
	start(&b);
	assert_int_equal(access(pipe, F_OK), -1); // nobody else can write there
	_cleanup_free_ char *r = box_ask(&b, "log 100000");
	assert_non_null(r);
	assert_null(box_ask(&b, "exit 7"));
	struct shim_exit x = read_exit(&b);
	assert_string_equal(x.detail, "exit status 7: ending with 7");
	_cleanup_strbuf_ struct strbuf c = {0}, l = {0};
	assert_int_equal(file_read(AT_FDCWD, b.console, 8192, &c), 0);
	assert_string_equal(c.data, "up\n");
	assert_int_equal(file_read(AT_FDCWD, path, 256u << 10, &l), 0); // bounded
	assert_true(str_ends(l.data, "log: 99999\nlog: end\n"));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	box_done(&b);
	unlink(path);
}

static void logs_are_bounded_and_keep_the_newest(void **state)
{
	struct box b;
	box_init(&b, &world, plain);
	b.spec.console_max = 8192;
	start(&b);
	_cleanup_free_ char *r = box_ask(&b, "flood 200000");
	assert_non_null(r);
	_cleanup_free_ char *r2 = box_ask(&b, "complain 100000");
	assert_non_null(r2);
	assert_null(box_ask(&b, "exit 7"));
	struct shim_exit x = read_exit(&b);
	assert_string_equal(x.detail, "exit status 7: ending with 7");
	_cleanup_free_ char *log = str_printf("%s/shim.log", b.dir);
	_cleanup_strbuf_ struct strbuf c = {0}, s = {0};
	assert_int_equal(file_read(AT_FDCWD, b.console, 8192, &c), 0);
	assert_true(c.len >= 4096);
	assert_true(str_ends(c.data, "line 199999\nthe end\n"));
	assert_int_equal(file_read(AT_FDCWD, log, 256u << 10, &s), 0);
	assert_non_null(strstr(s.data, "line 99999\nthe end\nending with 7\n"));
	assert_non_null(strstr(s.data, "ended first=vmm cause=vmm_crash"));
	struct stat st;
	assert_int_equal(stat(b.console, &st), 0);
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	box_done(&b);
}

struct one {
	struct box b;
	int rc;
	struct err e;
	pthread_t thread;
};

static void *start_one(void *arg)
{
	struct one *o = arg;
	o->rc = box_start(&o->b, &world, 30000, &o->e);
	return NULL;
}

static void twenty_start_at_once(void **state)
{
	struct one all[20] = {0};
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		box_init(&all[i].b, &world, plain);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		assert_int_equal(pthread_create(&all[i].thread, NULL, start_one, &all[i]), 0);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		pthread_join(all[i].thread, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		if (all[i].rc < 0)
			fail_msg("start %zu: %s", i, all[i].e.text);
		_cleanup_free_ char *r = box_ask(&all[i].b, "report");
		expect_line(r, "host %s", all[i].b.id);
		box_done(&all[i].b);
	}
}

// ---- runtime

static void runtime_is_built_once_and_holds_only_what_is_needed(void **state)
{
	struct err e = {0};
	_cleanup_free_ char *base = str_printf("%s/rt", world.dir), *a = NULL, *b = NULL;
	_cleanup_free_ char *extra = str_printf("%s=" JAIL_LIB "/kernel", world.kernel);
	// Of the distribution, and linked dynamically.
	const char *programs[] = {"/bin/bash", NULL}, *extras[] = {extra, NULL};
	if (world_tree(base, programs, extras, &a, &e) < 0)
		fail_msg("%s", e.text);
	struct stat st, st2;
	_cleanup_close_ int dir = open(a, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(fstatat(dir, "usr/bin/bash", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0555);
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(fstatat(dir, "usr/lib64/ld-linux-x86-64.so.2", &st, 0), 0);
	assert_int_equal(fstatat(dir, "usr/lib/x86_64-linux-gnu/libc.so.6", &st, 0), 0);
	assert_int_equal(fstatat(dir, "usr/lib/x86_64-linux-gnu/libtinfo.so.6", &st, 0), 0);
	assert_int_equal(fstatat(dir, "usr/lib/stasis/kernel", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0444);
	assert_int_equal(st.st_size, 4096);

	assert_int_equal(fstatat(dir, "usr/bin/bash", &st, 0), 0);
	assert_int_equal(world_tree(base, programs, extras, &b, &e), 0);
	assert_string_equal(a, b);
	assert_int_equal(fstatat(dir, "usr/bin/bash", &st2, 0), 0);
	assert_int_equal(st.st_ino, st2.st_ino); // not built again
}

// A release's file has its version in its name, and is started under the name that the jail knows.
static void program_has_another_name_in_the_jail(void **state)
{
	static const char *const names[] = {
		"firecracker-v1.16.1-x86_64", "fire=cracker", "fire cracker \"1\""};
	const char *programs[] = {NULL};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct err e = {0};
		struct stat st;
		_cleanup_free_ char *base = str_printf("%s/rt", world.dir), *dir = NULL;
		_cleanup_free_ char *program = str_printf("%s/%s", world.dir, names[i]);
		_cleanup_free_ char *pair = str_printf("%s=" JAIL_BIN "/firecracker", program);
		assert_int_equal(symlink(world.dummy, program), 0);
		const char *extras[] = {pair, NULL};
		if (world_tree(base, programs, extras, &dir, &e) < 0)
			fail_msg("%s", e.text);
		_cleanup_close_ int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
		assert_int_equal(fstatat(fd, "usr/bin/firecracker", &st, 0), 0);
		assert_int_equal(st.st_mode & 07777, 0555);
	}
}

static void runtime_refuses_what_it_cannot_hold(void **state)
{
	_cleanup_free_ char *base = str_printf("%s/rt", world.dir);
	_cleanup_free_ char *outside = str_printf("%s=/etc/passwd", world.kernel);
	_cleanup_free_ char *sneaky = str_printf("%s=/usr/../etc/x", world.kernel);
	const char *programs[] = {world.dummy, NULL}, *missing[] = {"/nonexistent/vmm", NULL};
	const char *bad[] = {outside, sneaky};
	char *dir = NULL;
	struct err e = {0};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *extras[] = {bad[i], NULL};
		assert_int_equal(world_tree(base, programs, extras, &dir, &e), -EINVAL);
		assert_non_null(strstr(e.text, "below /usr"));
	}
	assert_int_equal(world_tree(base, missing, NULL, &dir, &e), -ENOENT);
	assert_non_null(strstr(e.text, "/nonexistent/vmm"));
	assert_null(dir);
}

static int note_id(void *ctx, const char *id)
{
	char *all = ctx;
	strcat(strcat(all, id), " ");
	return 0;
}

static void tree_goes_unless_a_shim_uses_it(void **state)
{
	_cleanup_free_ char *base = str_printf("%s/rt2", world.dir);
	_cleanup_free_ char *trees = str_printf("%s/runtime", base);
	_cleanup_free_ char *half = str_printf("%s/.new.0011aabb", trees);
	char *dirs[2] = {0}, all[256] = "";
	struct err e = {0};
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		_cleanup_free_ char *extra = str_printf("%s=" JAIL_LIB "/file%zu", world.kernel, i);
		const char *programs[] = {world.dummy, NULL}, *extras[] = {extra, NULL};
		assert_int_equal(world_tree(base, programs, extras, &dirs[i], &e), 0);
	}
	assert_string_not_equal(dirs[0], dirs[1]);
	_cleanup_close_ int used = open(dirs[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(used, LOCK_SH | LOCK_NB), 0); // as a running shim does
	assert_int_equal(shim_tree_remove(trees, strrchr(dirs[0], '/') + 1, &e), -EBUSY);
	assert_int_equal(shim_tree_remove(trees, strrchr(dirs[1], '/') + 1, &e), 0);
	assert_int_equal(shim_tree_remove(trees, strrchr(dirs[1], '/') + 1, &e), 0);
	assert_int_equal(shim_tree_remove(trees, "../..", &e), -EINVAL);
	assert_int_equal(
		mkdir(half, 0700), 0); // of one that was killed while it made or removed it
	assert_int_equal(shim_tree_list(trees, true, note_id, all, &e), 0);
	assert_int_equal(strlen(all), SHIM_TREE_ID_SIZE);
	assert_non_null(strstr(dirs[0], strtok(all, " ")));
	assert_false(file_exists(AT_FDCWD, half));
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		free(dirs[i]);
}

// Files of the same content are one tree, wherever and whenever they were made; one that is changed
// in place is another.
static void tree_is_named_by_its_content(void **state)
{
	_cleanup_free_ char *base = str_printf("%s/rt3", world.dir);
	_cleanup_free_ char *file = str_printf("%s/data", world.dir);
	_cleanup_free_ char *copy = str_printf("%s/copy", world.dir);
	const char *programs[] = {world.dummy, NULL};
	struct err e = {0};
	char *dirs[4] = {0};
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		const char *from = i == 2 ? copy : file, *text = i == 3 ? "TWO" : "one";
		_cleanup_free_ char *extra = str_printf("%s=" JAIL_LIB "/data", from);
		const char *extras[] = {extra, NULL};
		assert_int_equal(file_write_atomic(AT_FDCWD, from, text, 3, 0600), 0);
		if (world_tree(base, programs, extras, &dirs[i], &e) < 0)
			fail_msg("%s", e.text);
	}
	assert_string_equal(dirs[0], dirs[1]);
	assert_string_equal(dirs[0], dirs[2]);
	assert_string_not_equal(dirs[0], dirs[3]);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		free(dirs[i]);
	unlink(file);
	unlink(copy);
}

// In a child, which is killed at the point.
static void killed_at(const char *point, const char *base, const char *remove)
{
	pid_t pid = fork();
	if (pid == 0) {
		char *dir = NULL;
		_cleanup_free_ char *trees = str_printf("%s/runtime", base);
		_cleanup_free_ char *fault = str_printf("%s:kill", point);
		const char *programs[] = {world.dummy, NULL};
		if (fault_setup(fault, NULL) < 0)
			_exit(1);
		if (remove)
			shim_tree_remove(trees, remove, NULL);
		else
			world_tree(base, programs, NULL, &dir, NULL);
		_exit(2);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

static int count_id(void *ctx, const char *id)
{
	++*(unsigned *)ctx;
	return 0;
}

static unsigned count_trees(const char *base)
{
	unsigned n = 0;
	_cleanup_free_ char *trees = str_printf("%s/runtime", base);
	assert_int_equal(shim_tree_list(trees, true, count_id, &n, NULL), 0);
	return n;
}

// The power may go at any point: a tree that has its name is whole, and nothing else stays.
static void tree_is_whole_or_not_there(void **state)
{
	_cleanup_free_ char *base = str_printf("%s/rt4", world.dir);
	_cleanup_free_ char *trees = str_printf("%s/runtime", base), *dir = NULL, *again = NULL;
	const char *programs[] = {world.dummy, NULL};
	struct err e = {0};
	assert_int_equal(mkdir(base, 0700), 0);
	killed_at("runtime.before_name", base, NULL);
	assert_int_equal(count_trees(base), 0);
	killed_at("runtime.after_name", base, NULL);
	assert_int_equal(count_trees(base), 1);
	assert_int_equal(world_tree(base, programs, NULL, &dir, &e), 0);
	killed_at("runtime.before_remove", base, strrchr(dir, '/') + 1);
	assert_int_equal(count_trees(base), 0);
	assert_int_equal(world_tree(base, programs, NULL, &again, &e), 0);
	assert_string_equal(dir, again);
	// Nothing but the tree and the directories that it is in.
	_cleanup_closedir_ DIR *d = opendir(trees);
	size_t n = 0;
	while (readdir(d))
		n++;
	assert_int_equal(n, 3);
}

static void running_shim_keeps_its_runtime(void **state)
{
	struct box b;
	box_init(&b, &world, plain);
	start(&b);
	_cleanup_close_ int fd = open(world.runtime, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), -1);
	assert_int_equal(errno, EWOULDBLOCK);
	assert_int_equal(shim_stop(b.dir, b.pidfd, NULL), 0);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	box_done(&b);
}

static int setup(void **state)
{
	return world_init(&world, getenv("STASIS_SHIM"), getenv("STASIS_DUMMY_VMM"));
}

static int teardown(void **state)
{
	return world_done(&world);
}

int main(void)
{
	if (geteuid() != 0 || access("/dev/net/tun", F_OK) < 0) {
		printf("skipped: needs root and /dev/net/tun\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vmm_sees_only_its_jail),
		cmocka_unit_test(vmm_cannot_get_out),
		cmocka_unit_test(kvm_node_is_there_only_when_asked_for),
		cmocka_unit_test(end_of_the_vmm_is_recorded_with_its_cause),
		cmocka_unit_test(all_descendants_end_with_the_vmm),
		cmocka_unit_test(lost_pager_ends_the_vmm),
		cmocka_unit_test(sigterm_is_recorded_as_killed),
		cmocka_unit_test(vmm_that_ignores_sigterm_is_killed),
		cmocka_unit_test(stop_does_not_ask_the_vmm),
		cmocka_unit_test(sandbox_whose_processes_do_not_end_is_told_as_such),
		cmocka_unit_test(killed_shim_takes_everything_along),
		cmocka_unit_test(vmm_that_ends_at_once_fails_the_start_with_its_last_line),
		cmocka_unit_test(missing_program_is_named),
		cmocka_unit_test(vmm_without_socket_times_out_and_is_undone),
		cmocka_unit_test(missing_inputs_are_named_and_undone),
		cmocka_unit_test(injected_faults_are_undone),
		cmocka_unit_test(end_without_record_reads_as_killed_hard),
		cmocka_unit_test(bad_specification_files_are_refused_by_name),
		cmocka_unit_test(second_start_in_one_directory_is_refused),
		cmocka_unit_test(sandbox_survives_its_starter_and_is_adopted),
		cmocka_unit_test(adoption_checks_boot_and_start_time),
		cmocka_unit_test(stop_finds_a_shim_that_was_never_ready),
		cmocka_unit_test(stop_of_what_never_ran_is_success),
		cmocka_unit_test(socket_that_listens_late_is_awaited),
		cmocka_unit_test(what_the_vmm_logs_is_kept_apart),
		cmocka_unit_test(logs_are_bounded_and_keep_the_newest),
		cmocka_unit_test(twenty_start_at_once),
		cmocka_unit_test(runtime_is_built_once_and_holds_only_what_is_needed),
		cmocka_unit_test(program_has_another_name_in_the_jail),
		cmocka_unit_test(runtime_refuses_what_it_cannot_hold),
		cmocka_unit_test(tree_goes_unless_a_shim_uses_it),
		cmocka_unit_test(tree_is_named_by_its_content),
		cmocka_unit_test(tree_is_whole_or_not_there),
		cmocka_unit_test(running_shim_keeps_its_runtime),
	};
	return cmocka_run_group_tests_name("shim", tests, setup, teardown);
}
