// SPDX-License-Identifier: Apache-2.0
// Our client of Firecracker's API with a VMM that runs: client_calls PROGRAM [ARGUMENT...], which
// is fcqemu in make test, and a real Firecracker in the KVM lab. Its calls are those of the
// product, and what other clients send: a Full snapshot, a load that resumes nothing, a PATCH of
// the drive after it. The texts of refusals are the same of both. STASIS_TEST_VMLINUX and
// STASIS_TEST_INITRD name the guest; without them: 77.
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/file.h"
#include "vmm/vmm.h"

#define LIMIT_MS 300000 // a dead man's switch

static char **program;
static char dir[] = "/tmp/stasis-client-calls.XXXXXX";

struct machine {
	pid_t pid;
	struct vmm *vmm;
};

static int begin(void **state)
{
	struct machine *m = calloc(1, sizeof *m);
	struct err e = {0};
	struct stat st;
	unlink("api.sock");
	m->pid = fork();
	assert_true(m->pid >= 0);
	if (m->pid == 0) {
		int log = open("output", O_WRONLY | O_CREAT | O_TRUNC, 0600);
		dup2(log, STDOUT_FILENO);
		dup2(log, STDERR_FILENO);
		execv(program[0], program);
		_exit(127);
	}
	uint64_t end = clock_monotonic_ns() + LIMIT_MS * NSEC_PER_MSEC;
	enum vmm_state is;
	assert_int_equal(vmm_new("api.sock", &m->vmm, &e), 0);
	while ((stat("api.sock", &st) < 0 || vmm_get_state(m->vmm, &is, &e) < 0) &&
		clock_monotonic_ns() < end)
		usleep(20000);
	*state = m;
	return 0;
}

static int end(void **state)
{
	struct machine *m = *state;
	kill(m->pid, SIGKILL);
	waitpid(m->pid, NULL, 0);
	vmm_free(m->vmm);
	free(m);
	return 0;
}

#define OK(call) ok(call, &e, #call)
static void ok(int rc, const struct err *e, const char *call)
{
	if (rc < 0)
		fail_msg("%s: %s", call, e->text);
}

#define REFUSED(call, says) refused(call, &e, says)
static void refused(int rc, const struct err *e, const char *says)
{
	assert_true(rc < 0);
	assert_string_equal(e->text, says);
}

static void assert_state(struct vmm *v, enum vmm_state wanted)
{
	struct err e = {0};
	enum vmm_state is;
	OK(vmm_get_state(v, &is, &e));
	assert_int_equal(is, wanted);
}

static void configure(struct vmm *v)
{
	struct err e = {0};
	const struct vmm_machine machine = {.vcpus = 1, .memory_mib = 128, .track_dirty = true};
	const struct vmm_boot boot = {
		.kernel = "vmlinux", .initrd = "initrd", .args = "console=ttyS0 quiet"};
	const struct vmm_drive drive = {.id = "rootfs", .path = "disk"};
	OK(vmm_put_machine(v, &machine, &e));
	OK(vmm_put_boot(v, &boot, &e));
	OK(vmm_put_drive(v, &drive, &e));
	OK(vmm_put_entropy(v, &e));
}

static off_t blocks(const char *path)
{
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 128 << 20);
	return st.st_blocks;
}

#define FAULT(text) "status 400: {\"fault_message\":\"" text "\"}"

static void a_running_guest_is_saved(void **state)
{
	struct vmm *v = ((struct machine *)*state)->vmm;
	struct err e = {0};
	assert_state(v, VMM_NOT_STARTED);
	configure(v);
	OK(vmm_start(v, &e));
	assert_state(v, VMM_RUNNING);
	REFUSED(vmm_snapshot_create(v, "state", "mem", false, &e),
		"PUT /snapshot/create: " FAULT(
			"Create snapshot error: Cannot save the microVM state: Operation not "
			"allowed: save/restore unavailable while running"));
	REFUSED(vmm_start(v, &e),
		"PUT /actions: " FAULT(
			"The requested operation is not supported after starting the microVM."));
	OK(vmm_pause(v, &e));
	OK(vmm_pause(v, &e)); // once more is no fault
	assert_state(v, VMM_PAUSED);
	OK(vmm_snapshot_create(v, "state", "mem", false, &e));
	OK(vmm_snapshot_create(v, "state2", "mem2", true, &e));
	assert_true(blocks("mem2") <
		    blocks("mem")); // a Full tells all, a Diff after it next to nothing
	OK(vmm_resume(v, &e));
	assert_state(v, VMM_RUNNING);
}

static struct vmm_load by_file(bool resume)
{
	return (struct vmm_load){.state_path = "state",
		.backend = VMM_BACKEND_FILE,
		.backend_path = "mem",
		.track_dirty = true,
		.resume = resume};
}

