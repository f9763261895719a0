// SPDX-License-Identifier: Apache-2.0
// Random histories of a small memory: writes, zeroing, snapshots, restores, merges, deletions,
// collections, crashes in the middle of an ingest. After each step that gives an image it is
// compared byte for byte with a plain copy of the memory, and at the end all that still exist are.
//
//	test_snapshot_history [HISTORIES [SEED]]
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "collect.h"
#include "snapshot/ingest.h"
#include "snapshot/merge.h"
#include "snapshot/verify.h"
#include "snapshot/store.h"
#include "world.h"
#include "check.h"

#define MAX_BLOCKS 96
#define MAX_SNAPSHOTS 8
#define STEPS 24

struct snapshot_model {
	char id[UUID_SIZE];
	uint8_t *memory; // NULL: free
};

struct history {
	struct world w;
	uint64_t seed, size;
	uint8_t *memory; // the running guest's
	uint8_t *parent; // the image of base
	bool dirty[MAX_BLOCKS];
	struct header *base; // what the guest was last restored from or snapshot to
	char base_id[UUID_SIZE];
	struct snapshot_model snapshots[MAX_SNAPSHOTS];
	unsigned merges, restores, snapshots_made, collections, crashes, merge_crashes;
};

static uint64_t rnd(struct history *h, uint64_t below)
{
	return world_random(&h->seed) % below;
}

static void expect_ok(int r, const struct err *e, const char *what)
{
	if (r < 0)
		fail_msg("%s: %s", what, err_text(e, r));
}

static void guest_runs(struct history *h)
{
	uint64_t blocks = h->size / SNAPSHOT_BLOCK;
	for (uint64_t n = rnd(h, 12); n > 0; n--) {
		uint64_t first = rnd(h, blocks), len = 1 + rnd(h, MIN(blocks - first, (uint64_t)8));
		unsigned how = (unsigned)rnd(h, 4);
		for (uint64_t b = first; b < first + len; b++) {
			uint8_t *p = h->memory + b * SNAPSHOT_BLOCK;
			h->dirty[b] = true;
			if (how == 0)
				memset(p, 0, SNAPSHOT_BLOCK);
			else if (how == 1)
				p[rnd(h, SNAPSHOT_BLOCK)] ^= (uint8_t)(1 + rnd(h, 255));
			else if (how == 2) // all but one byte zero
				memset(p, 0, SNAPSHOT_BLOCK), p[rnd(h, SNAPSHOT_BLOCK)] = 1;
			else
				for (size_t i = 0; i < SNAPSHOT_BLOCK; i += 8)
					memcpy(p + i, &(uint64_t){world_random(&h->seed)}, 8);
		}
	}
}

// The process that ingests is killed at a random fault point; a second one repeats the call.
static void crash_in_ingest(struct history *h, const char *layer, const char *image)
{
	static const char *const points[] = {
		"ingest.before_punch:kill", "ingest.after_sums:kill", "ingest.after_layer:kill"};
	struct err e = {0};
	h->crashes++;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct header *child = NULL;
		fault_setup(points[rnd(h, 3)], &e);
		layer_ingest(h->w.work_fd, "diff", h->w.layers_fd, layer, h->base, image, &child,
			NULL, &e);
		_exit(0);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	rnd(h, 3); // the child's draw
}

static struct snapshot_model *pick(struct history *h, bool free_slot)
{
	struct snapshot_model *found[MAX_SNAPSHOTS];
	size_t n = 0;
	for (size_t i = 0; i < MAX_SNAPSHOTS; i++)
		if ((h->snapshots[i].memory == NULL) == free_slot)
			found[n++] = &h->snapshots[i];
	return n ? found[rnd(h, n)] : NULL;
}

// What the layer must hold: the blocks that are not as they were, and of those no zeros.
static uint64_t changed_bytes(const struct history *h)
{
	static const uint8_t zeros[SNAPSHOT_BLOCK];
	uint64_t n = 0;
	for (uint64_t at = 0; at < h->size; at += SNAPSHOT_BLOCK)
		n += memcmp(h->memory + at, h->parent + at, SNAPSHOT_BLOCK) != 0 &&
		     memcmp(h->memory + at, zeros, SNAPSHOT_BLOCK) != 0;
	return n * SNAPSHOT_BLOCK;
}

