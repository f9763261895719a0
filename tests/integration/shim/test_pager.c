// SPDX-License-Identifier: Apache-2.0
// A VMM and the real stasis-pager in one jail: files, rights, signals, and who is held to have
// ended first. Needs root and /dev/userfaultfd.
#include "world.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/proc.h"
#include "base/str.h"
#include "snapshot/ingest.h"
#include "snapshot/working_set.h"

#define MEMORY (8u << 20)
#define BASE_BLOCKS 64u
#define LAYERS 40u // one on top of the other; each later one has one block
#define MANY 500u  // of a longer chain that goes on from there

static struct world world;
static struct image {
	_Alignas(16) char layer[MANY][UUID_SIZE];
	char *dir, *header, *long_header, *working_set;
	int layers_fd;
} image;

// ---- the image

static uint8_t byte_of(uint32_t block)
{
	return block < LAYERS && block > 0 ? (uint8_t)(block + 70) : block < BASE_BLOCKS ? 1 : 0;
}

static uint8_t byte_of_many(uint32_t block)
{
	return block >= LAYERS && block < MANY ? (uint8_t)(block % 120 + 1) : byte_of(block);
}

static void write_diff(const char *path, uint32_t from, uint32_t blocks, uint8_t byte)
{
	uint8_t data[SNAPSHOT_BLOCK];
	// As a VMM with its umask writes it.
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fchown(fd, WORLD_UID, WORLD_UID), 0);
	assert_int_equal(ftruncate(fd, MEMORY), 0);
	memset(data, byte, sizeof data);
	for (uint32_t i = from; i < from + blocks; i++)
		assert_int_equal(
			pwrite(fd, data, sizeof data, (off_t)i * SNAPSHOT_BLOCK), sizeof data);
}

