// SPDX-License-Identifier: Apache-2.0
// Debian's QEMU in the jail with nothing but the trees that shim_tree_build makes for it.
// QEMU's QMP socket takes the place of the API socket. Needs root and qemu-system-x86_64; the boot
// needs a kernel in STASIS_TEST_VMLINUX.
#include "world.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

#define QEMU_HOST "/usr/bin/qemu-system-x86_64"
#define QEMU JAIL_BIN "/qemu-system-x86_64"
#define QMP "unix:" JAIL_API_SOCK ",server=on,wait=off"
#define START_MS 60000 // emulation on a busy machine

static struct world world;
static struct shim_tree own;

static void qemu_box(struct box *b, const char *const *argv)
{
	box_init(b, &world, argv);
	b->spec.runtime_dir = world.runtime;
	b->spec.own_dir = own.dir;
}

static void connect_qmp(struct box *b, FILE **ret)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	char line[512];
	assert_int_equal(shim_api_socket_path(b->dir, sa.sun_path, NULL), 0);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_return_code(connect(fd, (struct sockaddr *)&sa, sizeof sa), errno);
	FILE *f = fdopen(fd, "r+");
	assert_non_null(f);
	assert_non_null(fgets(line, sizeof line, f)); // greeting
	assert_non_null(strstr(line, "QMP"));
	*ret = f;
}

static void qemu_prints_its_version(void **state)
{
	static const char *const argv[] = {QEMU, "--version", NULL};
	struct box b;
	struct err e = {0};
	_cleanup_strbuf_ struct strbuf c = {0};
	qemu_box(&b, argv);
	assert_true(box_start(&b, &world, START_MS, &e) < 0);
	assert_non_null(strstr(e.text, "before its API socket accepted: exit status 0"));
	assert_int_equal(file_read(AT_FDCWD, b.console, 65536, &c), 0);
	assert_true(str_starts(c.data, "QEMU emulator version"));
	box_done(&b);
}

static void microvm_machine_starts_and_quits(void **state)
{
	static const char *const argv[] = {QEMU, "-M", "microvm,pit=on,pic=on,rtc=on,acpi=on",
		"-accel", "tcg", "-cpu", "max,svm=off,vmx=off,pmu=off", "-m", "64", "-nodefaults",
		"-no-user-config", "-nographic", "-S", "-drive",
		"id=d0,file=" JAIL_ROOTFS ",format=raw,if=none", "-device",
		"virtio-blk-device,drive=d0", "-netdev",
		"tap,id=n0,ifname=tap0,script=no,downscript=no", "-device",
		"virtio-net-device,netdev=n0", "-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-qmp",
		QMP, NULL};
	struct box b;
	struct err e = {0};
	struct shim_exit x;
	FILE *qmp;
	qemu_box(&b, argv);
	b.spec.uid = b.spec.gid = WORLD_UID; // the owner of the world's tap0
	if (box_start(&b, &world, START_MS, &e) < 0)
		fail_msg("start: %s", e.text);
	connect_qmp(&b, &qmp);
	fprintf(qmp, "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}\n");
	fflush(qmp);
	assert_true(box_wait_gone(&b));
	fclose(qmp);
	assert_int_equal(shim_read_exit(b.dir, &x, &e), 0);
	assert_string_equal(x.cause, "vmm_exit");
	box_done(&b);
}

// A kernel without a root panics; with panic=-1 and -no-reboot QEMU ends then.
static void kernel_boots_and_its_panic_is_seen(void **state)
{
	static const char *const argv[] = {QEMU, "-M", "microvm,pit=on,pic=on,rtc=on,acpi=on",
		"-accel", "tcg", "-cpu", "max,svm=off,vmx=off,pmu=off", "-m", "256", "-nodefaults",
		"-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio", "-kernel",
		JAIL_KERNEL, "-append",
		"console=ttyS0 panic=-1 reboot=t tsc_early_khz=2000000 tsc=reliable", "-qmp", QMP,
		NULL};
	const char *kernel = getenv("STASIS_TEST_VMLINUX");
	struct box b;
	struct err e = {0};
	struct shim_exit x;
	if (!kernel || access(kernel, R_OK) < 0) {
		print_message("skipped: STASIS_TEST_VMLINUX names no kernel\n");
		skip();
	}
	_cleanup_free_ char *real = realpath(kernel, NULL);
	qemu_box(&b, argv);
	b.binds[0].source = real;
	if (box_start(&b, &world, START_MS, &e) < 0)
		fail_msg("start: %s", e.text);
	for (int i = 0; i < 12 && !box_wait_gone(&b); i++)
		;
	assert_int_equal(shim_read_exit(b.dir, &x, &e), 0);
	assert_string_equal(x.cause, "vmm_exit");
	assert_string_equal(shim_judge_console(b.console), "guest_panic");
	box_done(&b);
}

