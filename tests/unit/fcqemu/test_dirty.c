// SPDX-License-Identifier: Apache-2.0
// The dirty rule, each clause, on the memory of another process that lies under the real hook: for
// a booted guest, one loaded by file and one loaded by userfaultfd (this program is its page
// server). Arguments: the process that plays QEMU, ramhook.so.
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <unistd.h>
#include "../check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/missing.h"
#include "base/proc.h"
#include "base/str.h"
#include "fcqemu/dirty.h"
#include "fcqemu/hook.h"
#include "fcqemu/loaded.h"
#include "snapshot/header.h"
#include "vm_process.h"

#define PAGES 4096u
#define SIZE ((uint64_t)PAGES * DIRTY_PAGE)
#define TIMEOUT_MS 30000

enum backend { BOOT, FILE_MAP, LAZY };
static const char *const backends[] = {"boot", "file", "uffd"};
static const char *vm_program, *ramhook;

struct vm {
	enum backend backend;
	pid_t pid;
	int pidfd, commands, hook, uffd, stop[2];
	uint64_t hook_id;
	pthread_t pager;
	bool pager_runs;
	struct dirty_source source;
	struct loaded loaded;
	char header_path[96];
	uint64_t diff_bytes; // of the last diff
	// Each page's one byte value: in the image loaded, the last snapshot's, the guest's.
	uint8_t loaded_value[PAGES], parent[PAGES], now[PAGES];
	bool dropped[PAGES]; // as the page server was told
	char dir[64];
};

// Whether this kernel gives a page of its own to a reader of memory nobody has written, instead of
// the shared page of zeros: it counts as written then, and the diff holds zeros there.
static bool reads_allocate;

static uint8_t parent_value(enum backend b, uint32_t page)
{
	return b == BOOT || page % 5 == 0 ? 0 : (uint8_t)(page % 250 + 1);
}

// ---- the page server

static void serve_fault(struct vm *v, uint64_t address)
{
	uint8_t page[DIRTY_PAGE];
	uint64_t at = address & ~(uint64_t)(DIRTY_PAGE - 1);
	uint64_t i = (at - v->source.base) / DIRTY_PAGE;
	uint8_t value = v->dropped[i] ? 0 : v->loaded_value[i];
	if (value == 0) {
		struct uffdio_zeropage z = {.range = {at, DIRTY_PAGE}};
		ioctl(v->uffd, UFFDIO_ZEROPAGE, &z);
		return;
	}
	memset(page, value, sizeof page);
	struct uffdio_copy c = {
		.dst = at, .src = (uintptr_t)page, .len = DIRTY_PAGE, .mode = UFFDIO_COPY_MODE_WP};
	ioctl(v->uffd, UFFDIO_COPY, &c);
}

static void *serve(void *arg)
{
	struct vm *v = arg;
	struct pollfd pf[] = {
		{.fd = v->uffd, .events = POLLIN}, {.fd = v->stop[0], .events = POLLIN}};
	for (;;) {
		struct uffd_msg m;
		if (poll(pf, 2, -1) < 0 || pf[1].revents)
			return NULL;
		if (read(v->uffd, &m, sizeof m) != sizeof m)
			continue;
		if (m.event == UFFD_EVENT_PAGEFAULT)
			serve_fault(v, m.arg.pagefault.address);
		else if (m.event == UFFD_EVENT_REMOVE)
			for (uint64_t a = m.arg.remove.start; a < m.arg.remove.end; a += DIRTY_PAGE)
				v->dropped[(a - v->source.base) / DIRTY_PAGE] = true;
	}
}

static void pager_start(struct vm *v)
{
	assert_int_equal(pipe2(v->stop, O_CLOEXEC), 0);
	assert_int_equal(pthread_create(&v->pager, NULL, serve, v), 0);
	v->pager_runs = true;
}

static void pager_end(struct vm *v)
{
	if (!v->pager_runs)
		return;
	close(v->stop[1]);
	pthread_join(v->pager, NULL);
	close(v->stop[0]);
	v->pager_runs = false;
}