static int image_init(void)
{
	struct err e = {0};
	char id[UUID_SIZE];
	_cleanup_(header_freep) struct header *h = NULL;
	image.dir = str_printf("%s/layers", world.dir);
	image.header = str_printf("%s/memory.hdr", world.dir);
	image.long_header = str_printf("%s/long.hdr", world.dir);
	image.working_set = str_printf("%s/working_set", world.dir);
	_cleanup_free_ char *diff = str_printf("%s/diff", world.dir);
	if (mkdir(image.dir, 0700) < 0)
		return -errno;
	image.layers_fd = open(image.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	id_new_uuid(id);
	assert_int_equal(header_new_zero(MEMORY, id, &h, &e), 0);
	mode_t mask = umask(077); // whatever the server's
	for (uint32_t i = 0; i < MANY; i++) {
		struct header *child = NULL;
		if (i == LAYERS)
			assert_int_equal(header_write(AT_FDCWD, image.header, h, &e), 0);
		id_new_uuid(image.layer[i]);
		id_new_uuid(id);
		write_diff(diff, i, i ? 1 : BASE_BLOCKS, i ? byte_of_many(i) : 1);
		if (layer_ingest(AT_FDCWD, diff, image.layers_fd, image.layer[i], h, id, &child,
			    NULL, &e) < 0)
			fail_msg("%s", e.text);
		header_free(h);
		h = child;
	}
	assert_int_equal(header_write(AT_FDCWD, image.long_header, h, &e), 0);
	umask(mask);
	struct working_set w;
	_cleanup_strbuf_ struct strbuf text = {0};
	working_set_init(&w, h);
	assert_int_equal(working_set_add(&w, 0, 8), 0);
	assert_int_equal(working_set_encode(&w, &text), 0);
	working_set_done(&w);
	return file_write_atomic(AT_FDCWD, image.working_set, text.data, text.len, 0444);
}

// ---- a sandbox with a pager

static const char *const vmm[] = {JAIL_BIN "/dummy-vmm", NULL};
static const char *const pager[] = {JAIL_BIN "/stasis-pager", "--socket", JAIL_PAGER_SOCK,
	"--header", JAIL_HEADER, "--layers", JAIL_LAYERS, "--working-set", JAIL_WORKING_SET,
	"--record", JAIL_SNAP "/working_set", "--stats", JAIL_SNAP "/stats", NULL};

struct lazy {
	struct box b;
	struct shim_bind binds[4 + 2 * MANY];
	char *snap, *texts[4 * MANY];
	size_t n_texts;
};

static const char *keep(struct lazy *z, char *text)
{
	assert_non_null(text);
	return z->texts[z->n_texts++] = text;
}

static void lazy_init_layers(struct lazy *z, const char *header, uint32_t layers)
{
	static const char *const suffix[] = {"", ".sum"};
	*z = (struct lazy){0};
	box_init(&z->b, &world, vmm);
	z->snap = str_printf("%s/snap-%s", world.dir, z->b.id);
	assert_int_equal(mkdir(z->snap, 0755), 0);
	size_t n = 0;
	z->binds[n++] = z->b.binds[0];
	z->binds[n++] = z->b.binds[1];
	z->binds[n++] = (struct shim_bind){header, JAIL_HEADER, false};
	z->binds[n++] = (struct shim_bind){image.working_set, JAIL_WORKING_SET, false};
	for (uint32_t i = 0; i < layers; i++)
		for (int s = 0; s < 2; s++)
			z->binds[n++] = (struct shim_bind){
				keep(z, str_printf(
						"%s/%s%s", image.dir, image.layer[i], suffix[s])),
				keep(z, str_printf(JAIL_LAYERS "/%s%s", image.layer[i], suffix[s])),
				false};
	z->b.spec.binds = z->binds;
	z->b.spec.n_binds = n;
	z->b.spec.pager_argv = pager;
	z->b.spec.snap_dir = z->snap;
}

static void lazy_init(struct lazy *z)
{
	lazy_init_layers(z, image.header, LAYERS);
}

static void lazy_start(struct lazy *z)
{
	struct err e = {0};
	lazy_init(z);
	if (box_start(&z->b, &world, 10000, &e) < 0)
		fail_msg("start: %s", e.text);
}

static void lazy_done(struct lazy *z)
{
	box_done(&z->b);
	assert_int_equal(file_rm_rf(AT_FDCWD, z->snap), 0);
	free(z->snap);
	for (size_t i = 0; i < z->n_texts; i++)
		free(z->texts[i]);
}

static void ask(struct lazy *z, const char *command, const char *answer)
{
	_cleanup_free_ char *r = box_ask(&z->b, command);
	if (!r || strncmp(r, answer, strlen(answer)) != 0)
		fail_msg("%s: expected '%s', got '%s'", command, answer, r ? r : "(nothing)");
}

static void expect_byte(struct lazy *z, uint32_t block, uint8_t byte)
{
	char command[32], answer[32];
	snprintf(command, sizeof command, "touch %u", block * SNAPSHOT_BLOCK + 100);
	snprintf(answer, sizeof answer, "byte %d\n", byte);
	ask(z, command, answer);
}

static void touch(struct lazy *z, uint32_t block)
{
	expect_byte(z, block, byte_of(block));
}

static void load(struct lazy *z)
{
	char command[32];
	snprintf(command, sizeof command, "load %u", MEMORY);
	ask(z, command, "load OK\n");
}

static struct shim_exit read_exit(struct lazy *z)
{
	struct shim_exit x;
	struct err e = {0};
	assert_true(box_wait_gone(&z->b));
	if (shim_read_exit(z->b.dir, &x, &e) < 0)
		fail_msg("exit.json: %s", e.text);
	return x;
}

// The pager's number on the host: of the sandbox's two processes, the one that is not the VMM.
static pid_t pager_pid(const struct lazy *z)
{
	_cleanup_closedir_ DIR *d = opendir("/proc");
	for (struct dirent *de; (de = readdir(d));) {
		struct stat st;
		uint64_t pid;
		if (str_to_u64(de->d_name, INT32_MAX, &pid) == 0 &&
			fstatat(dirfd(d), de->d_name, &st, 0) == 0 && st.st_uid == z->b.spec.uid &&
			(pid_t)pid != z->b.state.vmm_pid)
			return (pid_t)pid;
	}
	fail_msg("no pager");
	return -1;
}

// ---- the tests

static void memory_comes_from_the_layers_as_an_unprivileged_user(void **state)
{
	struct lazy z;
	lazy_start(&z);
	load(&z);
	for (uint32_t block = 0; block < BASE_BLOCKS + 8; block++)
		touch(&z, block);
	touch(&z, MEMORY / SNAPSHOT_BLOCK - 1);
	lazy_done(&z);
}

static void chain_of_hundreds_of_layers_is_served(void **state)
{
	struct lazy z;
	struct err e = {0};
	lazy_init_layers(&z, image.long_header, MANY);
	z.b.spec.pager_argv = pager;
	if (box_start(&z.b, &world, 60000, &e) < 0)
		fail_msg("start: %s", e.text);
	load(&z);
	for (uint32_t block = 0; block < MANY + 8; block++)
		expect_byte(&z, block, byte_of_many(block));
	lazy_done(&z);
}

static void snap_directory_is_the_sandboxs_and_holds_no_programs(void **state)
{
	struct lazy z;
	struct stat st;
	lazy_init(&z);
	_cleanup_free_ char *program = str_printf("%s/program", z.snap);
	assert_int_equal(file_write_atomic(AT_FDCWD, program, "#!", 2, 0755), 0);
	struct err e = {0};
	if (box_start(&z.b, &world, 10000, &e) < 0)
		fail_msg("start: %s", e.text);
	ask(&z, "leave", "leave OK\nleave_program EACCES\n");
	assert_int_equal(stat(z.snap, &st), 0);
	assert_int_equal(st.st_uid, z.b.spec.uid);
	assert_int_equal(st.st_mode & 07777, 0700);
	_cleanup_free_ char *left = str_printf("%s/left", z.snap);
	assert_int_equal(stat(left, &st), 0);
	assert_int_equal(st.st_uid, z.b.spec.uid);
	_cleanup_free_ char *r = box_ask(&z.b, "report");
	const char *mount = strstr(r, " /snap ");
	assert_non_null(mount);
	assert_int_equal(strncmp(mount, " /snap rw,nosuid,nodev,noexec", 29), 0);
	lazy_done(&z);
}

static void snap_directory_must_be_a_directory(void **state)
{
	struct lazy z;
	struct err e = {0};
	lazy_init(&z);
	_cleanup_free_ char *link = str_printf("%s/link", world.dir);
	assert_int_equal(symlink(z.snap, link), 0);
	const char *const bad[] = {link, image.header, "/nonexistent/snap"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		z.b.spec.snap_dir = bad[i];
		assert_true(box_start(&z.b, &world, 10000, &e) < 0);
		if (!strstr(e.text, bad[i]))
			fail_msg("%s", e.text);
	}
	assert_int_equal(unlink(link), 0);
	lazy_done(&z);
}

static void poked_pager_leaves_record_and_figures(void **state)
{
	struct lazy z;
	lazy_start(&z);
	load(&z);
	touch(&z, 20);
	_cleanup_close_ int events = inotify_init1(IN_CLOEXEC);
	assert_true(inotify_add_watch(events, z.snap, IN_MOVED_TO) >= 0);
	assert_int_equal(shim_poke_pager(z.b.pidfd), 0);
	_cleanup_free_ char *record = str_printf("%s/working_set", z.snap);
	_cleanup_free_ char *stats = str_printf("%s/stats", z.snap);
	while (!file_exists(AT_FDCWD, stats)) { // the second of the two
		char buf[4096];
		assert_true(read(events, buf, sizeof buf) > 0);
	}
	struct working_set w;
	struct err e = {0};
	assert_int_equal(working_set_read(AT_FDCWD, record, NULL, &w, &e), 0);
	assert_int_equal(working_set_bytes(&w), 9 * SNAPSHOT_BLOCK);
	working_set_done(&w);
	_cleanup_strbuf_ struct strbuf text = {0};
	assert_int_equal(file_read(AT_FDCWD, stats, 65536, &text), 0);
	assert_non_null(strstr(text.data, "\"note\":\"\""));
	touch(&z, 21); // it serves on
	lazy_done(&z);
}

static void poke_without_a_pager_does_nothing(void **state)
{
	struct lazy z;
	lazy_init(&z);
	z.b.spec.pager_argv = NULL;
	struct err e = {0};
	assert_int_equal(box_start(&z.b, &world, 10000, &e), 0);
	assert_int_equal(shim_poke_pager(z.b.pidfd), 0);
	_cleanup_free_ char *r = box_ask(&z.b, "report");
	assert_non_null(r);
	assert_null(box_ask(&z.b, "exit 0"));
	assert_string_equal(read_exit(&z).cause, "vmm_exit");
	assert_int_equal(shim_poke_pager(z.b.pidfd), -ESRCH);
	lazy_done(&z);
}

static void expect_exit(struct lazy *z, const char *first, const char *cause, const char *detail)
{
	struct shim_exit x = read_exit(z);
	if (strcmp(x.first, first) != 0 || strcmp(x.cause, cause) != 0 || !strstr(x.detail, detail))
		fail_msg("expected %s %s '%s', got %s %s '%s'", first, cause, detail, x.first,
			x.cause, x.detail);
	assert_int_equal(world_count_processes(z->b.spec.uid), 0);
}

// Often enough that each may be reaped first.
static void end_of_the_vmm_is_its_own_whatever_the_pager_does(void **state)
{
	static const struct {
		const char *command, *cause, *detail;
	} cases[] = {{"exit 0", "vmm_exit", "exit status 0"},
		{"exit 4", "vmm_crash", "exit status 4: ending with 4"},
		{"signal 9", "vmm_crash", "signal: killed"}};
	for (int i = 0; i < 30; i++) {
		struct lazy z;
		lazy_start(&z);
		if (i % 2) { // else the pager still waits for the connection
			load(&z);
			touch(&z, 1);
		}
		assert_null(box_ask(&z.b, cases[i % 3].command));
		expect_exit(&z, "vmm", cases[i % 3].cause, cases[i % 3].detail);
		lazy_done(&z);
	}
}

static void ended_vm_leaves_the_pagers_figures(void **state)
{
	struct lazy z;
	lazy_start(&z);
	load(&z);
	touch(&z, 30);
	assert_null(box_ask(&z.b, "exit 0"));
	expect_exit(&z, "vmm", "vmm_exit", "exit status 0");
	_cleanup_free_ char *stats = str_printf("%s/stats", z.snap);
	assert_true(file_exists(AT_FDCWD, stats));
	lazy_done(&z);
}

static void killed_pager_is_the_cause_though_the_vmm_ends_too(void **state)
{
	for (int i = 0; i < 10; i++) {
		struct lazy z;
		lazy_start(&z);
		load(&z);
		touch(&z, 1);
		_cleanup_close_ int pidfd = proc_pidfd_open(pager_pid(&z));
		if (i % 2) { // the VMM sees the pager's end and ends itself at once
			pid_t pid = fork();
			if (pid == 0) {
				proc_kill(pidfd, SIGKILL);
				_exit(0);
			}
			box_ask(&z.b, "exit_after_pager 1");
			int status;
			assert_int_equal(waitpid(pid, &status, 0), pid);
		} else {
			assert_int_equal(proc_kill(pidfd, SIGKILL), 0);
		}
		expect_exit(&z, "pager", "pager_lost", "signal: killed");
		lazy_done(&z);
	}
}

static void damaged_block_ends_the_vm_and_names_layer_and_offset(void **state)
{
	struct lazy z;
	_cleanup_free_ char *path = str_printf("%s/%s", image.dir, image.layer[0]);
	_cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
	lazy_start(&z);
	load(&z);
	assert_int_equal(pwrite(fd, "\x02", 1, 50 * SNAPSHOT_BLOCK + 7), 1);
	assert_null(box_ask(&z.b, "touch 204800"));
	_cleanup_free_ char *detail = str_printf(
		"exit status 1: stasis-pager: layers/%s: block at offset 204800", image.layer[0]);
	expect_exit(&z, "pager", "pager_lost", detail);
	lazy_done(&z);
	assert_int_equal(pwrite(fd, "\x01", 1, 50 * SNAPSHOT_BLOCK + 7), 1);
}

static void pager_that_cannot_start_fails_the_start_with_its_reason(void **state)
{
	struct lazy z;
	struct err e = {0};
	lazy_init(&z);
	z.b.spec.n_binds--; // the sums of the last layer
	assert_true(box_start(&z.b, &world, 10000, &e) < 0);
	_cleanup_free_ char *text = str_printf(
		"the pager ended before its socket accepted: exit status 1: stasis-pager: "
		"layers/%s.sum: No such file",
		image.layer[LAYERS - 1]);
	if (!strstr(e.text, text))
		fail_msg("%s", e.text);
	assert_int_equal(world_count_processes(z.b.spec.uid), 0);
	lazy_done(&z);
}

static void broken_off_hand_shake_ends_a_vmm_that_stays(void **state)
{
	struct lazy z;
	lazy_start(&z);
	ask(&z, "break_off", "break_off OK\n");
	expect_exit(&z, "pager", "pager_lost", "exit status 3: stasis-pager: hand-shake:");
	lazy_done(&z);
}

static void asked_to_stop_is_killed_with_a_pager_too(void **state)
{
	struct lazy z;
	lazy_start(&z);
	load(&z);
	assert_int_equal(proc_kill(z.b.pidfd, SIGTERM), 0);
	struct shim_exit x = read_exit(&z);
	assert_string_equal(x.first, "shim");
	assert_string_equal(x.cause, "killed");
	lazy_done(&z);
}

static void files_of_an_image_can_be_read_by_any_jail(void **state)
{
	static const char *const suffix[] = {"", ".sum"};
	for (uint32_t i = 0; i < LAYERS; i++)
		for (int s = 0; s < 2; s++) {
			struct stat st;
			_cleanup_free_ char *path =
				str_printf("%s/%s%s", image.dir, image.layer[i], suffix[s]);
			assert_int_equal(stat(path, &st), 0);
			assert_int_equal(st.st_mode & 07777, 0444);
			assert_int_equal(st.st_uid, 0);
			assert_int_equal(st.st_gid, 0);
		}
}

static int setup(void **state)
{
	int rc = world_init(&world, getenv("STASIS_SHIM"), getenv("STASIS_DUMMY_VMM"));
	return rc < 0 ? rc : image_init();
}

static int teardown(void **state)
{
	safe_close(image.layers_fd);
	free(image.dir);
	free(image.header);
	free(image.long_header);
	free(image.working_set);
	return world_done(&world);
}

int main(void)
{
	if (geteuid() != 0 || access("/dev/net/tun", F_OK) < 0 ||
		access("/dev/userfaultfd", F_OK) < 0) {
		printf("skipped: needs root, /dev/net/tun and /dev/userfaultfd\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_comes_from_the_layers_as_an_unprivileged_user),
		cmocka_unit_test(chain_of_hundreds_of_layers_is_served),
		cmocka_unit_test(snap_directory_is_the_sandboxs_and_holds_no_programs),
		cmocka_unit_test(snap_directory_must_be_a_directory),
		cmocka_unit_test(poked_pager_leaves_record_and_figures),
		cmocka_unit_test(poke_without_a_pager_does_nothing),
		cmocka_unit_test(end_of_the_vmm_is_its_own_whatever_the_pager_does),
		cmocka_unit_test(ended_vm_leaves_the_pagers_figures),
		cmocka_unit_test(killed_pager_is_the_cause_though_the_vmm_ends_too),
		cmocka_unit_test(damaged_block_ends_the_vm_and_names_layer_and_offset),
		cmocka_unit_test(pager_that_cannot_start_fails_the_start_with_its_reason),
		cmocka_unit_test(broken_off_hand_shake_ends_a_vmm_that_stays),
		cmocka_unit_test(asked_to_stop_is_killed_with_a_pager_too),
		cmocka_unit_test(files_of_an_image_can_be_read_by_any_jail),
	};
	return cmocka_run_group_tests_name("shim and pager", tests, setup, teardown);
}
