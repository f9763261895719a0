// SPDX-License-Identifier: Apache-2.0
// Headers, layers, working sets, snapshot.json and the store: what is refused, and how it is told.
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include "base/fault.h"
#include "base/file.h"
#include "snapshot/format.h"
#include "snapshot/ingest.h"
#include "snapshot/merge.h"
#include "snapshot/verify.h"
#include "snapshot/store.h"
#include "snapshot/working_set.h"
#include "world.h"
#include "check.h"

#define B SNAPSHOT_BLOCK
static const char image_a[] = "00000000-0000-4000-8000-00000000000a";
static const char image_b[] = "00000000-0000-4000-8000-00000000000b";
static const char layer_1[] = "11111111-1111-4111-8111-111111111111";
static const char layer_2[] = "22222222-2222-4222-8222-222222222222";

static struct header *overlay(
	const struct header *parent, const char *layer, const struct header_range *ranges, size_t n)
{
	struct header *h = NULL;
	struct err e = {0};
	run_ok(header_overlay(parent, image_b, layer, ranges, n, &h, &e), &e);
	return h;
}

static struct header *zero(uint64_t blocks)
{
	struct header *h = NULL;
	struct err e = {0};
	run_ok(header_new_zero(blocks * B, image_a, &h, &e), &e);
	return h;
}

// 16 blocks: 2 zero, 4 of layer 1, 2 of layer 2, 8 zero.
static struct header *small_header(void)
{
	_cleanup_(header_freep) struct header *z = zero(16), *one = NULL;
	one = overlay(z, layer_1, &(struct header_range){2 * B, 6 * B, false}, 1);
	return overlay(one, layer_2, &(struct header_range){6 * B, 2 * B, false}, 1);
}

static void assert_map(
	const struct header *h, size_t i, uint64_t block, uint32_t blocks, uint32_t layer)
{
	assert_true(i < h->n_maps);
	assert_int_equal(h->maps[i].offset, block * B);
	assert_int_equal(h->maps[i].blocks, blocks);
	assert_int_equal(h->maps[i].layer, layer);
}

static void test_overlay_cuts_joins_and_drops(void **state)
{
	_cleanup_(header_freep) struct header *h = small_header(), *all = NULL, *zeroed = NULL;
	assert_int_equal(h->n_maps, 4);
	assert_map(h, 0, 0, 2, HEADER_ZERO);
	assert_map(h, 1, 2, 4, 0);
	assert_map(h, 2, 6, 2, 1);
	assert_map(h, 3, 8, 8, HEADER_ZERO);
	assert_int_equal(h->generation, 2);
	assert_string_equal(h->base, image_a);
	assert_string_equal(h->image, image_b);
	assert_int_equal(header_data_bytes(h), 6 * B);
	// Zeroing layer 2's blocks joins them with the zeros behind and drops the layer.
	const char third[] = "33333333-3333-4333-8333-333333333333";
	zeroed = overlay(h, third, &(struct header_range){6 * B, 2 * B, true}, 1);
	assert_int_equal(zeroed->n_maps, 3);
	assert_int_equal(zeroed->n_layers, 1);
	assert_string_equal(zeroed->layers[0], layer_1);
	assert_map(zeroed, 2, 6, 10, HEADER_ZERO);
	// Overwriting everything leaves one mapping and one layer.
	all = overlay(h, third, &(struct header_range){0, 16 * B, false}, 1);
	assert_int_equal(all->n_maps, 1);
	assert_int_equal(all->n_layers, 1);
	assert_string_equal(all->layers[0], third);
	for (uint64_t at = 0; at < 16 * B; at += 512) {
		const struct header_map *m = header_find(h, at);
		assert_true(at >= m->offset && at < header_map_end(m));
	}
}

static void test_overlay_refuses_bad_ranges(void **state)
{
	_cleanup_(header_freep) struct header *z = zero(16);
	const struct header_range bad[][2] = {
		{{1, B, false}, {8 * B, B, false}},
		{{B, 0, false}, {8 * B, B, false}},
		{{4 * B, 2 * B, false}, {5 * B, B, false}},
		{{4 * B, B, false}, {16 * B, B, false}},
		{{4 * B, B, false}, {15 * B, 2 * B, false}},
		{{4 * B, B, false}, {8 * B, UINT64_MAX / B * B, false}},
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct header *h = NULL;
		struct err e = {0};
		assert_true(header_overlay(z, image_b, layer_1, bad[i], 2, &h, &e) < 0);
		assert_null(h);
	}
}

