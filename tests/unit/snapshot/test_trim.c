// SPDX-License-Identifier: Apache-2.0
// Diffs that hold more than what changed: what the parent has as well is left out of the layer, and
// nothing else is.
#define XXH_INLINE_ALL // for XXH3's secret
#include <xxhash.h>
#include "world.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/fault.h"
#include "base/file.h"
#include "snapshot/ingest.h"
#include "snapshot/merge.h"
#include "snapshot/sums.h"
#include "snapshot/verify.h"
#include "check.h"

#define B SNAPSHOT_BLOCK
#define BLOCKS 64u

static const char image[] = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";

struct trim {
	struct world w;
	uint8_t memory[BLOCKS * B];
	struct header *base; // what memory was at the last ingest
	char layer[UUID_SIZE];
	struct layer_stats stats;
};

static void id_of_layer(unsigned n, char out[UUID_SIZE])
{
	snprintf(out, UUID_SIZE, "11111111-1111-4111-8111-%012u", n);
}

static void begin(struct trim *t)
{
	struct err e = {0};
	memset(t, 0, sizeof *t);
	world_init(&t->w);
	run_ok(header_new_zero(BLOCKS * B, image, &t->base, &e), &e);
}

static void end(struct trim *t)
{
	header_free(t->base);
	world_done(&t->w);
}

// Blocks from..to are what the VMM calls dirty.
static int ingest(struct trim *t, unsigned number, unsigned from, unsigned to, struct err *e)
{
	bool dirty[BLOCKS] = {0};
	struct header *child = NULL;
	for (unsigned i = from; i < to; i++)
		dirty[i] = true;
	id_of_layer(number, t->layer);
	if (!file_exists(t->w.work_fd, "diff"))
		world_write_diff(&t->w, "diff", t->memory, dirty, sizeof t->memory);
	int r = layer_ingest(t->w.work_fd, "diff", t->w.layers_fd, t->layer, t->base, image, &child,
		&t->stats, e);
	if (r == 0) {
		header_free(t->base);
		t->base = child;
	}
	return r;
}