static void take_snapshot(struct history *h)
{
	struct snapshot_model *s = pick(h, true);
	if (!s)
		return;
	struct err e = {0};
	char layer[UUID_SIZE], image[UUID_SIZE];
	id_new_uuid(layer);
	id_new_uuid(image);
	// A VMM may call more dirty than what was written.
	for (uint64_t n = rnd(h, 2) ? rnd(h, MAX_BLOCKS) : 0; n > 0; n--)
		h->dirty[rnd(h, h->size / SNAPSHOT_BLOCK)] = true;
	world_write_diff(&h->w, "diff", h->memory, h->dirty, h->size);
	if (rnd(h, 4) == 0)
		crash_in_ingest(h, layer, image);
	struct header *child = NULL;
	struct layer_stats stats;
	expect_ok(layer_ingest(h->w.work_fd, "diff", h->w.layers_fd, layer, h->base, image, &child,
			  &stats, &e),
		&e, "ingest");
	assert_int_equal(stats.data_bytes, changed_bytes(h));
	memcpy(h->parent, h->memory, h->size);
	assert_false(file_exists(h->w.work_fd, "diff"));
	assert_int_equal(child->generation, h->base->generation + 1);

	struct snapshot_info info = {.kind = SNAPSHOT_PAUSE, .vcpus = 1, .memory_bytes = h->size};
	id_new_uuid(info.id);
	snprintf(info.parent, sizeof info.parent, "%s", h->base_id);
	snprintf(info.vmm_name, sizeof info.vmm_name, "model");
	memset(info.vmm_sha256, 'a', 64);
	assert_int_equal(file_write_atomic(h->w.work_fd, "state", info.id, UUID_SIZE, 0600), 0);
	struct snapshot_files files = {.dirfd = h->w.work_fd, .vmstate = "state"};
	expect_ok(snapshot_write(h->w.data_fd, &info, child, &files, &e), &e, "snapshot_write");
	memcpy(s->id, info.id, UUID_SIZE);
	s->memory = malloc(h->size);
	memcpy(s->memory, h->memory, h->size);
	header_free(h->base);
	h->base = child;
	memcpy(h->base_id, s->id, UUID_SIZE);
	memset(h->dirty, 0, sizeof h->dirty);
	world_expect(&h->w, child, h->memory);
	h->snapshots_made++;
}

static struct header *read_snapshot(struct history *h, const struct snapshot_model *s)
{
	struct err e = {0};
	struct snapshot_info info;
	struct header *header = NULL;
	expect_ok(snapshot_read(h->w.data_fd, s->id, &info, &header, &e), &e, "snapshot_read");
	return header;
}

static void restore(struct history *h)
{
	struct snapshot_model *s = pick(h, false);
	if (!s)
		return;
	header_free(h->base);
	h->base = read_snapshot(h, s);
	memcpy(h->base_id, s->id, UUID_SIZE);
	memcpy(h->memory, s->memory, h->size);
	memcpy(h->parent, s->memory, h->size);
	memset(h->dirty, 0, sizeof h->dirty);
	world_expect(&h->w, h->base, h->memory);
	h->restores++;
}

static void crash_in_merge(struct history *h, const struct header *old, const char *id)
{
	static const char *const points[] = {
		"merge.after_data:kill", "merge.after_sums:kill", "merge.after_layer:kill"};
	struct err e = {0};
	uint64_t point = rnd(h, ARRAY_SIZE(points));
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct header *merged = NULL;
		fault_setup(points[point], &e);
		layer_merge(old, h->w.layers_fd, id, &merged, &e);
		_exit(0);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	// An image of zeros has nothing to merge, so nothing to be killed at.
	assert_true(WIFSIGNALED(status) || header_data_bytes(old) == 0);
	h->merge_crashes += WIFSIGNALED(status);
}

static void merge(struct history *h)
{
	struct snapshot_model *s = pick(h, false);
	if (!s)
		return;
	struct err e = {0};
	char id[UUID_SIZE];
	id_new_uuid(id);
	_cleanup_(header_freep) struct header *old = read_snapshot(h, s), *merged = NULL;
	if (rnd(h, 4) == 0)
		crash_in_merge(h, old, id);
	expect_ok(layer_merge(old, h->w.layers_fd, id, &merged, &e), &e, "merge");
	assert_true(merged->n_layers <= 1);
	assert_int_equal(merged->generation, old->generation);
	assert_string_equal(merged->image, old->image);
	assert_int_equal(header_data_bytes(merged), header_data_bytes(old));
	bool flat = false;
	expect_ok(layer_is_flat(merged, h->w.layers_fd, &flat, &e), &e, "is_flat");
	assert_int_equal(flat, merged->n_layers == 1);
	// What runs on the old layers is not disturbed.
	world_expect(&h->w, old, s->memory);
	expect_ok(snapshot_replace_header(h->w.data_fd, s->id, merged, &e), &e, "replace_header");
	world_expect(&h->w, merged, s->memory);
	h->merges++;
}