static void test_header_every_flipped_byte_and_every_length(void **state)
{
	_cleanup_(header_freep) struct header *h = small_header(), *again = NULL;
	_cleanup_strbuf_ struct strbuf b = {0}, c = {0};
	struct err e = {0};
	assert_int_equal(header_encode(h, &b), 0);
	assert_int_equal(b.len, 88 + 2 * 16 + 4 * 16 + 8);
	run_ok(header_decode(b.data, b.len, &again, &e), &e);
	assert_int_equal(header_encode(again, &c), 0);
	assert_int_equal(c.len, b.len);
	assert_memory_equal(b.data, c.data, b.len);
	struct header *none = NULL;
	for (size_t i = 0; i < b.len; i++)
		for (int bit = 0; bit < 8; bit++) {
			b.data[i] ^= (char)(1 << bit);
			assert_true(header_decode(b.data, b.len, &none, &e) < 0);
			b.data[i] ^= (char)(1 << bit);
		}
	for (size_t len = 0; len < b.len; len++) {
		_cleanup_free_ char *exact =
			malloc(MAX(len, (size_t)1)); // so that ASan sees a read beyond
		memcpy(exact, b.data, len);
		assert_true(header_decode(exact, len, &none, &e) < 0);
	}
	strbuf_addc(&b, '\0');
	assert_true(header_decode(b.data, b.len, &none, &e) < 0);
	assert_null(none);
}

// Sets bytes and makes the checksum right again: the fields themselves must be judged.
static void expect_field_refused(
	const struct header *h, size_t at, uint64_t value, size_t size, const char *reason)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct err e = {0};
	struct header *none = NULL;
	assert_int_equal(header_encode(h, &b), 0);
	memcpy(b.data + at, &value, size);
	put_le64((uint8_t *)b.data + b.len - 8, format_xxh3(b.data, b.len - 8));
	expect_reason(header_decode(b.data, b.len, &none, &e), &e, "", reason);
}

static void test_header_every_field_is_judged(void **state)
{
	_cleanup_(header_freep) struct header *h = small_header();
	const size_t layers = 88, maps = layers + 32;
	expect_field_refused(h, 0, 'X', 1, "wrong magic");
	expect_field_refused(h, 8, 2, 4, "format version 2; this program knows version 1");
	expect_field_refused(h, 12, 8192, 4, "block size 8192");
	expect_field_refused(h, 24, 0, 8, "bad memory size");
	expect_field_refused(h, 24, 16 * B + 1, 8, "bad memory size");
	expect_field_refused(h, 24, 1ull << 41, 8, "bad memory size");
	expect_field_refused(h, 24, 17 * B, 8, "mappings end");
	expect_field_refused(h, 24, 15 * B, 8, "bad length");
	expect_field_refused(h, 72, 3, 4, "do not fit");
	expect_field_refused(h, 72, UINT32_MAX, 4, "beyond the limits");
	expect_field_refused(h, 76, 0, 4, "beyond the limits");
	expect_field_refused(h, 80, 1, 1, "reserved");
	expect_field_refused(h, maps, B, 8, "begins at");
	expect_field_refused(h, maps + 8, 0, 4, "bad length");
	expect_field_refused(h, maps + 8, 3, 4, "begins at");
	expect_field_refused(h, maps + 16 + 12, 2, 4, "names layer 2 of 2");
	expect_field_refused(h, maps + 16 + 12, 1, 4, "should be one");
	expect_field_refused(h, maps + 32 + 12, HEADER_ZERO, 4, "should be one");
}

static void test_header_tables_are_judged(void **state)
{
	_cleanup_(header_freep) struct header *h = small_header();
	struct header *none = NULL;
	_cleanup_strbuf_ struct strbuf twice = {0}, unused = {0};
	struct err e = {0};
	memcpy(h->layers[1], h->layers[0], UUID_SIZE);
	assert_int_equal(header_encode(h, &twice), 0);
	expect_reason(header_decode(twice.data, twice.len, &none, &e), &e, layer_1, "twice");
	memcpy(h->layers[1], layer_2, UUID_SIZE);
	h->maps[1].layer = 1;
	h->maps[2].layer = HEADER_ZERO;
	h->maps[3].layer = 1;
	assert_int_equal(header_encode(h, &unused), 0);
	expect_reason(header_decode(unused.data, unused.len, &none, &e), &e, layer_1, "not used");
}