static int receive_uffd(int socket)
{
	char text[1024];
	struct iovec iov = {text, sizeof text};
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof control.buf};
	int fd = -1;
	assert_true(recvmsg(socket, &msg, MSG_CMSG_CLOEXEC) > 0);
	assert_non_null(CMSG_FIRSTHDR(&msg));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
	return fd;
}

// ---- the machine

static int open_backend(struct vm *v, int *ret_socket)
{
	int p[2];
	*ret_socket = -1;
	if (v->backend == BOOT)
		return open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (v->backend == LAZY) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p), 0);
		*ret_socket = p[0];
		return p[1];
	}
	char path[96];
	snprintf(path, sizeof path, "%s/parent", v->dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	for (uint32_t i = 0; i < PAGES; i++) {
		uint8_t page[DIRTY_PAGE];
		memset(page, v->loaded_value[i], sizeof page);
		assert_int_equal(file_write_full(fd, page, sizeof page), 0);
	}
	return fd;
}

// The loaded image as the page server's files: pages of zeros, the others in two layers, by turns
// of 16.
static void write_layers(struct vm *v)
{
	static const char *const ids[] = {
		"11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"};
	struct err e = {0};
	struct header *h, *child;
	struct header_range *ranges = calloc(PAGES, sizeof *ranges);
	assert_non_null(ranges);
	assert_int_equal(header_new_zero(SIZE, ids[0], &h, &e), 0);
	for (unsigned k = 0; k < 2; k++) {
		char path[160];
		size_t n = 0;
		snprintf(path, sizeof path, "%s/%s", v->dir, ids[k]);
		_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		assert_int_equal(ftruncate(fd, (off_t)SIZE), 0);
		for (uint32_t i = 0; i < PAGES; i++) {
			uint8_t page[DIRTY_PAGE];
			if (v->loaded_value[i] == 0 || i / 16 % 2 != k)
				continue;
			memset(page, v->loaded_value[i], sizeof page);
			assert_int_equal(
				pwrite(fd, page, sizeof page, (off_t)i * DIRTY_PAGE), DIRTY_PAGE);
			ranges[n++] =
				(struct header_range){(uint64_t)i * DIRTY_PAGE, DIRTY_PAGE, false};
		}
		assert_int_equal(header_overlay(h, ids[k], ids[k], ranges, n, &child, &e), 0);
		header_free(h);
		h = child;
	}
	assert_int_equal(header_write(AT_FDCWD, v->header_path, h, &e), 0);
	header_free(h);
	free(ranges);
}

static void vm_know_loaded(struct vm *v)
{
	static const enum loaded_kind kinds[] = {LOADED_NOTHING, LOADED_FILE, LOADED_IMAGE};
	char path[96];
	snprintf(path, sizeof path, "%s/parent", v->dir);
	snprintf(v->header_path, sizeof v->header_path, "%s/memory.hdr", v->dir);
	v->loaded = (struct loaded){.kind = kinds[v->backend],
		.file = v->backend == FILE_MAP ? open(path, O_RDONLY | O_CLOEXEC) : -1,
		.header_path = v->header_path,
		.layers_path = v->dir};
	if (v->backend == LAZY)
		write_layers(v);
}