static void a_load_is_patched_before_it_runs(void **state)
{
	struct vmm *v = ((struct machine *)*state)->vmm;
	struct err e = {0};
	const struct vmm_load load = by_file(false);
	OK(vmm_snapshot_load(v, &load, &e));
	assert_state(v, VMM_PAUSED);
	REFUSED(vmm_patch_drive(v, "rootfs", "missing", &e),
		"PATCH /drives/rootfs: " FAULT(
			"Drive config error: Unable to patch the block device: Block: Virtio "
			"backend error: Error manipulating the backing file: No such file or "
			"directory (os error 2) missing Please verify the request arguments."));
	OK(vmm_patch_drive(v, "rootfs", "other", &e));
	OK(vmm_resume(v, &e));
	assert_state(v, VMM_RUNNING);
	OK(vmm_pause(v, &e));
	OK(vmm_snapshot_create(v, "state3", "mem3", true, &e));
	assert_true(blocks("mem3") < blocks("mem"));
	OK(vmm_resume(v, &e));
	REFUSED(vmm_snapshot_load(v, &load, &e),
		"PUT /snapshot/load: " FAULT(
			"The requested operation is not supported after starting the microVM."));
}

static void a_load_can_resume(void **state)
{
	struct vmm *v = ((struct machine *)*state)->vmm;
	struct err e = {0};
	const struct vmm_load load = by_file(true);
	OK(vmm_snapshot_load(v, &load, &e));
	assert_state(v, VMM_RUNNING);
}

static void what_is_not_there_is_said(void **state)
{
	struct machine *m = *state;
	struct err e = {0};
	struct vmm_load load = by_file(false);
	int status;
	REFUSED(vmm_resume(m->vmm, &e),
		"PATCH /vm: " FAULT(
			"The requested operation is not supported before starting the microVM."));
	load.state_path = "missing";
	REFUSED(vmm_snapshot_load(m->vmm, &load, &e),
		"PUT /snapshot/load: " FAULT(
			"Load snapshot error: Failed to restore from snapshot: Failed to get "
			"snapshot state from file: Failed to open snapshot file: No such file or "
			"directory (os error 2)"));
	// A load that failed ends it.
	assert_int_equal(waitpid(m->pid, &status, 0), m->pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

static void wrong_configurations_are_refused(void **state)
{
	struct vmm *v = ((struct machine *)*state)->vmm;
	struct err e = {0};
	const struct vmm_machine machine = {.vcpus = 33, .memory_mib = 128};
	const struct vmm_drive drive = {.id = "rootfs", .path = "missing"};
	const struct vmm_boot boot = {.kernel = "missing", .args = ""};
	const struct vmm_load load = by_file(false);
	REFUSED(vmm_put_machine(v, &machine, &e),
		"PUT /machine-config: " FAULT(
			"Machine config error: The number of vCPUs must be greater than 0, less "
			"than 32 and must be 1 or an even number if SMT is enabled."));
	REFUSED(vmm_put_drive(v, &drive, &e),
		"PUT /drives/rootfs: " FAULT(
			"Drive config error: Unable to create the virtio block device: Virtio "
			"backend error: Error manipulating the backing file: No such file or "
			"directory (os error 2) missing"));
	REFUSED(vmm_put_boot(v, &boot, &e),
		"PUT /boot-source: " FAULT("Boot source error: The kernel file cannot be opened: "
					   "No such file or directory (os error 2)"));
	REFUSED(vmm_start(v, &e),
		"PUT /actions: " FAULT("Start microvm error: Cannot start microvm without kernel "
				       "configuration."));
	REFUSED(vmm_snapshot_load(v, &load, &e),
		"PUT /snapshot/load: " FAULT(
			"Load snapshot error: Loading a microVM snapshot not allowed after "
			"configuring boot-specific resources."));
}

static int prepare(void **state)
{
	const char *const names[] = {"vmlinux", "initrd"}, *const disks[] = {"disk", "other"};
	const char *const from[] = {getenv("STASIS_TEST_VMLINUX"), getenv("STASIS_TEST_INITRD")};
	for (int i = 0; i < 2; i++) {
		if (symlink(from[i], names[i]) < 0)
			return -1;
		_cleanup_close_ int fd = open(disks[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 || ftruncate(fd, (i + 1) << 20) < 0)
			return -1;
	}
	return 0;
}

static int clean(void **state)
{
	file_rm_rf(AT_FDCWD, dir);
	return 0;
}

int main(int argc, char **argv)
{
	if (!getenv("STASIS_TEST_VMLINUX") || !getenv("STASIS_TEST_INITRD")) {
		printf("SKIPPED: STASIS_TEST_VMLINUX and STASIS_TEST_INITRD name no guest\n");
		return 77;
	}
	program = calloc((size_t)argc + 4, sizeof *program);
	// Paths of this directory; the programs are started in another.
	for (int i = 1; i < argc; i++)
		program[i - 1] = access(argv[i], F_OK) == 0 ? realpath(argv[i], NULL) : argv[i];
	const char *const more[] = {"--api-sock", "api.sock", "--id", "client"};
	for (int i = 0; i < 4; i++)
		program[argc - 1 + i] = (char *)more[i];
	if (argc < 2 || !mkdtemp(dir) || chdir(dir) < 0)
		return 1;
#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
		T(a_running_guest_is_saved),
		T(a_load_is_patched_before_it_runs),
		T(a_load_can_resume),
		T(what_is_not_there_is_said),
		T(wrong_configurations_are_refused),
	};
	return cmocka_run_group_tests(tests, prepare, clean);
}