static void test_working_set_flips_lengths_and_strangers(void **state)
{
	_cleanup_(header_freep) struct header *h = small_header(), *other = zero(8);
	struct world w;
	struct working_set set, again;
	_cleanup_strbuf_ struct strbuf b = {0};
	struct err e = {0};
	world_init(&w);
	working_set_init(&set, h);
	assert_int_equal(working_set_add(&set, 5 * B, 1), 0);
	assert_int_equal(working_set_add(&set, 6 * B, 2), 0); // joined
	assert_int_equal(working_set_add(&set, 0, 1), 0);
	assert_int_equal(set.n, 2);
	assert_int_equal(working_set_bytes(&set), 4 * B);
	assert_int_equal(working_set_encode(&set, &b), 0);
	run_ok(working_set_decode(b.data, b.len, &again, &e), &e);
	assert_int_equal(again.n, 2);
	assert_int_equal(again.ranges[0].offset, 5 * B);
	assert_int_equal(again.ranges[0].blocks, 3);
	working_set_done(&again);
	assert_int_equal(file_write_atomic(w.work_fd, "set", b.data, b.len, 0600), 0);
	run_ok(working_set_read(w.work_fd, "set", h, &again, &e), &e);
	working_set_done(&again);
	expect_reason(working_set_read(w.work_fd, "set", other, &again, &e), &e, "set",
		"another memory image");
	for (size_t i = 0; i < b.len; i++) {
		b.data[i] ^= 4;
		assert_true(working_set_decode(b.data, b.len, &again, &e) < 0);
		b.data[i] ^= 4;
		assert_true(working_set_decode(b.data, i, &again, &e) < 0);
	}
	put_le64((uint8_t *)b.data + 56, 16 * B); // outside, with a right checksum
	put_le64((uint8_t *)b.data + b.len - 8, format_xxh3(b.data, b.len - 8));
	expect_reason(working_set_decode(b.data, b.len, &again, &e), &e, "range 0", "outside");
	working_set_done(&set);
	world_done(&w);
}

// --- layers

static uint8_t memory[16 * B];

// Blocks 2..7 data, 9 and 10 zero as before; ingested as layer 1.
static struct header *ingest_first(struct world *w, struct layer_stats *stats)
{
	_cleanup_(header_freep) struct header *z = zero(16);
	struct header *h = NULL;
	struct err e = {0};
	bool dirty[16] = {0};
	memset(memory, 0, sizeof memory);
	for (int i = 2; i < 8; i++) {
		dirty[i] = true;
		memset(memory + i * B, i, B);
	}
	dirty[9] = dirty[10] = true;
	world_write_diff(w, "diff", memory, dirty, sizeof memory);
	run_ok(layer_ingest(w->work_fd, "diff", w->layers_fd, layer_1, z, image_a, &h, stats, &e),
		&e);
	return h;
}

static void test_ingest_moves_and_punches(void **state)
{
	struct world w;
	struct layer_stats stats;
	struct stat st;
	struct err e = {0};
	struct layer l;
	world_init(&w);
	_cleanup_(header_freep) struct header *h = ingest_first(&w, &stats);
	assert_int_equal(stats.data_bytes, 6 * B);
	assert_int_equal(stats.zero_bytes, 0);
	assert_int_equal(stats.same_bytes, 2 * B);
	assert_false(file_exists(w.work_fd, "diff"));
	assert_int_equal(fstatat(w.layers_fd, layer_1, &st, 0), 0);
	assert_int_equal(st.st_blocks * 512, 6 * B); // the zeros are holes now
	assert_int_equal(st.st_mode & 07777, 0444);
	assert_int_equal(h->n_maps, 3);
	world_expect(&w, h, memory);
	run_ok(layer_open(w.layers_fd, layer_1, sizeof memory, &l, &e), &e);
	run_ok(layer_verify(&l, &e), &e);
	assert_int_equal(l.data_blocks, 6);
	assert_int_equal(l.zero_blocks, 0);
	layer_close(&l);
	world_done(&w);
}

static void test_a_zeroed_page_hides_the_parents(void **state)
{
	struct world w;
	struct err e = {0};
	bool dirty[16] = {[3] = true}, flat = true;
	world_init(&w);
	_cleanup_(header_freep) struct header *h = ingest_first(&w, NULL), *child = NULL;
	run_ok(layer_is_flat(h, w.layers_fd, &flat, &e), &e);
	assert_true(flat);
	memset(memory + 3 * B, 0, B);
	world_write_diff(&w, "diff", memory, dirty, sizeof memory);
	run_ok(layer_ingest(w.work_fd, "diff", w.layers_fd, layer_2, h, image_b, &child, NULL, &e),
		&e);
	world_expect(&w, child, memory);
	// One layer, but its block 3 is not the image's: it must not be mapped as it is.
	assert_int_equal(child->n_layers, 1);
	run_ok(layer_is_flat(child, w.layers_fd, &flat, &e), &e);
	assert_false(flat);
	world_done(&w);
}

static void flip(int dirfd, const char *name, off_t at)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_RDWR | O_CLOEXEC);
	uint8_t byte = 0;
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x40;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

// What a writer changes in the file that was cloned is found, never served: the sums are of what
// was read, the bytes of the clone.
static void test_ingest_from_a_source_that_changes(void **state)
{
	struct world w;
	struct err e = {0};
	struct layer l;
	char block[64];
	bool dirty[16] = {[5] = true, [6] = true};
	_cleanup_(header_freep) struct header *z = zero(16), *h = NULL;
	world_init(&w);
	memset(memory, 0, sizeof memory);
	memset(memory + 5 * B, 5, 2 * B);
	world_write_diff(&w, "diff", memory, dirty, sizeof memory);
	world_write_diff(&w, "source", memory, dirty, sizeof memory);
	flip(w.work_fd, "source", 5 * B + 77);
	_cleanup_close_ int source = openat(w.work_fd, "source", O_RDONLY | O_CLOEXEC);
	run_ok(layer_ingest_from(
		       w.work_fd, "diff", source, w.layers_fd, layer_1, z, image_a, &h, NULL, &e),
		&e);
	run_ok(layer_open(w.layers_fd, layer_1, sizeof memory, &l, &e), &e);
	snprintf(block, sizeof block, "block at offset %u", 5 * B);
	expect_reason(layer_verify(&l, &e), &e, layer_1, block);
	layer_close(&l);
	world_done(&w);
}