// One request; the status.
static int put(struct box *b, const char *path, const char *body)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	char text[4096];
	int status = 0;
	assert_int_equal(shim_api_socket_path(b->dir, sa.sun_path, NULL), 0);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_return_code(connect(fd, (struct sockaddr *)&sa, sizeof sa), errno);
	dprintf(fd, "PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s", path,
		strlen(body), body);
	ssize_t n = read(fd, text, sizeof text - 1);
	assert_true(n > 0);
	text[n] = '\0';
	assert_int_equal(sscanf(text, "HTTP/1.1 %d", &status), 1);
	if (status != 204)
		print_error("PUT %s: %s\n", path, text);
	return status;
}

// The adapter, its preload and QEMU together: what the product runs.
static void fcqemu_boots_a_kernel(void **state)
{
	static const char *const argv[] = {JAIL_OWN_BIN "/fcqemu", "--api-sock", JAIL_API_SOCK,
		"--qemu", QEMU, "--ramhook", JAIL_OWN_LIB "/ramhook.so", NULL};
	const char *kernel = getenv("STASIS_TEST_VMLINUX");
	struct box b;
	struct err e = {0};
	struct shim_exit x;
	if (!kernel || access(kernel, R_OK) < 0) {
		print_message("skipped: STASIS_TEST_VMLINUX names no kernel\n");
		skip();
	}
	_cleanup_free_ char *real = realpath(kernel, NULL);
	qemu_box(&b, argv);
	b.binds[0].source = real;
	if (box_start(&b, &world, START_MS, &e) < 0)
		fail_msg("start: %s", e.text);
	assert_int_equal(
		put(&b, "/machine-config",
			"{\"vcpu_count\":1,\"mem_size_mib\":256,\"track_dirty_pages\":true}"),
		204);
	assert_int_equal(put(&b, "/boot-source",
				 "{\"kernel_image_path\":\"" JAIL_KERNEL
				 "\",\"boot_args\":\"console=ttyS0 panic=-1 reboot=t\"}"),
		204);
	assert_int_equal(put(&b, "/actions", "{\"action_type\":\"InstanceStart\"}"), 204);
	for (int i = 0; i < 12 && !box_wait_gone(&b); i++)
		;
	assert_int_equal(shim_read_exit(b.dir, &x, &e), 0);
	assert_string_equal(x.cause, "vmm_exit");
	assert_string_equal(shim_judge_console(b.console), "guest_panic");
	box_done(&b);
}

static int setup(void **state)
{
	struct err e = {0};
	int rc = world_init(&world, getenv("STASIS_SHIM"), getenv("STASIS_DUMMY_VMM"));
	_cleanup_(shim_files_free) char **qemu = shim_qemu_files(QEMU_HOST);
	const char *ours[] = {getenv("STASIS_FCQEMU"), NULL};
	const char *hook[] = {getenv("STASIS_RAMHOOK_SO"), NULL};
	if (rc < 0)
		return rc;
	free(world.runtime);
	world.runtime = NULL;
	rc = world_tree(world.dir, NULL, (const char *const *)qemu, &world.runtime, &e);
	_cleanup_free_ char *trees = str_printf("%s/programs", world.dir);
	if (rc == 0)
		rc = shim_tree_build(
			trees, &(struct shim_files){.programs = ours, .alone = hook}, &own, &e);
	if (rc < 0)
		print_error("%s\n", e.text);
	return rc;
}

static int teardown(void **state)
{
	free(own.dir);
	return world_done(&world);
}

int main(void)
{
	if (geteuid() != 0 || access("/dev/net/tun", F_OK) < 0 || access(QEMU_HOST, X_OK) < 0) {
		printf("skipped: needs root, /dev/net/tun and " QEMU_HOST "\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(qemu_prints_its_version),
		cmocka_unit_test(microvm_machine_starts_and_quits),
		cmocka_unit_test(kernel_boots_and_its_panic_is_seen),
		cmocka_unit_test(fcqemu_boots_a_kernel),
	};
	return cmocka_run_group_tests_name("shim: qemu", tests, setup, teardown);
}