static void vm_start(struct vm *v, enum backend backend)
{
	*v = (struct vm){.backend = backend, .pidfd = -1, .uffd = -1};
	for (uint32_t i = 0; i < PAGES; i++)
		v->now[i] = v->parent[i] = v->loaded_value[i] = parent_value(backend, i);
	snprintf(v->dir, sizeof v->dir, "/var/tmp/fcqemu-dirty-XXXXXX");
	assert_non_null(mkdtemp(v->dir));
	int report[2], commands[2], control[2], lazy;
	assert_int_equal(pipe2(report, O_CLOEXEC), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, commands), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control), 0);
	int removed = memfd_create("removed", MFD_CLOEXEC);
	assert_int_equal(ftruncate(removed, PAGES / 8), 0);
	int memory = open_backend(v, &lazy);
	_cleanup_free_ char *preload = str_printf("LD_PRELOAD=%s", ramhook);
	_cleanup_free_ char *size = str_printf("%llu", (unsigned long long)SIZE);
	_cleanup_free_ char *hook =
		str_printf("STASIS_RAMHOOK=%s:%s:4:5:6:7", backends[backend], size);
	const char *const argv[] = {vm_program, size, NULL}, *const env[] = {preload, hook, NULL};
	const struct proc_fd_map fds[] = {
		{report[1], 4}, {removed, 5}, {memory, 6}, {control[1], 7}};
	struct err e = {0};
	assert_int_equal(proc_spawn(&(struct proc_spawn){.argv = argv,
					    .env = env,
					    .stdin_fd = commands[1],
					    .stdout_fd = -1,
					    .stderr_fd = -1,
					    .fds = fds,
					    .n_fds = 4,
					    .death_signal = SIGKILL},
				 &v->pid, &v->pidfd, &e),
		0);
	close(report[1]);
	close(commands[1]);
	close(control[1]);
	close(memory);
	char line[256];
	ssize_t n = read(report[0], line, sizeof line - 1);
	assert_true(n > 0);
	line[n] = '\0';
	unsigned long long base, bytes;
	int tracking;
	if (sscanf(line, "ok %llu %llu %d", &base, &bytes, &tracking) != 3)
		fail_msg("the hook says: %s", line);
	close(report[0]);
	void *bits = mmap(NULL, PAGES / 8, PROT_READ | PROT_WRITE, MAP_SHARED, removed, 0);
	assert_ptr_not_equal(bits, MAP_FAILED);
	close(removed);
	v->source = (struct dirty_source){v->pid, base, bytes, tracking, backend == FILE_MAP, bits};
	v->commands = commands[0];
	v->hook = control[0];
	vm_know_loaded(v);
	if (backend == LAZY) {
		v->uffd = receive_uffd(lazy);
		close(lazy);
		pager_start(v);
	}
}

static void vm_end(struct vm *v)
{
	if (v->pidfd >= 0) {
		proc_kill(v->pidfd, SIGKILL);
		proc_wait(v->pidfd, -1, NULL);
		close(v->pidfd);
	}
	pager_end(v);
	safe_close(v->uffd);
	close(v->commands);
	close(v->hook);
	munmap((void *)v->source.removed, PAGES / 8);
	loaded_done(&v->loaded);
	file_rm_rf(AT_FDCWD, v->dir);
}

static void vm_do(struct vm *v, char op, uint32_t page, uint32_t count, uint8_t value)
{
	struct vm_command c = {.op = op, .value = value, .page = page, .count = count};
	int ok = 0;
	assert_int_equal(write(v->commands, &c, sizeof c), sizeof c);
	assert_int_equal(read(v->commands, &ok, sizeof ok), sizeof ok);
	assert_int_equal(ok, 1);
	if (op == 'w')
		memset(v->now + page, value, count);
	if (op == 'd')
		memset(v->now + page, 0, count);
}

// Which pages are dirty: '.' not, 'd' data, 'z' zeros.
static void vm_scan(struct vm *v, char out[PAGES + 1])
{
	struct dirty_list l = {0};
	struct err e = {0};
	if (dirty_scan(&v->source, &l, &e) < 0)
		fail_msg("%s", e.text);
	memset(out, '.', PAGES);
	out[PAGES] = '\0';
	uint64_t last = 0, bytes = 0;
	for (size_t i = 0; i < l.n; i++) {
		assert_true(i == 0 || l.v[i].offset >= last);
		last = l.v[i].offset + l.v[i].length;
		bytes += l.v[i].length;
		assert_true(last <= SIZE && l.v[i].length > 0);
		memset(out + l.v[i].offset / DIRTY_PAGE, l.v[i].zero ? 'z' : 'd',
			l.v[i].length / DIRTY_PAGE);
	}
	assert_int_equal(bytes, l.bytes);
	dirty_list_done(&l);
}

static void vm_expect(struct vm *v, const char *what, uint32_t page, const char *pattern)
{
	char got[PAGES + 1], want[PAGES + 1];
	vm_scan(v, got);
	memset(want, '.', PAGES);
	memcpy(want + page, pattern, strlen(pattern));
	want[PAGES] = '\0';
	for (uint32_t i = 0; i < PAGES; i++)
		if (got[i] != want[i])
			fail_msg("%s, %s: page %u is '%c', not '%c'", backends[v->backend], what, i,
				got[i], want[i]);
}