static void test_ingest_refuses_what_is_no_diff(void **state)
{
	struct world w;
	_cleanup_(header_freep) struct header *z = zero(16), *none = NULL;
	struct err e = {0};
	bool dirty[16] = {true};
	world_init(&w);
	int r = layer_ingest(
		w.work_fd, "nothing", w.layers_fd, layer_1, z, image_a, &none, NULL, &e);
	expect_reason(r, &e, "nothing", "No such file");
	world_write_diff(&w, "short", memory, dirty, 8 * B);
	r = layer_ingest(w.work_fd, "short", w.layers_fd, layer_1, z, image_a, &none, NULL, &e);
	expect_reason(r, &e, "short", "32768 bytes instead of the memory's 65536");
	assert_true(file_exists(w.work_fd, "short"));
	assert_int_equal(symlinkat("short", w.work_fd, "link"), 0);
	assert_true(layer_ingest(w.work_fd, "link", w.layers_fd, layer_1, z, image_a, &none, NULL,
			    &e) < 0);
	assert_int_equal(world_count_files(w.layers_fd, "."), 0);
	world_done(&w);
}

// A VMM that was taken over may leave anything under the diff's name; root must not be led astray.
static void test_ingest_refuses_what_a_jailed_vmm_may_leave(void **state)
{
	struct world w;
	_cleanup_(header_freep) struct header *z = zero(16), *none = NULL;
	struct err e = {0};
	bool dirty[16] = {true};
	world_init(&w);
	world_write_diff(&w, "diff", memory, dirty, sizeof memory);
	assert_int_equal(symlinkat("diff", w.work_fd, "link"), 0);
	assert_int_equal(mkfifoat(w.work_fd, "fifo", 0600), 0); // would block who opens it
	assert_int_equal(mkdirat(w.work_fd, "dir", 0700), 0);
	assert_int_equal(linkat(w.work_fd, "diff", w.work_fd, "second", 0), 0);
	static const struct {
		const char *name, *reason;
	} cases[] = {{"link", "symbolic link"}, {"fifo", "not a regular file"},
		{"dir", "directory"}, {"second", "has 2 names"}};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int r = layer_ingest(w.work_fd, cases[i].name, w.layers_fd, layer_1, z, image_a,
			&none, NULL, &e);
		expect_reason(r, &e, cases[i].name, cases[i].reason);
	}
	assert_int_equal(world_count_files(w.layers_fd, "."), 0);
	struct snapshot_info s = {.memory_bytes = z->size, .vcpus = 1, .vmm_name = "x"};
	id_new_uuid(s.id);
	memset(s.vmm_sha256, 'f', 64);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct snapshot_files files = {w.work_fd, cases[i].name, NULL, NULL};
		expect_reason(snapshot_write(w.data_fd, &s, z, &files, &e), &e, cases[i].name,
			i == 0 ? "symbolic link" : "not a regular file with one name");
	}
	assert_int_equal(world_count_files(w.data_fd, "snapshots"), 0);
	world_done(&w);
}

static void test_an_ingest_that_failed_late_can_be_repeated(void **state)
{
	struct world w;
	struct err e = {0};
	_cleanup_(header_freep) struct header *h = NULL, *first = NULL;
	bool dirty[16] = {[1] = true, [4] = true};
	world_init(&w);
	first = ingest_first(&w, NULL);
	memset(memory + B, 7, B);
	memset(memory + 4 * B, 0, B);
	world_write_diff(&w, "diff", memory, dirty, sizeof memory);
	run_ok(fault_setup("ingest.after_sums:fail@1", &e), &e);
	assert_true(layer_ingest(w.work_fd, "diff", w.layers_fd, layer_2, first, image_b, &h, NULL,
			    &e) < 0);
	assert_true(file_exists(w.work_fd, "diff"));
	run_ok(fault_setup("", &e), &e);
	run_ok(layer_ingest(w.work_fd, "diff", w.layers_fd, layer_2, first, image_b, &h, NULL, &e),
		&e);
	// The zeroed block was punched by the first call, and is known to the second one all the
	// same.
	struct layer l;
	run_ok(layer_open(w.layers_fd, layer_2, sizeof memory, &l, &e), &e);
	assert_int_equal(l.zero_blocks, 1);
	layer_close(&l);
	world_expect(&w, h, memory);
	world_done(&w);
}

