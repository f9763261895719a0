// SPDX-License-Identifier: Apache-2.0
// The real stasis-pager against a process that plays the VMM (vm.h). argv[1] is the program.
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/missing.h"
#include "base/proc.h"
#include "snapshot/ingest.h"
#include "snapshot/working_set.h"
#include "vm.h"
#include "check.h"

#define BLOCKS 4096u
#define SIZE ((uint64_t)BLOCKS * SNAPSHOT_BLOCK) // 16 MiB
#define WAIT_MS 20000

static const char *program;

struct bench {
	struct world w;
	uint8_t *model; // what memory must be
	struct header *header;
	char socket[300], header_path[300], layers[300], record[300], stats[300], errors[300];
	int pidfd; // of the pager
};

// Three generations, with zeroed and never written blocks.
static void make_image(struct bench *b)
{
	struct err e = {0};
	char id[UUID_SIZE];
	uint64_t seed = 7;
	b->model = calloc(1, SIZE);
	bool *dirty = calloc(BLOCKS, sizeof *dirty);
	id_new_uuid(id);
	run_ok(header_new_zero(SIZE, id, &b->header, &e), &e);
	for (int generation = 0; generation < 3; generation++) {
		memset(dirty, 0, BLOCKS);
		for (uint64_t i = 0; i < BLOCKS; i++) {
			uint64_t r = world_random(&seed);
			if (r % 100 >= (generation ? 20 : 70))
				continue;
			dirty[i] = true;
			for (size_t j = 0; j < SNAPSHOT_BLOCK; j += 8)
				memcpy(b->model + i * SNAPSHOT_BLOCK + j,
					&(uint64_t){r % 7 ? world_random(&seed) : 0}, 8);
		}
		world_write_diff(&b->w, "diff", b->model, dirty, SIZE);
		struct header *child;
		char image[UUID_SIZE];
		id_new_uuid(id);
		id_new_uuid(image);
		run_ok(layer_ingest(b->w.work_fd, "diff", b->w.layers_fd, id, b->header, image,
			       &child, NULL, &e),
			&e);
		header_free(b->header);
		b->header = child;
	}
	run_ok(header_write(b->w.work_fd, "memory.hdr", b->header, &e), &e);
	free(dirty);
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof *b);
	world_init(&b->w);
	make_image(b);
	snprintf(b->socket, sizeof b->socket, "%s/work/pager.sock", b->w.dir);
	snprintf(b->header_path, sizeof b->header_path, "%s/work/memory.hdr", b->w.dir);
	snprintf(b->layers, sizeof b->layers, "%s/data/layers", b->w.dir);
	snprintf(b->record, sizeof b->record, "%s/work/record", b->w.dir);
	snprintf(b->stats, sizeof b->stats, "%s/work/stats", b->w.dir);
	snprintf(b->errors, sizeof b->errors, "%s/work/errors", b->w.dir);
	b->pidfd = -1;
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;
	if (b->pidfd >= 0) {
		proc_stop(b->pidfd, 0, NULL);
		close(b->pidfd);
	}
	header_free(b->header);
	free(b->model);
	world_done(&b->w);
	free(b);
	return 0;
}