static void vm_reset(struct vm *v)
{
	struct err e = {0};
	if (dirty_reset(&v->source, &e) < 0)
		fail_msg("%s", e.text);
}

// Writes a diff, or all, and overlays the parent with it: that must be what the guest has. The
// data extents of a diff are the dirty pages. Then the result is the next parent.
static void vm_snapshot(struct vm *v, bool full)
{
	struct dirty_list l = {0};
	struct err e = {0};
	char path[96];
	struct dirty_range all = {0, SIZE, false};
	snprintf(path, sizeof path, "%s/diff", v->dir);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)SIZE), 0);
	assert_int_equal(dirty_scan(&v->source, &l, &e), 0);
	if (!l.exact)
		loaded_drop_same(&v->loaded, &v->source, &l);
	loaded_note(&v->loaded, SIZE, full ? NULL : &l);
	v->diff_bytes = l.bytes;
	if (hook_write(v->hook, &v->hook_id, fd, full ? &all : l.v, full ? 1 : l.n, full,
		    TIMEOUT_MS, &e) < 0)
		fail_msg("%s", e.text);
	uint8_t image[PAGES];
	memcpy(image, v->parent, PAGES);
	if (full)
		memset(image, 0, PAGES);
	uint64_t data = 0;
	for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0;) {
		off_t end = lseek(fd, at, SEEK_HOLE);
		for (; at < end; at += DIRTY_PAGE, data += DIRTY_PAGE) {
			uint8_t page[DIRTY_PAGE];
			assert_int_equal(pread(fd, page, sizeof page, at), sizeof page);
			for (size_t i = 1; i < sizeof page; i++)
				assert_int_equal(page[i], page[0]);
			image[at / DIRTY_PAGE] = page[0];
		}
	}
	if (!full)
		assert_int_equal(data, l.bytes);
	for (uint32_t i = 0; i < PAGES; i++)
		if (image[i] != v->now[i])
			fail_msg("%s: page %u is %u in the image, not %u", backends[v->backend], i,
				image[i], v->now[i]);
	close(fd);
	dirty_list_done(&l);
	vm_reset(v);
	memcpy(v->parent, v->now, PAGES);
}

#define FOR_EACH_BACKEND(v)                                                                        \
	for (enum backend b = BOOT; b <= LAZY; b++)                                                \
		for (bool _on = (vm_start(&(v), b), need_tracking(&(v)), true); _on;               \
			_on = (vm_end(&(v)), false))

static void need_tracking(struct vm *v)
{
	if (v->source.tracking)
		return;
	vm_end(v);
	print_message("this kernel has no asynchronous write-protect (needs 6.7)\n");
	skip();
}

// ---- tests

static void never_touched_and_read_pages_are_clean(void **state)
{
	struct vm v;
	FOR_EACH_BACKEND(v)
	{
		vm_expect(&v, "untouched", 0, "");
		vm_do(&v, 'r', 0, 100, 0);
		if (v.backend != BOOT || !reads_allocate)
			vm_expect(&v, "read", 0, "");
	}
}

static void written_pages_are_dirty(void **state)
{
	struct vm v;
	FOR_EACH_BACKEND(v)
	{
		vm_do(&v, 'w', 7, 2, 9);
		vm_expect(&v, "written", 7, "dd");
		vm_do(&v, 'r', 20, 10, 0);
		vm_do(&v, 'w', 21, 1, 9);
		vm_do(&v, 'w', PAGES - 1, 1, 9);
		vm_snapshot(&v, false);
		vm_expect(&v, "after the reset", 0, "");
	}
}

static void pages_zeroed_by_the_guest_are_data(void **state)
{
	struct vm v;
	FOR_EACH_BACKEND(v)
	{
		vm_do(&v, 'w', 10, 3, 1);
		vm_snapshot(&v, false);
		vm_do(&v, 'w', 11, 1, 0);
		vm_do(&v, 'w', 100, 1, 0); // never touched before
		vm_do(&v, 'w', 101, 1, 1);
		vm_do(&v, 'w', 101, 1, 0);
		char got[PAGES + 1];
		vm_scan(&v, got);
		assert_int_equal(got[10], '.');
		assert_int_equal(got[11], 'd');
		assert_int_equal(got[100], 'd');
		assert_int_equal(got[101], 'd');
		vm_snapshot(&v, false);
	}
}