static void test_damaged_layers_are_told_by_block(void **state)
{
	struct world w;
	struct err e = {0};
	struct layer l;
	char sums[64], block[64];
	world_init(&w);
	_cleanup_(header_freep) struct header *h = ingest_first(&w, NULL), *none = NULL;
	snprintf(sums, sizeof sums, "%s.sum", layer_1);
	snprintf(block, sizeof block, "block at offset %u", 5 * B);
	flip(w.layers_fd, layer_1, 5 * B + 77);
	run_ok(layer_open(w.layers_fd, layer_1, sizeof memory, &l, &e), &e);
	expect_reason(layer_verify(&l, &e), &e, layer_1, block);
	expect_reason(layer_merge(h, w.layers_fd, layer_2, &none, &e), &e, layer_1, block);
	assert_int_equal(world_count_files(w.layers_fd, "."), 2); // nothing of layer 2
	layer_close(&l);
	flip(w.layers_fd, layer_1, 5 * B + 77);
	flip(w.layers_fd, layer_1, 12 * B); // a hole filled
	run_ok(layer_open(w.layers_fd, layer_1, sizeof memory, &l, &e), &e);
	expect_reason(layer_verify(&l, &e), &e, layer_1, "foreign data at offset 49152");
	layer_close(&l);
	flip(w.layers_fd, layer_1, 12 * B);
	flip(w.layers_fd, sums, 4096 + 5 * 8); // the sum itself
	run_ok(layer_open(w.layers_fd, layer_1, sizeof memory, &l, &e), &e);
	expect_reason(layer_verify(&l, &e), &e, layer_1, "checksum of its entries");
	layer_close(&l);
	expect_reason(layer_merge(h, w.layers_fd, layer_2, &none, &e), &e, layer_1, block);
	flip(w.layers_fd, sums, 4096 + 5 * 8);
	for (off_t at = 0; at < 4096; at++) { // the head, and what is reserved in it
		flip(w.layers_fd, sums, at);
		int r = layer_open(w.layers_fd, layer_1, sizeof memory, &l, &e);
		expect_reason(r, &e, sums, "");
		flip(w.layers_fd, sums, at);
	}
	// A hole where data should be.
	_cleanup_close_ int fd = openat(w.layers_fd, layer_1, O_RDWR | O_CLOEXEC);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5 * B, B), 0);
	run_ok(layer_open(w.layers_fd, layer_1, sizeof memory, &l, &e), &e);
	expect_reason(layer_verify(&l, &e), &e, layer_1, block);
	layer_close(&l);
	assert_int_equal(ftruncate(fd, 15 * B), 0);
	expect_reason(
		layer_open(w.layers_fd, layer_1, sizeof memory, &l, &e), &e, layer_1, "truncated");
	world_done(&w);
}

static void test_foreign_and_truncated_sums(void **state)
{
	struct world w;
	struct err e = {0};
	struct layer l;
	char sums[64], other[64];
	world_init(&w);
	header_free(ingest_first(&w, NULL));
	snprintf(sums, sizeof sums, "%s.sum", layer_1);
	snprintf(other, sizeof other, "%s.sum", layer_2);
	assert_int_equal(linkat(w.layers_fd, layer_1, w.layers_fd, layer_2, 0), 0);
	assert_int_equal(linkat(w.layers_fd, sums, w.layers_fd, other, 0), 0);
	expect_reason(layer_open(w.layers_fd, layer_2, sizeof memory, &l, &e), &e, other,
		"holds the sums of layer 11111111");
	expect_reason(layer_open(w.layers_fd, layer_1, 8 * B, &l, &e), &e, layer_1,
		"truncated or extended");
	assert_int_equal(unlinkat(w.layers_fd, other, 0), 0);
	expect_reason(
		layer_open(w.layers_fd, layer_2, sizeof memory, &l, &e), &e, other, "No such file");
	_cleanup_close_ int fd = openat(w.layers_fd, sums, O_RDWR | O_CLOEXEC);
	for (off_t len = 4096 + 128 - 1; len >= 0; len = len > 4096 ? len - 7 : len - 512) {
		assert_int_equal(ftruncate(fd, len), 0);
		expect_reason(layer_open(w.layers_fd, layer_1, sizeof memory, &l, &e), &e, sums,
			"truncated");
	}
	world_done(&w);
}