// Starts the pager and returns when its socket is there. extra: two more arguments, or NULL.
static void start_pager(struct bench *b, const char *option, const char *value)
{
	struct err e = {0};
	_cleanup_close_ int watch = inotify_init1(IN_CLOEXEC);
	char dir[300];
	snprintf(dir, sizeof dir, "%s/work", b->w.dir);
	assert_true(inotify_add_watch(watch, dir, IN_MOVED_TO) >= 0);
	_cleanup_close_ int err_fd =
		open(b->errors, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	const char *argv[] = {program, "--socket", b->socket, "--header", b->header_path,
		"--layers", b->layers, "--record", b->record, "--stats", b->stats, "--timeout-ms",
		"2000", option, value, NULL};
	struct proc_spawn s = {.argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = err_fd};
	pid_t pid;
	run_ok(proc_spawn(&s, &pid, &b->pidfd, &e), &e);
	char events[4096];
	while (!file_exists(AT_FDCWD, b->socket))
		assert_true(read(watch, events, sizeof events) > 0);
}

static int wait_pager(struct bench *b)
{
	int status = 0;
	assert_int_equal(proc_wait(b->pidfd, WAIT_MS, &status), 0);
	close(b->pidfd);
	b->pidfd = -1;
	return status;
}

static void expect_exit(struct bench *b, int code, const char *reason)
{
	int status = wait_pager(b);
	_cleanup_free_ char *line = NULL;
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == code);
	assert_int_equal(file_read_line(AT_FDCWD, b->errors, &line), 0);
	if (!strstr(line, reason))
		fail_msg("expected '%s' in: %s", reason, line);
}

static void expect_failure(struct bench *b, const char *reason)
{
	expect_exit(b, 1, reason);
}

static void expect_no_hand_shake(struct bench *b, const char *reason)
{
	expect_exit(b, 3, reason);
}

static json_t *stop_and_read_stats(struct bench *b)
{
	assert_int_equal(proc_kill(b->pidfd, SIGTERM), 0);
	int status = wait_pager(b);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	json_t *j = json_load_file(b->stats, 0, NULL);
	assert_non_null(j);
	return j;
}

static uint64_t stat_of(json_t *j, const char *name)
{
	json_t *v = json_object_get(j, name);
	assert_true(json_is_integer(v));
	return (uint64_t)json_integer_value(v);
}

static void compare_all(const struct vm *vm, const uint8_t *model)
{
	for (uint64_t at = 0; at < vm_size(vm); at += SNAPSHOT_BLOCK)
		if (memcmp(vm_at(vm, at), model + at, SNAPSHOT_BLOCK) != 0)
			fail_msg("wrong bytes at offset %" PRIu64, at);
}

// --- touching from several threads

struct toucher {
	const struct vm *vm;
	const uint8_t *model;
	uint64_t seed;
	_Atomic uint64_t wrong;
};

static void *touch_all(void *arg)
{
	struct toucher *t = arg;
	uint64_t n = vm_size(t->vm) / SNAPSHOT_BLOCK, start = world_random(&t->seed) % n;
	for (uint64_t i = 0; i < n;
		i++) { // each thread in an order of its own: 1009 divides no power of 2
		uint64_t at = (start + i * 1009) % n * SNAPSHOT_BLOCK;
		if (memcmp(vm_at(t->vm, at), t->model + at, SNAPSHOT_BLOCK) != 0)
			t->wrong++;
	}
	return NULL;
}

static void touch_with_threads(const struct vm *vm, const uint8_t *model, int n)
{
	struct toucher t[8];
	pthread_t threads[8];
	for (int i = 0; i < n; i++) {
		t[i] = (struct toucher){vm, model, (uint64_t)i * 77, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, touch_all, &t[i]), 0);
	}
	for (int i = 0; i < n; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(t[i].wrong, 0);
	}
}

static void test_all_memory_is_right_from_several_threads(void **state)
{
	struct bench *b = *state;
	struct vm vm;
	vm_init(&vm, false, SIZE, 0);
	start_pager(b, NULL, NULL);
	vm_hand_over(&vm, b->socket);
	touch_with_threads(&vm, b->model, 4);
	json_t *j = stop_and_read_stats(b);
	assert_int_equal(stat_of(j, "copied_pages") + stat_of(j, "zero_pages"), BLOCKS);
	assert_true(stat_of(j, "zero_pages") > 0);
	assert_true(stat_of(j, "faults") >= BLOCKS);
	uint64_t sum = 0;
	for (size_t i = 0; i < json_array_size(json_object_get(j, "latency_us")); i++)
		sum += (uint64_t)json_integer_value(
			json_array_get(json_object_get(j, "latency_us"), i));
	assert_int_equal(sum, stat_of(j, "faults"));
	json_decref(j);
	vm_done(&vm);
}