static void delete (struct history *h)
{
	struct snapshot_model *s = pick(h, false);
	struct err e = {0};
	if (!s)
		return;
	expect_ok(snapshot_delete(h->w.data_fd, s->id, &e), &e, "delete");
	free(s->memory);
	s->memory = NULL;
}

static int base_header(void *ctx, char ***ret_paths, size_t *ret_n, struct err *e)
{
	struct history *h = ctx;
	int r = header_write(h->w.data_fd, "base.hdr", h->base, e);
	*ret_paths = calloc(1, sizeof **ret_paths);
	(*ret_paths)[0] = strdup("base.hdr");
	*ret_n = 1;
	return r;
}

static void collect(struct history *h)
{
	struct err e = {0};
	struct collect_roots roots = {.headers = base_header, .ctx = h};
	struct collect_stats stats;
	expect_ok(collect_layers(h->w.data_fd, &roots, &stats, &e), &e, "collect");
	// Exactly what is reachable is left, two files each.
	char reachable[MAX_SNAPSHOTS * MAX_BLOCKS + MAX_BLOCKS][UUID_SIZE];
	size_t n = 0;
	for (size_t i = 0; i <= MAX_SNAPSHOTS; i++) {
		_cleanup_(header_freep) struct header *read = NULL;
		const struct header *header = h->base;
		if (i < MAX_SNAPSHOTS) {
			if (!h->snapshots[i].memory)
				continue;
			header = read = read_snapshot(h, &h->snapshots[i]);
		}
		for (uint32_t j = 0; j < header->n_layers; j++) {
			size_t k = 0;
			while (k < n && strcmp(reachable[k], header->layers[j]) != 0)
				k++;
			if (k == n)
				memcpy(reachable[n++], header->layers[j], UUID_SIZE);
		}
	}
	assert_int_equal(stats.kept, n);
	assert_int_equal(world_count_files(h->w.layers_fd, "."), 2 * n);
	h->collections++;
}

static void run_history(struct history *h)
{
	struct err e = {0};
	char image[UUID_SIZE];
	id_new_uuid(image);
	h->size = (1 + rnd(h, MAX_BLOCKS)) * SNAPSHOT_BLOCK;
	h->memory = calloc(1, h->size);
	h->parent = calloc(1, h->size);
	memset(h->dirty, 0, sizeof h->dirty);
	h->base_id[0] = '\0';
	expect_ok(header_new_zero(h->size, image, &h->base, &e), &e, "zero");
	for (int i = 0; i < STEPS; i++) {
		guest_runs(h);
		switch (rnd(h, 8)) {
		case 0:
			restore(h);
			break;
		case 1:
			merge(h);
			break;
		case 2:
			delete (h);
			break;
		case 3:
			collect(h);
			break;
		default:
			take_snapshot(h);
		}
	}
	collect(h);
	for (size_t i = 0; i < MAX_SNAPSHOTS; i++) {
		if (!h->snapshots[i].memory)
			continue;
		_cleanup_(header_freep) struct header *header = read_snapshot(h, &h->snapshots[i]);
		world_expect(&h->w, header, h->snapshots[i].memory);
		expect_ok(snapshot_delete(h->w.data_fd, h->snapshots[i].id, &e), &e, "delete");
		free(h->snapshots[i].memory);
		h->snapshots[i].memory = NULL;
	}
	header_free(h->base);
	free(h->memory);
	free(h->parent);
	expect_ok(header_new_zero(SNAPSHOT_BLOCK, image, &h->base, &e), &e, "zero");
	collect(h);
	assert_int_equal(world_count_files(h->w.layers_fd, "."), 0);
	header_free(h->base);
}

static uint64_t histories = 2000, first_seed;

static void test_histories_agree_with_a_plain_model(void **state)
{
	struct history h = {0};
	world_init(&h.w);
	for (uint64_t i = 0; i < histories; i++) {
		h.seed = first_seed + i;
		print_message(
			"\rseed %" PRIu64 " ", h.seed); // the last one shown is the one that failed
		run_history(&h);
	}
	print_message("\r%" PRIu64 " histories from seed %" PRIu64
		      ": %u snapshots, %u restores, %u merges, %u collections, %u crashes\n",
		histories, first_seed, h.snapshots_made, h.restores, h.merges, h.collections,
		h.crashes + h.merge_crashes);
	// A generator that never does one of these would test nothing.
	assert_true(h.restores && h.merges && h.collections && h.crashes && h.merge_crashes);
	world_done(&h.w);
}

int main(int argc, char **argv)
{
	first_seed = clock_realtime_ns();
	if (argc > 1 && str_to_u64(argv[1], UINT64_MAX, &histories) < 0)
		return 2;
	if (argc > 2 && str_to_u64(argv[2], UINT64_MAX, &first_seed) < 0)
		return 2;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_histories_agree_with_a_plain_model)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