static void test_verified_once_until_it_changes(void **state)
{
	struct world w;
	struct err e = {0};
	char record[300], file[400], block[64];
	struct stat st, again;
	world_init(&w);
	header_free(ingest_first(&w, NULL));
	snprintf(record, sizeof record, "%s/work/verified", w.dir);
	snprintf(file, sizeof file, "%s/%s", record, layer_1);
	snprintf(block, sizeof block, "block at offset %u", 5 * B);
	run_ok(layer_verify_once(w.layers_fd, layer_1, sizeof memory, record, &e), &e);
	assert_int_equal(stat(file, &st), 0);
	run_ok(layer_verify_once(w.layers_fd, layer_1, sizeof memory, record, &e), &e);
	assert_int_equal(stat(file, &again), 0);
	assert_int_equal(st.st_ino, again.st_ino); // not done again
	// Of another boot: done again.
	flip(AT_FDCWD, file, 0);
	run_ok(layer_verify_once(w.layers_fd, layer_1, sizeof memory, record, &e), &e);
	assert_int_equal(stat(file, &again), 0);
	assert_int_not_equal(st.st_ino, again.st_ino);
	// Changed since, and the change is found. Times are coarse: until the record differs.
	struct timespec before = {0};
	assert_int_equal(fstatat(w.layers_fd, layer_1, &st, 0), 0);
	before = st.st_ctim;
	do {
		flip(w.layers_fd, layer_1, 5 * B + 1);
		flip(w.layers_fd, layer_1, 5 * B + 1);
		assert_int_equal(fstatat(w.layers_fd, layer_1, &st, 0), 0);
	} while (before.tv_sec == st.st_ctim.tv_sec && before.tv_nsec == st.st_ctim.tv_nsec);
	flip(w.layers_fd, layer_1, 5 * B + 1);
	expect_reason(layer_verify_once(w.layers_fd, layer_1, sizeof memory, record, &e), &e,
		layer_1, block);
	expect_reason(layer_verify_once(w.layers_fd, layer_1, sizeof memory, record, &e), &e,
		layer_1, block); // never recorded
	flip(w.layers_fd, layer_1, 5 * B + 1);
	run_ok(layer_verify_once(w.layers_fd, layer_1, sizeof memory, record, &e), &e);
	expect_reason(layer_verify_once(w.layers_fd, layer_2, sizeof memory, record, &e), &e,
		layer_2, "No such file");
	// Where it cannot be recorded the layer is good all the same.
	run_ok(layer_verify_once(w.layers_fd, layer_1, sizeof memory, "/proc/none", &e), &e);
	world_done(&w);
}

// --- the store

static struct snapshot_info info_of(const struct header *h)
{
	struct snapshot_info s = {.format = SNAPSHOT_FORMAT_VERSION,
		.id = "99999999-9999-4999-8999-999999999999",
		.kind = SNAPSHOT_TEMPLATE,
		.vmm_name = "fcqemu",
		.vmm_version = "0.1.0 \"quoted\"",
		.vmm_state = "qemu-7.2.22",
		.kernel_id = "abc",
		.vcpus = 2,
		.memory_bytes = h->size,
		.tsc_khz = 2445428,
		.created_ns = 1795495580494351964ull};
	memset(s.vmm_sha256, 'f', 64);
	return s;
}

static struct snapshot_info write_snapshot(struct world *w, const struct header *h)
{
	struct err e = {0};
	struct snapshot_info s = info_of(h);
	struct snapshot_files files = {w->work_fd, "state", "disk", "set"};
	assert_int_equal(file_write_atomic(w->work_fd, "state", "vm state", 8, 0600), 0);
	assert_int_equal(file_write_atomic(w->work_fd, "disk", "disk", 4, 0600), 0);
	assert_int_equal(file_write_atomic(w->work_fd, "set", "set", 3, 0600), 0);
	run_ok(snapshot_write(w->data_fd, &s, h, &files, &e), &e);
	return s;
}

static void test_snapshot_json_flips_and_lengths(void **state)
{
	_cleanup_(header_freep) struct header *h = small_header();
	struct snapshot_info s = info_of(h), again;
	_cleanup_strbuf_ struct strbuf b = {0};
	struct err e = {0};
	memcpy(s.image, h->image, UUID_SIZE);
	assert_int_equal(snapshot_encode(&s, &b), 0);
	run_ok(snapshot_decode(b.data, b.len, &again, &e), &e);
	assert_memory_equal(&s, &again, sizeof s);
	for (size_t i = 0; i < b.len; i++) {
		for (int bit = 0; bit < 8; bit++) {
			b.data[i] ^= (char)(1 << bit);
			assert_true(snapshot_decode(b.data, b.len, &again, &e) < 0);
			b.data[i] ^= (char)(1 << bit);
		}
		assert_true(snapshot_decode(b.data, i, &again, &e) < 0);
	}
	const char newer[] = "{\"format_version\":3,\"checksum\":\"\"}";
	expect_reason(snapshot_decode(newer, sizeof newer - 1, &again, &e), &e, "format version 3",
		"knows 1 to 2");
}