static void second_generation_has_only_what_came_after(void **state)
{
	struct vm v;
	FOR_EACH_BACKEND(v)
	{
		vm_do(&v, 'w', 0, 600, 3);
		vm_snapshot(&v, false);
		vm_do(&v, 'r', 0, v.backend == BOOT ? 600 : 700, 0);
		vm_expect(&v, "read after the reset", 0, "");
		vm_do(&v, 'w', 300, 1, 4);
		vm_do(&v, 'w', 650, 1, 4);
		char got[PAGES + 1];
		vm_scan(&v, got);
		for (uint32_t i = 0; i < PAGES; i++)
			assert_int_equal(got[i], i == 300 || i == 650 ? 'd' : '.');
		vm_snapshot(&v, false);
	}
}

// More regions than one call of the kernel's scan returns.
static void every_other_page_is_found_once(void **state)
{
	struct vm v;
	FOR_EACH_BACKEND(v)
	{
		for (uint32_t i = 1; i < PAGES; i += 2)
			vm_do(&v, 'w', i, 1, 5);
		char got[PAGES + 1];
		vm_scan(&v, got);
		for (uint32_t i = 0; i < PAGES; i++)
			assert_int_equal(got[i], i % 2 ? 'd' : '.');
		vm_snapshot(&v, false);
		vm_expect(&v, "after the reset", 0, "");
	}
}

static void removed_pages_are_dirty_zeros(void **state)
{
	struct vm v;
	FOR_EACH_BACKEND(v)
	{
		vm_do(&v, 'w', 64, 4, 6);
		vm_snapshot(&v, false);
		vm_do(&v, 'd', 65, 2, 0);
		vm_do(&v, 'd', 130, 1, 0); // never touched
		if (v.backend != BOOT || !reads_allocate)
			vm_do(&v, 'r', 66, 1, 0); // the zero page is mapped again
		char got[PAGES + 1], zero = v.backend == FILE_MAP ? 'd' : 'z';
		vm_scan(&v, got);
		for (uint32_t i = 0; i < PAGES; i++)
			assert_int_equal(got[i], i == 65 || i == 66 || i == 130 ? zero : '.');
		vm_do(&v, 'w', 65, 1, 8); // and written again
		vm_scan(&v, got);
		assert_int_equal(got[65], 'd');
		vm_snapshot(&v, false);
		vm_expect(&v, "after the reset", 0, "");
	}
}

static char swap_file[] = "/var/tmp/fcqemu-swap-XXXXXX";

static bool swap_on(void)
{
	enum { SWAP_BYTES = 8 << 20 };
	int fd = mkostemp(swap_file, O_CLOEXEC);
	if (fd < 0)
		return false;
	char page[DIRTY_PAGE] = {0};
	uint32_t header[] = {1, SWAP_BYTES / DIRTY_PAGE - 1, 0}; // version, last page, bad pages
	memcpy(page + 1024, header, sizeof header);
	memcpy(page + DIRTY_PAGE - 10, "SWAPSPACE2", 10);
	bool ok = file_write_full(fd, page, sizeof page) == 0;
	memset(page, 0, sizeof page);
	for (int i = 1; ok && i < SWAP_BYTES / (int)DIRTY_PAGE; i++)
		ok = file_write_full(fd, page, sizeof page) == 0;
	ok = ok && fsync(fd) == 0;
	close(fd);
	if (ok && swapon(swap_file, 0) == 0)
		return true;
	unlink(swap_file);
	return false;
}

static int swap_off(void **state)
{
	if (swap_file[sizeof swap_file - 2] != 'X') {
		swapoff(swap_file);
		unlink(swap_file);
	}
	return 0;
}