// What the reset of a VMM's tracking may leave on pages that nobody touched yet: the kernel takes
// no zero page there, and the fault comes again and again.
static void test_marks_of_write_protection_on_absent_pages(void **state)
{
	struct bench *b = *state;
	struct vm vm;
	vm_init(&vm, true, SIZE, 0);
	struct uffdio_writeprotect mark = {
		.range = {(uintptr_t)vm.memory[0], SIZE}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	assert_int_equal(ioctl(vm.uffd, UFFDIO_WRITEPROTECT, &mark), 0);
	start_pager(b, NULL, NULL);
	vm_hand_over(&vm, b->socket);
	touch_with_threads(&vm, b->model, 2);
	json_decref(stop_and_read_stats(b));
	vm_done(&vm);
}

static void test_two_regions_with_a_hole_between(void **state)
{
	struct bench *b = *state;
	struct vm vm;
	vm_init(&vm, false, SIZE / 4, SIZE - SIZE / 4);
	start_pager(b, NULL, NULL);
	vm_hand_over(&vm, b->socket);
	touch_with_threads(&vm, b->model, 2);
	json_decref(stop_and_read_stats(b));
	vm_done(&vm);
}

// --- ranges given back

struct remover {
	const struct vm *vm;
	uint64_t from, len; // offsets, in one region
	_Atomic bool stop;
};

static void *remove_again_and_again(void *arg)
{
	struct remover *r = arg;
	uint64_t seed = 5;
	while (!r->stop) {
		uint64_t n = r->len / SNAPSHOT_BLOCK, first = world_random(&seed) % n;
		uint64_t len = 1 + world_random(&seed) % (n - first);
		if (madvise(vm_at(r->vm, r->from + first * SNAPSHOT_BLOCK), len * SNAPSHOT_BLOCK,
			    MADV_DONTNEED) != 0)
			return (void *)1;
		// Between two removes a VMM does something else. Without this, on one core, the
		// pager runs only while a remove waits for it, and no page ever goes in.
		sched_yield();
	}
	return NULL;
}

static void test_removed_ranges_are_zeros_while_faults_run(void **state)
{
	struct bench *b = *state;
	struct vm vm;
	const uint64_t from = SIZE / 2, len = SIZE / 8;
	vm_init(&vm, false, SIZE, 0);
	start_pager(b, NULL, NULL);
	vm_hand_over(&vm, b->socket);
	vm.uffd = safe_close(vm.uffd); // should the pager end, nobody waits for it
	// Once all of the part is given back, nothing of the image may show there again.
	assert_int_equal(madvise(vm_at(&vm, from), len, MADV_DONTNEED), 0);
	memset(b->model + from, 0, len);
	struct remover r = {&vm, from, len, false};
	pthread_t thread;
	void *failed = NULL;
	assert_int_equal(pthread_create(&thread, NULL, remove_again_and_again, &r), 0);
	for (int i = 0; i < 20; i++) {
		// The rest is given back too, one round late, so that there are faults in every
		// round.
		touch_with_threads(&vm, b->model, 3);
		uint64_t part = SIZE / 64, at = (uint64_t)i * part;
		assert_int_equal(madvise(vm_at(&vm, at), part, MADV_DONTNEED), 0);
		memset(b->model + at, 0, part);
	}
	r.stop = true;
	pthread_join(thread, &failed);
	assert_null(failed);
	compare_all(&vm, b->model);
	json_t *j = stop_and_read_stats(b);
	assert_true(stat_of(j, "removes") > 20);
	json_decref(j);
	vm_done(&vm);
}

// --- write-protect

// Pages that read as written by PAGEMAP_SCAN, by the dirty rule of fcqemu.
static uint64_t dirty_pages(const struct vm *vm, bool *ret)
{
	struct page_region regions[512];
	uint64_t n = 0;
	memset(ret, 0, BLOCKS);
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct pm_scan_arg arg = {.size = sizeof arg,
		.start = (uintptr_t)vm->memory[0],
		.end = (uintptr_t)vm->memory[0] + vm->size[0],
		.vec = (uintptr_t)regions,
		.vec_len = ARRAY_SIZE(regions),
		.category_mask = PAGE_IS_WRITTEN | PAGE_IS_PRESENT | PAGE_IS_PFNZERO,
		.category_inverted = PAGE_IS_PFNZERO,
		.return_mask = PAGE_IS_WRITTEN};
	while (arg.start < arg.end) {
		int got = ioctl(fd, PAGEMAP_SCAN, &arg);
		assert_true(got >= 0);
		for (int i = 0; i < got; i++)
			for (uint64_t a = regions[i].start; a < regions[i].end; a += 4096, n++)
				ret[(a - (uintptr_t)vm->memory[0]) / 4096] = true;
		arg.start = arg.walk_end;
	}
	return n;
}

static void test_pages_only_read_stay_clean(void **state)
{
	struct bench *b = *state;
	struct vm vm;
	bool dirty[BLOCKS];
	vm_init(&vm, true, SIZE, 0);
	start_pager(b, NULL, NULL);
	vm_hand_over(&vm, b->socket);
	touch_with_threads(&vm, b->model, 2);
	assert_int_equal(dirty_pages(&vm, dirty), 0);
	for (uint64_t i = 0; i < BLOCKS; i += 37)
		vm.memory[0][i * SNAPSHOT_BLOCK + 5] ^= 1;
	assert_int_equal(dirty_pages(&vm, dirty), (BLOCKS + 36) / 37);
	for (uint64_t i = 0; i < BLOCKS; i++)
		assert_int_equal(dirty[i], i % 37 == 0);
	json_decref(stop_and_read_stats(b));
	vm_done(&vm);
}

// --- the working set

static void touch_some(const struct vm *vm, const uint8_t *model)
{
	for (uint64_t i = 0; i < BLOCKS; i++) // an order of its own, a third of memory, in runs
		if (i * 613 % BLOCKS / 32 % 3 == 0)
			assert_memory_equal(vm_at(vm, i * 613 % BLOCKS * SNAPSHOT_BLOCK),
				model + i * 613 % BLOCKS * SNAPSHOT_BLOCK, SNAPSHOT_BLOCK);
}

// Runs the same work with the option; the figures.
static json_t *run_once(struct bench *b, const char *option, const char *value, bool write_protect)
{
	struct vm vm;
	vm_init(&vm, write_protect, SIZE, 0);
	start_pager(b, option, value);
	vm_hand_over(&vm, b->socket);
	if (option) {
		// What is loaded ahead is all there at some point: wait for that, not for a time.
		struct working_set w;
		struct err e = {0};
		run_ok(working_set_read(AT_FDCWD, value, b->header, &w, &e), &e);
		unsigned char present[BLOCKS];
		uint64_t n, deadline = clock_monotonic_ns() + 10 * NSEC_PER_SEC;
		do {
			assert_true(clock_monotonic_ns() < deadline);
			assert_int_equal(mincore(vm.memory[0], SIZE, present), 0);
			n = 0;
			for (uint64_t i = 0; i < BLOCKS; i++)
				n += present[i] & 1;
			sched_yield();
		} while (n < working_set_bytes(&w) / SNAPSHOT_BLOCK);
		assert_int_equal(n, working_set_bytes(&w) / SNAPSHOT_BLOCK); // and no page more
		working_set_done(&w);
	}
	touch_some(&vm, b->model);
	bool dirty[BLOCKS];
	if (write_protect)
		assert_int_equal(dirty_pages(&vm, dirty), 0);
	json_t *j = stop_and_read_stats(b);
	vm_done(&vm);
	return j;
}

static void test_a_recorded_working_set_saves_the_faults(void **state)
{
	struct bench *b = *state;
	char set[320];
	json_t *first = run_once(b, NULL, NULL, false);
	snprintf(set, sizeof set, "%s.set", b->record);
	assert_int_equal(rename(b->record, set), 0);
	json_t *second = run_once(b, "--working-set", set, true);
	assert_true(stat_of(first, "faults") > 1000);
	assert_true(stat_of(second, "faults") * 5 <= stat_of(first, "faults"));
	assert_int_equal(stat_of(second, "prefetch_pages"), stat_of(first, "faults"));
	// The second run's record holds what was loaded ahead as well: same work, same set.
	struct working_set a, c;
	struct err e = {0};
	run_ok(working_set_read(AT_FDCWD, set, b->header, &a, &e), &e);
	run_ok(working_set_read(AT_FDCWD, b->record, b->header, &c, &e), &e);
	assert_int_equal(working_set_bytes(&a), working_set_bytes(&c));
	assert_int_equal(a.ranges[0].offset, c.ranges[0].offset);
	working_set_done(&a);
	working_set_done(&c);
	json_decref(first);
	json_decref(second);
}

static void test_prefetch_is_capped(void **state)
{
	struct bench *b = *state;
	struct working_set w;
	struct err e = {0};
	_cleanup_strbuf_ struct strbuf text = {0};
	char set[320];
	snprintf(set, sizeof set, "%s.set", b->record);
	working_set_init(&w, b->header);
	assert_int_equal(working_set_add(&w, 0, BLOCKS), 0); // all of memory
	assert_int_equal(working_set_encode(&w, &text), 0);
	assert_int_equal(file_write_atomic(AT_FDCWD, set, text.data, text.len, 0600), 0);
	working_set_done(&w);
	struct vm vm;
	vm_init(&vm, false, SIZE, 0);
	start_pager(b, "--working-set", set);
	vm_hand_over(&vm, b->socket);
	assert_memory_equal(vm_at(&vm, SIZE - SNAPSHOT_BLOCK), b->model + SIZE - SNAPSHOT_BLOCK,
		SNAPSHOT_BLOCK);
	touch_with_threads(&vm, b->model, 2);
	json_t *j = stop_and_read_stats(b);
	assert_true(stat_of(j, "prefetch_pages") <= BLOCKS / 2);
	assert_true(stat_of(j, "faults") >= BLOCKS / 2);
	json_decref(j);
	vm_done(&vm);
	(void)e;
}

static void test_faults_and_prefetch_and_removes_at_once(void **state)
{
	struct bench *b = *state;
	char set[320];
	json_decref(run_once(b, NULL, NULL, false));
	snprintf(set, sizeof set, "%s.set", b->record);
	assert_int_equal(rename(b->record, set), 0);
	for (int i = 0; i < 10; i++) {
		struct vm vm;
		_cleanup_free_ uint8_t *model = malloc(SIZE);
		memcpy(model, b->model, SIZE);
		vm_init(&vm, false, SIZE, 0);
		start_pager(b, "--working-set", set);
		vm_hand_over(&vm, b->socket);
		assert_int_equal(madvise(vm_at(&vm, SIZE / 2), SIZE / 8, MADV_DONTNEED), 0);
		memset(model + SIZE / 2, 0, SIZE / 8);
		touch_with_threads(&vm, model, 3);
		json_decref(stop_and_read_stats(b));
		vm_done(&vm);
	}
}

static void test_a_damaged_working_set_is_left_out_with_a_note(void **state)
{
	struct bench *b = *state;
	char set[320];
	snprintf(set, sizeof set, "%s.set", b->record);
	assert_int_equal(file_write_atomic(AT_FDCWD, set, "STASWSETgarbage", 15, 0600), 0);
	struct vm vm;
	vm_init(&vm, false, SIZE, 0);
	start_pager(b, "--working-set", set);
	vm_hand_over(&vm, b->socket);
	touch_some(&vm, b->model);
	json_t *j = stop_and_read_stats(b);
	const char *note = json_string_value(json_object_get(j, "note"));
	assert_non_null(strstr(note, set));
	assert_non_null(strstr(note, "truncated"));
	json_decref(j);
	vm_done(&vm);
}

static void test_the_recording_ends_with_the_first_usr1(void **state)
{
	struct bench *b = *state;
	struct vm vm;
	struct working_set w;
	struct err e = {0};
	vm_init(&vm, false, SIZE, 0);
	start_pager(b, NULL, NULL);
	vm_hand_over(&vm, b->socket);
	assert_memory_equal(vm_at(&vm, 40 * 4096), b->model + 40 * 4096, SNAPSHOT_BLOCK);
	_cleanup_close_ int watch = inotify_init1(IN_CLOEXEC);
	char dir[300], events[4096];
	snprintf(dir, sizeof dir, "%s/work", b->w.dir);
	assert_true(inotify_add_watch(watch, dir, IN_MOVED_TO) >= 0);
	assert_int_equal(proc_kill(b->pidfd, SIGUSR1), 0);
	while (!file_exists(AT_FDCWD, b->stats)) // written after the record
		assert_true(read(watch, events, sizeof events) > 0);
	assert_memory_equal(vm_at(&vm, 99 * 4096), b->model + 99 * 4096, SNAPSHOT_BLOCK);
	json_t *j = stop_and_read_stats(b);
	assert_int_equal(stat_of(j, "faults"), 2);
	json_decref(j);
	run_ok(working_set_read(AT_FDCWD, b->record, b->header, &w, &e), &e);
	assert_int_equal(w.n, 1);
	assert_int_equal(w.ranges[0].offset, 40 * 4096);
	assert_int_equal(w.ranges[0].blocks, 1);
	working_set_done(&w);
	vm_done(&vm);
}

// --- ends and failures

static void test_the_end_of_the_vm_ends_the_pager(void **state)
{
	struct bench *b = *state;
	start_pager(b, NULL, NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct vm vm;
		vm_init(&vm, false, SIZE, 0);
		vm_hand_over(&vm, b->socket);
		_exit(memcmp(vm_at(&vm, 8192), b->model + 8192, SNAPSHOT_BLOCK) == 0 ? 0 : 1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	status = wait_pager(b);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_true(file_exists(AT_FDCWD, b->record));
}

static void test_a_vmm_that_closes_the_socket_is_served_on(void **state)
{
	struct bench *b = *state;
	struct vm vm;
	vm_init(&vm, false, SIZE, 0);
	start_pager(b, NULL, NULL);
	vm_hand_over(&vm, b->socket);
	vm.socket = safe_close(vm.socket); // as Firecracker up to 1.11
	touch_with_threads(&vm, b->model, 2);
	json_decref(stop_and_read_stats(b));
	vm_done(&vm);
}

static void *touch_one(void *arg)
{
	return (void *)(uintptr_t) * (volatile uint8_t *)arg;
}

// The first block that comes from a layer, and its layer.
static uint64_t first_data_block(const struct bench *b, const char **ret_layer)
{
	for (size_t i = 0; i < b->header->n_maps; i++)
		if (b->header->maps[i].layer != HEADER_ZERO) {
			*ret_layer = b->header->layers[b->header->maps[i].layer];
			return b->header->maps[i].offset;
		}
	fail();
	return 0;
}

// Touches the block in a thread; the pager must fail for the reason, and nothing be delivered.
static void expect_no_delivery(struct bench *b, uint64_t offset, const char *reason)
{
	struct vm vm;
	unsigned char present = 1;
	pthread_t thread;
	vm_init(&vm, false, SIZE, 0);
	vm_hand_over(&vm, b->socket);
	assert_int_equal(pthread_create(&thread, NULL, touch_one, vm_at(&vm, offset)), 0);
	expect_failure(b, reason);
	assert_int_equal(mincore(vm_at(&vm, offset), SNAPSHOT_BLOCK, &present), 0);
	assert_false(present & 1);
	// The thread still waits, as a vCPU would; it is let go by taking the range out.
	struct uffdio_range range = {(uintptr_t)vm.memory[0], SIZE};
	assert_int_equal(ioctl(vm.uffd, UFFDIO_UNREGISTER, &range), 0);
	pthread_join(thread, NULL);
	vm_done(&vm);
}

static void test_a_corrupted_block_is_never_delivered(void **state)
{
	struct bench *b = *state;
	const char *layer = NULL;
	uint64_t at = first_data_block(b, &layer);
	char expected[128];
	_cleanup_close_ int fd = openat(b->w.layers_fd, layer, O_RDWR | O_CLOEXEC);
	uint8_t byte;
	assert_int_equal(pread(fd, &byte, 1, (off_t)at + 1234), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at + 1234), 1);
	start_pager(b, NULL, NULL);
	snprintf(expected, sizeof expected, "layers/%s: block at offset %" PRIu64, layer, at);
	expect_no_delivery(b, at, expected);
}

static void test_a_truncated_layer_ends_the_pager(void **state)
{
	struct bench *b = *state;
	const char *layer = NULL;
	uint64_t at = first_data_block(b, &layer);
	char expected[128];
	start_pager(b, NULL, NULL);
	_cleanup_close_ int fd = openat(b->w.layers_fd, layer, O_RDWR | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, 0), 0);
	snprintf(expected, sizeof expected, "layers/%s: truncated", layer);
	expect_no_delivery(b, at, expected);
}

static void test_a_killed_pager_says_nothing_and_delivers_nothing(void **state)
{
	struct bench *b = *state;
	struct vm vm;
	vm_init(&vm, false, SIZE, 0);
	start_pager(b, NULL, NULL);
	vm_hand_over(&vm, b->socket);
	assert_memory_equal(vm_at(&vm, 0), b->model, SNAPSHOT_BLOCK);
	assert_int_equal(proc_kill(b->pidfd, SIGKILL), 0);
	int status = wait_pager(b);
	assert_true(WIFSIGNALED(status));
	// What was delivered stays; the socket tells the VMM's side.
	assert_memory_equal(vm_at(&vm, 0), b->model, SNAPSHOT_BLOCK);
	char c;
	assert_int_equal(read(vm.socket, &c, 1), 0);
	vm_done(&vm);
}

// --- the hand-shake

static void test_a_hand_shake_in_pieces(void **state)
{
	struct bench *b = *state;
	struct vm vm;
	char json[512];
	vm_init(&vm, false, SIZE, 0);
	vm_json(&vm, json, sizeof json);
	start_pager(b, NULL, NULL);
	vm.socket = vm_connect(b->socket);
	size_t len = strlen(json);
	for (size_t i = 0; i < len; i++) // the descriptor with the last byte
		vm_send(vm.socket, json + i, 1, i + 1 == len ? vm.uffd : -1);
	touch_with_threads(&vm, b->model, 1);
	json_decref(stop_and_read_stats(b));
	vm_done(&vm);
}

static void test_hand_shakes_that_are_refused(void **state)
{
	struct bench *b = *state;
	char oversize[20000];
	memset(oversize, ' ', sizeof oversize);
	oversize[0] = '[';
	struct {
		const char *text;
		size_t len;
		const char *reason;
	} cases[] = {
		{"hello", 5, "not a JSON array"},
		{"[]", 2, "0 regions"},
		{"[{\"size\":4096}]", 15, "must be integers"},
		{"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0}]", 53,
			"the snapshot 16777216"},
		{"[{\"base_host_virt_addr\":0,\"size\":2097152,\"offset\":0,\"page_size\":2097152}"
		 "]",
			73, "pages of 2097152 bytes"},
		{"[1}", 3, "not valid JSON"},
		{oversize, sizeof oversize, "longer than"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct vm vm;
		vm_init(&vm, false, SIZE, 0);
		start_pager(b, NULL, NULL);
		vm.socket = vm_connect(b->socket);
		vm_send(vm.socket, cases[i].text, cases[i].len, vm.uffd);
		expect_no_hand_shake(b, cases[i].reason);
		vm_done(&vm);
	}
}

static void test_a_missing_or_foreign_descriptor_is_refused(void **state)
{
	struct bench *b = *state;
	struct vm vm;
	char json[512];
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	vm_init(&vm, false, SIZE, 0);
	vm_json(&vm, json, sizeof json);
	start_pager(b, NULL, NULL);
	vm.socket = vm_connect(b->socket);
	vm_send(vm.socket, json, strlen(json), -1);
	expect_no_hand_shake(b, "no userfaultfd");
	close(vm.socket);
	start_pager(b, NULL, NULL);
	vm.socket = vm_connect(b->socket);
	vm_send(vm.socket, json, strlen(json), null);
	expect_no_hand_shake(b, "not a working userfaultfd");
	vm_done(&vm);
}

static void test_a_client_that_does_not_come_or_go_on(void **state)
{
	struct bench *b = *state;
	start_pager(b, "--timeout-ms", "100");
	expect_no_hand_shake(b, "no VMM connected within 100 ms");
	assert_false(file_exists(AT_FDCWD, b->socket));
	// Long enough for the one who starts it to come, on a busy machine.
	start_pager(b, "--timeout-ms", "1500");
	int fd = vm_connect(b->socket);
	vm_send(fd, "[{", 2, -1);
	expect_no_hand_shake(b, "did not finish it in time");
	close(fd);
	start_pager(b, NULL, NULL);
	fd = vm_connect(b->socket);
	vm_send(fd, "[{", 2, -1);
	close(fd);
	expect_no_hand_shake(b, "closed the connection");
}

static void test_a_missing_layer_is_told_before_the_socket_appears(void **state)
{
	struct bench *b = *state;
	struct err e = {0};
	const char *layer = NULL;
	char expected[128];
	first_data_block(b, &layer);
	assert_int_equal(unlinkat(b->w.layers_fd, layer, 0), 0);
	_cleanup_close_ int err_fd =
		open(b->errors, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	const char *argv[] = {program, "--socket", b->socket, "--header", b->header_path,
		"--layers", b->layers, NULL};
	struct proc_spawn s = {.argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = err_fd};
	pid_t pid;
	run_ok(proc_spawn(&s, &pid, &b->pidfd, &e), &e);
	snprintf(expected, sizeof expected, "layers/%s: No such file", layer);
	expect_failure(b, expected);
	assert_false(file_exists(AT_FDCWD, b->socket));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
	if (argc < 2 || !vm_possible()) {
		fprintf(stderr, "skipped: needs the path of stasis-pager and the right to make a "
				"userfaultfd\n");
		return 77;
	}
	program = argv[1];
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		TEST(test_all_memory_is_right_from_several_threads),
		TEST(test_marks_of_write_protection_on_absent_pages),
		TEST(test_two_regions_with_a_hole_between),
		TEST(test_removed_ranges_are_zeros_while_faults_run),
		TEST(test_pages_only_read_stay_clean),
		TEST(test_a_recorded_working_set_saves_the_faults),
		TEST(test_prefetch_is_capped),
		TEST(test_faults_and_prefetch_and_removes_at_once),
		TEST(test_a_damaged_working_set_is_left_out_with_a_note),
		TEST(test_the_recording_ends_with_the_first_usr1),
		TEST(test_the_end_of_the_vm_ends_the_pager),
		TEST(test_a_vmm_that_closes_the_socket_is_served_on),
		TEST(test_a_corrupted_block_is_never_delivered),
		TEST(test_a_truncated_layer_ends_the_pager),
		TEST(test_a_killed_pager_says_nothing_and_delivers_nothing),
		TEST(test_a_hand_shake_in_pieces),
		TEST(test_hand_shakes_that_are_refused),
		TEST(test_a_missing_or_foreign_descriptor_is_refused),
		TEST(test_a_client_that_does_not_come_or_go_on),
		TEST(test_a_missing_layer_is_told_before_the_socket_appears),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