static void test_store_writes_reads_lists_deletes(void **state)
{
	struct world w;
	struct err e = {0};
	struct snapshot_info again;
	_cleanup_(header_freep) struct header *back = NULL;
	world_init(&w);
	_cleanup_(header_freep) struct header *h = ingest_first(&w, NULL);
	struct snapshot_info s = write_snapshot(&w, h);
	assert_int_equal(world_count_files(w.work_fd, "."), 0);
	run_ok(snapshot_read(w.data_fd, s.id, &again, &back, &e), &e);
	assert_memory_equal(&s, &again, sizeof s);
	assert_int_equal(again.disk_size, 4);
	assert_int_equal(back->n_maps, h->n_maps);
	// The same id again: refused, the files stay.
	struct snapshot_files files = {w.work_fd, "state", NULL, NULL};
	assert_int_equal(file_write_atomic(w.work_fd, "state", "x", 1, 0600), 0);
	assert_int_equal(snapshot_write(w.data_fd, &s, h, &files, &e), -EEXIST);
	assert_true(file_exists(w.work_fd, "state"));
	run_ok(snapshot_read(w.data_fd, s.id, &again, NULL, &e), &e);
	run_ok(snapshot_delete(w.data_fd, s.id, &e), &e);
	run_ok(snapshot_delete(w.data_fd, s.id, &e), &e);
	assert_int_equal(world_count_files(w.data_fd, "snapshots"), 0);
	assert_int_equal(snapshot_read(w.data_fd, s.id, &again, NULL, &e), -ENOENT);
	world_done(&w);
}

static void test_a_failed_write_leaves_everything_where_it_was(void **state)
{
	static const char *const points[] = {
		"snapshot.after_files:fail", "snapshot.after_header:fail"};
	struct world w;
	struct err e = {0};
	world_init(&w);
	_cleanup_(header_freep) struct header *h = ingest_first(&w, NULL);
	struct snapshot_info s = info_of(h);
	struct snapshot_files files = {w.work_fd, "state", "disk", NULL};
	assert_int_equal(file_write_atomic(w.work_fd, "state", "s", 1, 0600), 0);
	assert_int_equal(file_write_atomic(w.work_fd, "disk", "d", 1, 0600), 0);
	for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
		run_ok(fault_setup(points[i], &e), &e);
		assert_true(snapshot_write(w.data_fd, &s, h, &files, &e) < 0);
		assert_int_equal(world_count_files(w.data_fd, "snapshots"), 0);
		assert_int_equal(world_count_files(w.work_fd, "."), 2);
	}
	run_ok(fault_setup("", &e), &e);
	files.disk = "not there";
	expect_reason(
		snapshot_write(w.data_fd, &s, h, &files, &e), &e, "not there", "No such file");
	assert_int_equal(world_count_files(w.data_fd, "snapshots"), 0);
	world_done(&w);
}

static void test_damaged_snapshots_are_refused_by_file(void **state)
{
	struct world w;
	struct err e = {0};
	struct snapshot_info again;
	char path[128];
	world_init(&w);
	_cleanup_(header_freep) struct header *h = ingest_first(&w, NULL), *other = small_header();
	struct snapshot_info s = write_snapshot(&w, h);
	static const char *const files[] = {"snapshot.json", "vmstate", "memory.hdr"};
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof path, "snapshots/%s/%s", s.id, files[i]);
		flip(w.data_fd, path, 3);
		expect_reason(snapshot_read(w.data_fd, s.id, &again, NULL, &e), &e, path, "");
		flip(w.data_fd, path, 3);
		run_ok(snapshot_read(w.data_fd, s.id, &again, NULL, &e), &e);
	}
	snprintf(path, sizeof path, "snapshots/%s/disk.img", s.id);
	_cleanup_close_ int disk = openat(w.data_fd, path, O_RDWR | O_CLOEXEC);
	assert_int_equal(ftruncate(disk, 3), 0);
	expect_reason(
		snapshot_read(w.data_fd, s.id, &again, NULL, &e), &e, "disk.img", "truncated");
	assert_int_equal(ftruncate(disk, 4), 0);
	// A header that is whole, but another one's.
	snprintf(path, sizeof path, "snapshots/%s/memory.hdr", s.id);
	run_ok(header_write(w.data_fd, path, other, &e), &e);
	expect_reason(snapshot_read(w.data_fd, s.id, &again, NULL, &e), &e, "memory.hdr",
		"another snapshot");
	run_ok(header_write(w.data_fd, path, h, &e), &e);
	expect_reason(
		snapshot_replace_header(w.data_fd, s.id, other, &e), &e, s.id, "another image");
	assert_int_equal(unlinkat(w.layers_fd, layer_1, 0), 0);
	expect_reason(
		snapshot_read(w.data_fd, s.id, &again, NULL, &e), &e, layer_1, "No such file");
	world_done(&w);
}

// --- a full disk

static void expect_with_room(struct world *w, const struct header *h)
{
	unlinkat(w->work_fd, "filler", 0); // the comparison needs a file
	world_expect(w, h, memory);
}

static bool is_full(const struct err *e)
{
	return strstr(e->text, strerror(ENOSPC)) != NULL;
}