static uint32_t swapped(struct vm *v, uint32_t page, uint32_t count)
{
	char path[64];
	uint64_t entry;
	uint32_t n = 0;
	snprintf(path, sizeof path, "/proc/%d/pagemap", v->pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	for (uint32_t i = 0; i < count; i++) {
		off_t at = (off_t)((v->source.base / DIRTY_PAGE + page + i) * sizeof entry);
		assert_int_equal(pread(fd, &entry, sizeof entry, at), sizeof entry);
		n += entry >> 62 & 1;
	}
	close(fd);
	return n;
}

static void swapped_out_pages_stay_dirty(void **state)
{
	struct vm v;
	if (!swap_on()) {
		print_message("no swap file can be used here: %s\n", strerror(errno));
		skip();
	}
	FOR_EACH_BACKEND(v)
	{
		vm_do(&v, 'w', 200, 64, 7);
		vm_do(&v, 'o', 200, 64, 0);
		if (swapped(&v, 200, 64) == 0) {
			vm_end(&v);
			print_message("the kernel swaps nothing out\n");
			skip();
		}
		char got[PAGES + 1];
		vm_scan(&v, got);
		for (uint32_t i = 0; i < PAGES; i++)
			assert_int_equal(got[i], i >= 200 && i < 264 ? 'd' : '.');
		vm_snapshot(&v, false);	    // swaps them in
		vm_do(&v, 'o', 200, 64, 0); // out again: clean
		vm_expect(&v, "swapped out after the reset", 0, "");
		vm_do(&v, 'w', 210, 1, 8);
		vm_do(&v, 'o', 210, 1, 0);
		vm_expect(&v, "written and swapped out", 210, "d");
		vm_reset(&v); // while it is out
		vm_do(&v, 'r', 200, 64, 0);
		vm_expect(&v, "reset while swapped out", 0, "");
		vm_do(&v, 'w', 210, 1, 9);
		vm_expect(&v, "written after that", 210, "d");
	}
}

// Kernels before 6.7: everything touched, nothing missing, and the bytes are right.
static void without_the_kernels_scan_nothing_is_missing(void **state)
{
	struct vm v;
	setenv("STASIS_NO_PAGEMAP_SCAN", "1", 1);
	FOR_EACH_BACKEND(v)
	{
		vm_do(&v, 'r', 3, 1, 0);
		vm_do(&v, 'w', 50, 2, 1);
		vm_do(&v, 'w', 60, 1, 0);
		char got[PAGES + 1];
		vm_scan(&v, got);
		assert_int_equal(got[50], 'd');
		assert_int_equal(got[51], 'd');
		assert_int_equal(got[60], 'd');
		assert_int_equal(got[1000], '.');
		vm_snapshot(&v, false);
		vm_do(&v, 'w', 70, 1, 2);
		vm_do(&v, 'd', 50, 1, 0);
		vm_snapshot(&v, false);
	}
	unsetenv("STASIS_NO_PAGEMAP_SCAN");
}

static void vm_expect_diff(struct vm *v, unsigned pages)
{
	vm_snapshot(v, false);
	if (v->diff_bytes != pages * (uint64_t)DIRTY_PAGE)
		fail_msg("%s: a diff of %llu pages instead of %u", backends[v->backend],
			(unsigned long long)v->diff_bytes / DIRTY_PAGE, pages);
}

// Kernels before 6.7: what was touched and is as it was loaded is not written.
static void without_the_kernels_scan_bytes_are_compared(void **state)
{
	struct vm v;
	setenv("STASIS_NO_PAGEMAP_SCAN", "1", 1);
	FOR_EACH_BACKEND(v)
	{
		const uint8_t *was = v.loaded_value;
		vm_do(&v, 'r', 0, 1000, 0);
		vm_expect_diff(&v, 0);
		vm_do(&v, 'w', 16, 1, was[16]); // in the first layer, in the second, zeros
		vm_do(&v, 'w', 1, 1, was[1]);
		vm_do(&v, 'w', 20, 1, was[20]);
		vm_expect_diff(&v, 0);
		vm_do(&v, 'w', 300, 2, 251);
		vm_do(&v, 'w', 41, 1, 0);
		vm_expect_diff(&v, v.backend == BOOT ? 2 : 3);
		// The image below has these pages from the last diff: as loaded is a change now.
		vm_do(&v, 'w', 300, 1, was[300]);
		vm_do(&v, 'w', 41, 1, was[41]);
		vm_snapshot(&v, false);
		assert_in_range(v.diff_bytes, 1, 3 * DIRTY_PAGE);
		vm_snapshot(&v, true);
		vm_do(&v, 'w', 1, 1, 9);
		vm_snapshot(&v, false); // over the full one nothing is compared
	}
	unsetenv("STASIS_NO_PAGEMAP_SCAN");
}

// Files that are not there, or not the memory's, and a process that cannot be read.
static void what_cannot_be_compared_is_written(void **state)
{
	struct vm v;
	setenv("STASIS_NO_PAGEMAP_SCAN", "1", 1);
	for (int what = 0; what < 4; what++) {
		struct err e = {0};
		struct dirty_list l = {0};
		char layer[160];
		vm_start(&v, LAZY);
		need_tracking(&v);
		vm_do(&v, 'r', 0, 64, 0);
		snprintf(layer, sizeof layer, "%s/11111111-1111-4111-8111-111111111111", v.dir);
		assert_int_equal(dirty_scan(&v.source, &l, &e), 0);
		assert_false(l.exact);
		assert_int_equal(l.bytes, 64 * DIRTY_PAGE);
		struct dirty_source s = v.source;
		if (what == 0)
			assert_int_equal(unlink(v.header_path), 0);
		else if (what == 1)
			assert_int_equal(truncate(layer, 0), 0);
		else if (what == 2)
			s.pid = INT_MAX; // no process: what another has there may be the same
		else
			v.loaded.kind = LOADED_UNKNOWN;
		loaded_drop_same(&v.loaded, &s, &l);
		// Two of four runs of 16 pages are the layer's, but for the pages of zeros.
		assert_int_equal(l.bytes / DIRTY_PAGE, what == 1 ? 25 : 64);
		dirty_list_done(&l);
		vm_end(&v);
	}
	unsetenv("STASIS_NO_PAGEMAP_SCAN");
}

static void touched_pages_survive_a_reset(void **state)
{
	struct vm v;
	struct dirty_list l;
	vm_start(&v, BOOT);
	need_tracking(&v);
	vm_do(&v, 'w', 5, 2, 1);
	vm_reset(&v);
	vm_do(&v, 'w', 9, 1, 1);
	assert_int_equal(dirty_scan_touched(&v.source, &l, NULL), 0);
	assert_int_equal(l.n, 2);
	assert_int_equal(l.v[0].offset, 5 * DIRTY_PAGE);
	assert_int_equal(l.v[0].length, 2 * DIRTY_PAGE);
	assert_int_equal(l.v[1].offset, 9 * DIRTY_PAGE);
	dirty_list_done(&l);
	vm_snapshot(&v, true);
	vm_end(&v);
}

// Random steps against a plain model, many generations.
static void random_histories(void)
{
	struct vm v;
	FOR_EACH_BACKEND(v)
	{
		unsigned seed = 12345 + (unsigned)b;
		for (int step = 0; step < 1000; step++) {
			uint32_t page = (uint32_t)rand_r(&seed) % PAGES;
			uint32_t count = 1 + (uint32_t)rand_r(&seed) % MIN(PAGES - page, 40u);
			int what = rand_r(&seed) % 100;
			if (what < 45)
				vm_do(&v, 'w', page, count, (uint8_t)(rand_r(&seed) % 4));
			else if (what < 85)
				vm_do(&v, 'r', page, count, 0);
			else if (what < 97)
				vm_do(&v, 'd', page, count, 0);
			else if (what < 99)
				vm_snapshot(&v, false);
		}
		vm_snapshot(&v, false);
	}
}

static void random_histories_match_a_model(void **state)
{
	random_histories();
	setenv("STASIS_NO_PAGEMAP_SCAN", "1", 1);
	random_histories();
	unsetenv("STASIS_NO_PAGEMAP_SCAN");
}

static void a_full_image_faults_in_what_is_absent(void **state)
{
	struct vm v;
	FOR_EACH_BACKEND(v)
	{
		vm_do(&v, 'w', 33, 3, 0);
		vm_do(&v, 'w', 40, 3, 44);
		vm_snapshot(&v, true);
	}
}

static void a_dead_page_server_costs_a_time_out(void **state)
{
	struct vm v;
	struct err e = {0};
	vm_start(&v, LAZY);
	pager_end(&v);
	char path[96];
	snprintf(path, sizeof path, "%s/full", v.dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	const struct dirty_range all = {0, SIZE, false};
	assert_int_equal(hook_write(v.hook, &v.hook_id, fd, &all, 1, true, 50, &e), -ETIMEDOUT);
	assert_non_null(strstr(e.text, "page server"));
	// What needs no page server is still possible once it is back; the late reply is passed
	// over.
	pager_start(&v);
	assert_int_equal(hook_write(v.hook, &v.hook_id, fd, &all, 1, true, TIMEOUT_MS, &e), 0);
	proc_kill(v.pidfd, SIGKILL);
	assert_true(hook_write(v.hook, &v.hook_id, fd, &all, 1, true, TIMEOUT_MS, &e) < 0);
	assert_non_null(strstr(e.text, "QEMU ended"));
	close(fd);
	vm_end(&v);
}

static void wrong_requests_are_refused(void **state)
{
	struct vm v;
	struct err e = {0};
	vm_start(&v, BOOT);
	char path[96];
	snprintf(path, sizeof path, "%s/x", v.dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	const struct dirty_range beyond = {SIZE, DIRTY_PAGE, false},
				 crooked = {100, DIRTY_PAGE, false};
	assert_int_equal(
		hook_write(v.hook, &v.hook_id, fd, &beyond, 1, false, TIMEOUT_MS, &e), -EINVAL);
	assert_int_equal(
		hook_write(v.hook, &v.hook_id, fd, &crooked, 1, false, TIMEOUT_MS, &e), -EINVAL);
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	const struct dirty_range one = {0, DIRTY_PAGE, false};
	assert_int_equal(
		hook_write(v.hook, &v.hook_id, full, &one, 1, false, TIMEOUT_MS, &e), -ENOSPC);
	close(full);
	close(fd);
	vm_end(&v);
}

static bool probe_reads(void)
{
	uint64_t entry = 0;
	struct pm_scan_arg a = {.size = sizeof a,
		.category_inverted = PAGE_IS_PFNZERO,
		.category_mask = PAGE_IS_PRESENT | PAGE_IS_PFNZERO};
	char *p = mmap(NULL, DIRTY_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	entry += (uint64_t) * (volatile char *)p;
	struct page_region v;
	a.start = (uintptr_t)p;
	a.end = a.start + DIRTY_PAGE;
	a.vec = (uintptr_t)&v;
	a.vec_len = 1;
	int n = ioctl(fd, PAGEMAP_SCAN, &a);
	close(fd);
	munmap(p, DIRTY_PAGE);
	return n == 1 && entry == 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(never_touched_and_read_pages_are_clean),
		cmocka_unit_test(written_pages_are_dirty),
		cmocka_unit_test(pages_zeroed_by_the_guest_are_data),
		cmocka_unit_test(second_generation_has_only_what_came_after),
		cmocka_unit_test(every_other_page_is_found_once),
		cmocka_unit_test(removed_pages_are_dirty_zeros),
		cmocka_unit_test_teardown(swapped_out_pages_stay_dirty, swap_off),
		cmocka_unit_test(without_the_kernels_scan_nothing_is_missing),
		cmocka_unit_test(without_the_kernels_scan_bytes_are_compared),
		cmocka_unit_test(what_cannot_be_compared_is_written),
		cmocka_unit_test(touched_pages_survive_a_reset),
		cmocka_unit_test(random_histories_match_a_model),
		cmocka_unit_test(a_full_image_faults_in_what_is_absent),
		cmocka_unit_test(a_dead_page_server_costs_a_time_out),
		cmocka_unit_test(wrong_requests_are_refused),
	};
	if (argc < 3)
		return 2;
	vm_program = argv[1];
	ramhook = argv[2];
	reads_allocate = probe_reads();
	if (geteuid() != 0 && access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		printf("needs root or /dev/userfaultfd\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