static uint64_t kept_on_disk(struct trim *t)
{
	struct stat st;
	assert_int_equal(fstatat(t->w.layers_fd, t->layer, &st, 0), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void expect(struct trim *t, unsigned kept, unsigned zeros)
{
	struct err e = {0};
	struct layer l;
	world_expect(&t->w, t->base, t->memory);
	run_ok(layer_open(t->w.layers_fd, t->layer, sizeof t->memory, &l, &e), &e);
	run_ok(layer_verify(&l, &e), &e); // also that all else of it reads as zeros
	assert_int_equal(l.data_blocks, kept);
	assert_int_equal(l.zero_blocks, zeros);
	layer_close(&l);
	assert_int_equal(kept_on_disk(t), kept * (uint64_t)B);
}

static void fill(struct trim *t, unsigned from, unsigned to, unsigned value)
{
	for (unsigned i = from; i < to; i++)
		memset(t->memory + i * B, (int)(value ? value + i : 0), B);
}

// Two layers and zeros: blocks 0..31 of the first, 32..47 of the second, the rest zeros.
static void two_layers(struct trim *t)
{
	struct err e = {0};
	begin(t);
	fill(t, 0, 40, 1);
	run_ok(ingest(t, 1, 0, 40, &e), &e);
	fill(t, 32, 48, 100);
	run_ok(ingest(t, 2, 32, 48, &e), &e);
}

static void test_what_the_parent_has_is_left_out(void **state)
{
	struct trim t;
	struct err e = {0};
	two_layers(&t);
	fill(&t, 7, 8, 50);   // changed, over the first layer
	fill(&t, 40, 42, 0);  // zeroed, over the second
	fill(&t, 60, 61, 70); // over zeros
	t.memory[12 * B + 4095] ^= 1;
	run_ok(ingest(&t, 3, 0, BLOCKS, &e), &e); // the VMM calls all of it dirty
	expect(&t, 3, 2);
	assert_int_equal(t.stats.data_bytes, 3 * B);
	assert_int_equal(t.stats.zero_bytes, 2 * B);
	assert_int_equal(t.stats.same_bytes, (BLOCKS - 5) * B);
	assert_int_equal(t.base->n_layers, 3);
	// A merge takes each block from the layer that has it.
	_cleanup_(header_freep) struct header *merged = NULL;
	char id[UUID_SIZE];
	id_of_layer(9, id);
	run_ok(layer_merge(t.base, t.w.layers_fd, id, &merged, &e), &e);
	world_expect(&t.w, merged, t.memory);
	end(&t);
}

static void test_nothing_changed_is_an_empty_layer(void **state)
{
	struct trim t;
	struct err e = {0};
	two_layers(&t);
	uint64_t generation = t.base->generation;
	size_t maps = t.base->n_maps;
	run_ok(ingest(&t, 3, 0, BLOCKS, &e), &e);
	expect(&t, 0, 0);
	assert_int_equal(t.stats.same_bytes, BLOCKS * B);
	assert_int_equal(t.base->n_layers, 2);
	assert_int_equal(t.base->n_maps, maps);
	assert_int_equal(t.base->generation, generation + 1);
	// Once more, as after a server that was killed before it noted the end.
	header_free(t.base);
	t.base = NULL;
	run_ok(header_new_zero(BLOCKS * B, image, &t.base, &e), &e);
	run_ok(ingest(&t, 3, 0, 0, &e), &e);
	assert_int_equal(t.base->n_layers, 0);
	end(&t);
}

static void test_zeros_over_zeros_are_left_out(void **state)
{
	struct trim t;
	struct err e = {0};
	begin(&t);
	fill(&t, 3, 4, 9);
	run_ok(ingest(&t, 1, 0, BLOCKS, &e), &e);
	expect(&t, 1, 0);
	bool flat = false;
	run_ok(layer_is_flat(t.base, t.w.layers_fd, &flat, &e), &e);
	assert_true(flat);
	end(&t);
}

static void put64(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, sizeof v);
}

// In the sum of a stripe each word (less the secret's) has its lower half multiplied with its upper
// one, and is added to its neighbour's lane. Two words whose lower halves are the secret's multiply
// to nothing; what one upper half gives the other takes.
static void same_sum(uint8_t a[B], uint8_t b[B])
{
	uint64_t first, second, more = 5ull << 32;
	memcpy(&first, XXH3_kSecret, 8);
	memcpy(&second, XXH3_kSecret + 8, 8);
	memset(a, 7, B);
	memcpy(b, a, B);
	put64(a, first & UINT32_MAX);
	put64(a + 64, (second & UINT32_MAX) | more);
	put64(b, (first & UINT32_MAX) | more);
	put64(b + 64, second & UINT32_MAX);
	assert_int_not_equal(memcmp(a, b, B), 0);
	assert_int_equal(layer_sum(a), layer_sum(b));
}

// Anybody can make two blocks with the same XXH3: that is no proof that nothing changed.
static void test_a_changed_block_with_the_same_sum_is_kept(void **state)
{
	struct trim t;
	struct err e = {0};
	uint8_t after[B];
	begin(&t);
	same_sum(t.memory + 5 * B, after);
	run_ok(ingest(&t, 1, 5, 6, &e), &e);
	memcpy(t.memory + 5 * B, after, B);
	run_ok(ingest(&t, 2, 5, 6, &e), &e);
	expect(&t, 1, 0);
	end(&t);
}

// As the layer's file of sums was written before: 32 bits each.
static void write_sums_1(struct trim *t)
{
	static uint8_t file[LAYER_SUMS_HEAD + BLOCKS * 4];
	struct err e = {0};
	struct layer l;
	uint64_t entries[BLOCKS];
	run_ok(layer_open(t->w.layers_fd, t->layer, sizeof t->memory, &l, &e), &e);
	run_ok(sums_read(&l, 0, BLOCKS, entries, &e), &e);
	assert_int_equal(pread(l.sums_fd, file, 56, 0), 56);
	layer_close(&l);
	file[8] = 1;
	put64(file + 56, XXH3_64bits(file, 56));
	for (unsigned i = 0; i < BLOCKS; i++) {
		uint32_t low = (uint32_t)entries[i];
		if (entries[i] > 1 && low <= 1)
			low += 2;
		memcpy(file + LAYER_SUMS_HEAD + i * 4, &low, sizeof low);
	}
	char name[UUID_SIZE + 4];
	snprintf(name, sizeof name, "%s.sum", t->layer);
	assert_int_equal(file_write_atomic(t->w.layers_fd, name, file, sizeof file, 0444), 0);
}

// Two blocks whose sums are alike in 32 bits are found among a few 100,000.
static void same_sum_of_32_bits(uint8_t a[B], uint8_t b[B])
{
	enum { BITS = 22 };
	uint64_t *seen = calloc(1u << BITS, sizeof *seen); // by the lower bits: sum, and which
	assert_non_null(seen);
	memset(b, 0, B);
	for (uint32_t n = 1;; n++) {
		put64(b, n);
		uint32_t sum = (uint32_t)layer_sum(b);
		uint64_t *slot = &seen[sum & ((1u << BITS) - 1)];
		if (*slot && (uint32_t)*slot == sum) {
			memset(a, 0, B);
			put64(a, *slot >> 32);
			break;
		}
		*slot = (uint64_t)n << 32 | sum;
	}
	free(seen);
}

static void test_short_sums_of_older_layers(void **state)
{
	struct trim t;
	struct err e = {0};
	uint8_t after[B];
	begin(&t);
	fill(&t, 8, 16, 3);
	same_sum_of_32_bits(t.memory + 5 * B, after);
	run_ok(ingest(&t, 1, 5, 16, &e), &e);
	write_sums_1(&t);
	memcpy(t.memory + 5 * B, after, B);
	run_ok(ingest(&t, 2, 0, BLOCKS, &e), &e);
	expect(&t, 1, 0);
	assert_int_equal(t.stats.same_bytes, (BLOCKS - 1) * B);
	end(&t);
}

static void flip(struct trim *t, const char *name, off_t at)
{
	_cleanup_close_ int fd = openat(t->w.layers_fd, name, O_RDWR | O_CLOEXEC);
	uint8_t byte = 0;
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x40;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

// A parent that cannot be read, or was damaged since, is not what the guest has: all is kept.
static void test_a_damaged_parent_is_not_trusted(void **state)
{
	for (int what = 0; what < 4; what++) {
		struct trim t;
		struct err e = {0};
		char sums[UUID_SIZE + 4];
		begin(&t);
		fill(&t, 0, 8, 1);
		run_ok(ingest(&t, 1, 0, 8, &e), &e);
		snprintf(sums, sizeof sums, "%s.sum", t.layer);
		_cleanup_close_ int fd = openat(t.w.layers_fd, t.layer, O_RDWR | O_CLOEXEC);
		if (what == 0)
			flip(&t, t.layer, 3 * B + 9);
		else if (what == 1)
			flip(&t, sums, LAYER_SUMS_HEAD + 3 * 8);
		else if (what == 2)
			assert_int_equal(ftruncate(fd, 3 * B), 0);
		else
			assert_int_equal(unlinkat(t.w.layers_fd, t.layer, 0), 0);
		run_ok(ingest(&t, 2, 0, 8, &e), &e);
		// One block was touched; a layer that is not whole is not opened.
		assert_int_equal(t.stats.data_bytes, (what < 2 ? 1 : 8) * B);
		if (what >= 2)
			expect(&t, 8, 0);
		end(&t);
	}
}

// More layers than are kept open, each asked for again and again.
static void test_a_long_chain(void **state)
{
	struct trim t;
	struct err e = {0};
	begin(&t);
	for (unsigned n = 0; n < BLOCKS; n++) {
		fill(&t, n, n + 1, 1);
		run_ok(ingest(&t, n + 1, n, n + 1, &e), &e);
	}
	assert_int_equal(t.base->n_layers, BLOCKS);
	fill(&t, 33, 34, 80);
	run_ok(ingest(&t, BLOCKS + 1, 0, BLOCKS, &e), &e);
	expect(&t, 1, 0);
	assert_int_equal(t.base->n_layers, BLOCKS); // the one layer took another's only block
	end(&t);
}

// Killed at each line and called again: before .sum is there, before anything is punched, after.
static void test_a_cut_off_ingest_is_repeated(void **state)
{
	static const char *const points[] = {"ingest.before_punch:kill", "ingest.after_sums:kill",
		"ingest.after_layer:kill", "ingest.before_punch:fail@1", "ingest.after_sums:fail@1",
		"ingest.after_layer:fail@1"};
	for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
		struct trim t;
		struct err e = {0};
		two_layers(&t);
		fill(&t, 7, 8, 50);
		fill(&t, 40, 42, 0);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			fault_setup(points[i], &e);
			ingest(&t, 3, 0, BLOCKS, &e);
			_exit(0);
		}
		int status = 0;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(WIFSIGNALED(status), i < 3);
		id_of_layer(3, t.layer);
		if (file_exists(t.w.layers_fd, t.layer))
			assert_int_equal(file_write_atomic(t.w.work_fd, "diff", "", 0, 0600), 0);
		run_ok(ingest(&t, 3, 0, BLOCKS, &e), &e);
		expect(&t, 1, 2);
		end(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_the_parent_has_is_left_out),
		cmocka_unit_test(test_nothing_changed_is_an_empty_layer),
		cmocka_unit_test(test_zeros_over_zeros_are_left_out),
		cmocka_unit_test(test_a_changed_block_with_the_same_sum_is_kept),
		cmocka_unit_test(test_short_sums_of_older_layers),
		cmocka_unit_test(test_a_damaged_parent_is_not_trusted),
		cmocka_unit_test(test_a_long_chain),
		cmocka_unit_test(test_a_cut_off_ingest_is_repeated),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