// Leaves so many blocks free for new files.
static void leave_free(struct world *w, int blocks)
{
	_cleanup_close_ int fd = openat(w->work_fd, "filler", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct statvfs v;
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(fstatvfs(fd, &v), 0);
	assert_true((int)v.f_bfree > blocks);
	off_t len = ((off_t)v.f_bfree - blocks) * (off_t)v.f_bsize;
	assert_int_equal(posix_fallocate(fd, 0, len), 0);
}

// Each step with 0, 1, 2, ... blocks free, so that it fails at each of its writes in turn; the same
// call again, with room, must succeed, and give what it would have given.
static void fill_up_each_step(struct world *w)
{
	struct err e = {0};
	_cleanup_(header_freep) struct header *first = NULL, *child = NULL, *merged = NULL;
	bool dirty[16] = {[3] = true, [12] = true, [15] = true};
	unsigned failed[3] = {0};
	int r = -1;
	first = ingest_first(w, NULL);
	memset(memory + 3 * B, 0, B);
	memset(memory + 12 * B, 99, B);
	world_write_diff(w, "diff", memory, dirty, sizeof memory);
	for (int n = 0; r < 0; n++, failed[0] += r < 0) {
		leave_free(w, n);
		r = layer_ingest(w->work_fd, "diff", w->layers_fd, layer_2, first, image_b, &child,
			NULL, &e);
		assert_true(r == 0 || (is_full(&e) && file_exists(w->work_fd, "diff")));
	}
	expect_with_room(w, child);
	r = -1;
	for (int n = 0; r < 0; n++, failed[1] += r < 0) {
		static const char id[] = "33333333-3333-4333-8333-333333333333";
		leave_free(w, n);
		r = layer_merge(child, w->layers_fd, id, &merged, &e);
		assert_true(r == 0 || is_full(&e));
		assert_int_equal(world_count_files(w->layers_fd, "."), r == 0 ? 6 : 4);
		expect_with_room(w, child);
	}
	expect_with_room(w, merged);
	struct snapshot_info s = info_of(merged), again;
	struct snapshot_files files = {w->work_fd, "state", NULL, NULL};
	leave_free(w, 1);
	assert_int_equal(file_write_atomic(w->work_fd, "state", "s", 1, 0600), 0);
	r = -1;
	for (int n = 0; r < 0; n++, failed[2] += r < 0) {
		leave_free(w, n);
		r = snapshot_write(w->data_fd, &s, merged, &files, &e);
		assert_true(r == 0 || (is_full(&e) && file_exists(w->work_fd, "state")));
		assert_int_equal(world_count_files(w->data_fd, "snapshots"), r == 0);
	}
	run_ok(snapshot_read(w->data_fd, s.id, &again, NULL, &e), &e);
	for (size_t i = 0; i < ARRAY_SIZE(failed); i++)
		assert_true(failed[i] >= 2); // more than one write met the full disk
}

// tmpfs counts data blocks only, so each write is met exactly. The mount is in a namespace of this
// process's own and goes with it, however the test ends.
static void test_a_full_disk_at_each_write(void **state)
{
	char dir[] = "/tmp/stasis-full-XXXXXX";
	struct world w;
	if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		skip();
	const char *was = getenv("STASIS_TEST_DIR");
	_cleanup_free_ char *keep = was ? strdup(was) : NULL;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(mount("full", dir, "tmpfs", 0, "size=1m"), 0);
	setenv("STASIS_TEST_DIR", dir, 1);
	world_init(&w);
	if (keep)
		setenv("STASIS_TEST_DIR", keep, 1);
	else
		unsetenv("STASIS_TEST_DIR");
	fill_up_each_step(&w);
	world_done(&w);
	assert_int_equal(umount(dir), 0);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_overlay_cuts_joins_and_drops),
		cmocka_unit_test(test_overlay_refuses_bad_ranges),
		cmocka_unit_test(test_header_every_flipped_byte_and_every_length),
		cmocka_unit_test(test_header_every_field_is_judged),
		cmocka_unit_test(test_header_tables_are_judged),
		cmocka_unit_test(test_working_set_flips_lengths_and_strangers),
		cmocka_unit_test(test_ingest_moves_and_punches),
		cmocka_unit_test(test_a_zeroed_page_hides_the_parents),
		cmocka_unit_test(test_ingest_from_a_source_that_changes),
		cmocka_unit_test(test_ingest_refuses_what_is_no_diff),
		cmocka_unit_test(test_ingest_refuses_what_a_jailed_vmm_may_leave),
		cmocka_unit_test(test_an_ingest_that_failed_late_can_be_repeated),
		cmocka_unit_test(test_verified_once_until_it_changes),
		cmocka_unit_test(test_a_full_disk_at_each_write),
		cmocka_unit_test(test_damaged_layers_are_told_by_block),
		cmocka_unit_test(test_foreign_and_truncated_sums),
		cmocka_unit_test(test_snapshot_json_flips_and_lengths),
		cmocka_unit_test(test_store_writes_reads_lists_deletes),
		cmocka_unit_test(test_a_failed_write_leaves_everything_where_it_was),
		cmocka_unit_test(test_damaged_snapshots_are_refused_by_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
