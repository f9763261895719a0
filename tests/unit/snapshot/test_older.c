// SPDX-License-Identifier: Apache-2.0
// snapshot.json in both formats, sums in both versions, and the seal of tokens. What is older was
// written by the program itself, at 24c09c7 (tests/fixtures).
#include "world.h"
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/proc.h"
#include "snapshot/ingest.h"
#include "snapshot/merge.h"
#include "snapshot/store.h"
#include "snapshot/sums.h"
#include "snapshot/verify.h"
#include "check.h"

#define B SNAPSHOT_BLOCK
#define BLOCKS 16u

static const char snap[] = "99999999-9999-4999-8999-999999999999";
static const char layer_1[] = "11111111-1111-4111-8111-111111111111";
static const char layer_2[] = "22222222-2222-4222-8222-222222222222";
static const char layer_3[] = "33333333-3333-4333-8333-333333333333";
static const char layer_4[] = "44444444-4444-4444-8444-444444444444";
static const char image_6[] = "66666666-6666-4666-8666-666666666666";
static uint8_t memory[BLOCKS * B];

// A world with the old snapshot in it; memory is what it holds.
static void old_world(struct world *w)
{
	struct err e = {0};
	world_init(w);
	const char *const argv[] = {"/bin/sh", "-c", "cp -r \"$0\"/. \"$1\"/data",
		FIXTURES "/24c09c7/data", w->dir, NULL};
	run_ok(proc_run(argv, NULL, 0, 10000, NULL, &e), &e);
	memset(memory, 0, sizeof memory);
	for (unsigned i = 2; i < 8; i++)
		memset(memory + i * B, 'A' + (int)i, B);
	memset(memory + 4 * B, 'a' + 4, B);
	memset(memory + 5 * B, 0, B);
	memset(memory + 6 * B, 'a' + 6, B);
}

static unsigned entry_bytes(struct world *w, const char *id)
{
	struct layer l;
	struct err e = {0};
	run_ok(layer_open(w->layers_fd, id, sizeof memory, &l, &e), &e);
	run_ok(layer_verify(&l, &e), &e);
	unsigned n = l.entry;
	layer_close(&l);
	return n;
}

static void test_a_snapshot_of_format_1_is_read(void **state)
{
	struct world w;
	struct snapshot_info s;
	struct err e = {0};
	char token[SEAL_TOKEN_MAX + 1];
	struct seal key = {0};
	_cleanup_(header_freep) struct header *h = NULL;
	old_world(&w);
	run_ok(snapshot_read(w.data_fd, snap, &s, &h, &e), &e);
	assert_int_equal(s.format, 1);
	assert_int_equal(s.kind, SNAPSHOT_PAUSE);
	assert_int_equal(s.vcpus, 2);
	assert_int_equal(s.tsc_khz, 2400000);
	assert_int_equal(s.disk_size, 6);
	assert_string_equal(s.vmm_state, "qemu-7.2.22");
	assert_string_equal(s.template, ""); // not known
	assert_int_equal(s.sums_xxh3, 0);
	run_ok(unseal_token(&key, snap, &s.token, token, &e), &e);
	assert_string_equal(token, "");
	world_expect(&w, h, memory);
	assert_int_equal(entry_bytes(&w, layer_1), 4);
	assert_int_equal(entry_bytes(&w, layer_2), 4);
	// Byte for byte, in its own format.
	_cleanup_strbuf_ struct strbuf file = {0}, again = {0};
	assert_int_equal(
		file_read(w.data_fd, "snapshots/99999999-9999-4999-8999-999999999999/snapshot.json",
			65536, &file),
		0);
	assert_int_equal(snapshot_encode(&s, &again), 0);
	assert_string_equal(file.data, again.data);
	world_done(&w);
}

static void test_old_layers_take_new_ones_and_merge(void **state)
{
	struct world w;
	struct snapshot_info s;
	struct err e = {0};
	bool dirty[BLOCKS] = {[3] = true, [12] = true};
	_cleanup_(header_freep) struct header *h = NULL, *child = NULL, *merged = NULL, *old = NULL,
					      *again = NULL;
	old_world(&w);
	run_ok(snapshot_read(w.data_fd, snap, &s, &h, &e), &e);
	// The snapshot's own layers alone: its header is replaced, the file keeps its format.
	run_ok(layer_merge(h, w.layers_fd, layer_4, &old, &e), &e);
	run_ok(snapshot_replace_header(w.data_fd, snap, old, &e), &e);
	run_ok(snapshot_read(w.data_fd, snap, &s, &again, &e), &e);
	assert_int_equal(s.format, 1);
	world_expect(&w, again, memory);
	memset(memory + 3 * B, 'x', B);
	memset(memory + 12 * B, 'y', B);
	world_write_diff(&w, "diff", memory, dirty, sizeof memory);
	run_ok(layer_ingest(w.work_fd, "diff", w.layers_fd, layer_3, h, image_6, &child, NULL, &e),
		&e);
	world_expect(&w, child, memory);
	assert_int_equal(child->n_layers, 3);
	char sixth[UUID_SIZE] = "55555555-5555-4555-8555-000000000006";
	run_ok(layer_merge(child, w.layers_fd, sixth, &merged, &e), &e);
	world_expect(&w, merged, memory);
	assert_int_equal(entry_bytes(&w, layer_3), 8);
	assert_int_equal(entry_bytes(&w, layer_4), 8);
	assert_int_equal(entry_bytes(&w, sixth), 8);
	// Of both versions nothing is known as a whole, of the new one it is.
	uint64_t sums = 1;
	run_ok(layers_digest(child, w.layers_fd, &sums, &e), &e);
	assert_int_equal(sums, 0);
	run_ok(layers_digest(merged, w.layers_fd, &sums, &e), &e);
	assert_int_not_equal(sums, 0);
	world_done(&w);
}

static void test_damage_is_found_by_old_sums_too(void **state)
{
	struct world w;
	struct snapshot_info s;
	struct err e = {0};
	uint8_t byte = 'z';
	_cleanup_(header_freep) struct header *h = NULL, *merged = NULL;
	old_world(&w);
	run_ok(snapshot_read(w.data_fd, snap, &s, &h, &e), &e);
	_cleanup_close_ int fd = openat(w.layers_fd, layer_1, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, &byte, 1, 3 * B + 9), 1);
	expect_reason(layer_merge(h, w.layers_fd, layer_3, &merged, &e), &e, layer_1,
		"block at offset 12288 does not match");
	world_done(&w);
}

// An older server was killed between the sums and the layer's name.
static void test_an_ingest_that_an_older_program_began_is_finished(void **state)
{
	struct world w;
	struct snapshot_info s;
	struct err e = {0};
	_cleanup_(header_freep) struct header *h = NULL, *zero = NULL, *one = NULL;
	old_world(&w);
	run_ok(snapshot_read(w.data_fd, snap, &s, &h, &e), &e);
	run_ok(header_new_zero(sizeof memory, image_6, &zero, &e), &e);
	assert_int_equal(renameat(w.layers_fd, layer_1, w.work_fd, "diff"), 0);
	run_ok(layer_ingest(w.work_fd, "diff", w.layers_fd, layer_1, zero, image_6, &one, NULL, &e),
		&e);
	assert_int_equal(entry_bytes(&w, layer_1), 4);
	world_expect(&w, h, memory);
	world_done(&w);
}

static struct snapshot_info full_info(void)
{
	struct snapshot_info s = {.format = 2,
		.kind = SNAPSHOT_FROZEN,
		.sandbox = "iabc",
		.template = "base",
		.accel = "kvm",
		.runtime = "0123",
		.image_key = "key",
		.vmm_name = "fcqemu",
		.agent_version = "1.2",
		.kernel_id = "k",
		.vcpus = 2,
		.memory_bytes = sizeof memory,
		.disk_bytes = 1u << 30,
		.created_ns = 1795495580494351964ull,
		.quiesced = true,
		.token = {.epoch = 3, .key_id = "0123456789abcdef", .sealed = "00"},
		.auth_key_id = "a",
		.auth_alg = "b",
		.auth_mac = "c",
		.header_xxh3 = 1,
		.vmstate_xxh3 = UINT64_MAX,
		.sums_xxh3 = 3};
	cpu_describe(&s.cpu);
	snprintf(s.id, sizeof s.id, "%s", snap);
	snprintf(s.image, sizeof s.image, "%s", image_6);
	memset(s.vmm_sha256, 'f', 64);
	return s;
}

static void refused(const char *text, const char *from, const char *to, const char *reason)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct snapshot_info s;
	struct err e = {0};
	const char *at = strstr(text, from);
	assert_non_null(at);
	strbuf_add(&b, text, (size_t)(at - text));
	strbuf_adds(&b, to);
	strbuf_adds(&b, at + strlen(from));
	expect_reason(snapshot_decode(b.data, b.len, &s, &e), &e, "", reason);
}

static void test_format_2_keeps_every_member(void **state)
{
	struct snapshot_info s = full_info(), again, bare = {.format = 2, .vcpus = 1};
	_cleanup_strbuf_ struct strbuf b = {0}, c = {0};
	struct err e = {0};
	assert_int_equal(snapshot_encode(&s, &b), 0);
	run_ok(snapshot_decode(b.data, b.len, &again, &e), &e);
	assert_memory_equal(&s, &again, sizeof s);
	refused(b.data, "\"vcpus\":2", "\"vcpus\":0", "vcpus: must be a number");
	refused(b.data, "\"frozen\"", "\"molten\"", "kind: is unknown");
	refused(b.data, "\"quiesced\":true", "\"quiesced\":1", "quiesced: must be true or false");
	refused(b.data, "\"vcpus\":2", "\"vcpus\":3", "checksum does not match");
	refused(b.data, "\"template\":\"base\",", "", "template: must be a text");
	// What is not known is null, and read as such.
	snprintf(bare.id, sizeof bare.id, "%s", snap);
	snprintf(bare.image, sizeof bare.image, "%s", image_6);
	memset(bare.vmm_sha256, 'f', 64);
	bare.memory_bytes = B;
	assert_int_equal(snapshot_encode(&bare, &c), 0);
	run_ok(snapshot_decode(c.data, c.len, &again, &e), &e);
	assert_memory_equal(&bare, &again, sizeof bare);
	assert_non_null(strstr(c.data, "\"token\":null"));
	assert_non_null(strstr(c.data, "\"auth\":null"));
	assert_non_null(strstr(c.data, "\"image_key\":null"));
	assert_non_null(strstr(c.data, "\"sums\":null"));
	// A whole key of a later time, with a right checksum.
	_cleanup_strbuf_ struct strbuf d = {0};
	bare.format = 1;
	assert_int_equal(snapshot_encode(&bare, &d), 0);
	assert_null(strstr(d.data, "token"));
}

// --- tokens

static void *open_key(void *arg)
{
	struct seal *s = calloc(1, sizeof *s);
	return seal_open(*(int *)arg, s, NULL) == 0 ? s : NULL;
}

static void test_all_who_need_a_key_get_the_same(void **state)
{
	struct world w;
	struct stat st;
	pthread_t threads[8];
	struct seal *keys[8];
	world_init(&w);
	for (int i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, open_key, &w.data_fd), 0);
	for (int i = 0; i < 8; i++) {
		pthread_join(threads[i], (void **)&keys[i]);
		assert_non_null(keys[i]);
		assert_memory_equal(keys[0], keys[i], sizeof *keys[0]);
	}
	for (int i = 0; i < 8; i++)
		free(keys[i]);
	assert_int_equal(fstatat(w.data_fd, SEAL_KEY_FILE, &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(st.st_size, 32);
	assert_int_equal(world_count_files(w.data_fd, "."), 3); // layers, snapshots, the key
	world_done(&w);
}

static void test_a_token_is_for_its_key_and_snapshot_alone(void **state)
{
	struct world w;
	struct err e = {0};
	struct seal key, other = {.key = "x", .key_id = "0000000000000000"};
	struct snapshot_token t, twice;
	char token[SEAL_TOKEN_MAX + 1], longest[SEAL_TOKEN_MAX + 2];
	world_init(&w);
	run_ok(seal_open(w.data_fd, &key, &e), &e);
	run_ok(seal_token(&key, snap, "secret", &t, &e), &e);
	run_ok(seal_token(&key, snap, "secret", &twice, &e), &e);
	assert_string_not_equal(t.sealed, twice.sealed); // another nonce
	assert_null(strstr(t.sealed, "736563726574"));
	run_ok(unseal_token(&key, snap, &t, token, &e), &e);
	assert_string_equal(token, "secret");
	expect_reason(unseal_token(&other, snap, &t, token, &e), &e, snap, "memory cannot");
	assert_int_equal(e.code, ERR_UNAVAILABLE);
	expect_reason(unseal_token(&key, layer_1, &t, token, &e), &e, layer_1, "another snapshot");
	assert_string_equal(token, "");
	for (size_t i = 0; i < strlen(t.sealed); i++) {
		char kept = t.sealed[i];
		t.sealed[i] = kept == '0' ? '1' : '0';
		assert_true(unseal_token(&key, snap, &t, token, &e) < 0);
		t.sealed[i] = kept;
	}
	t.sealed[20] = '\0';
	assert_true(unseal_token(&key, snap, &t, token, &e) < 0);
	memset(longest, 'l', SEAL_TOKEN_MAX + 1);
	longest[SEAL_TOKEN_MAX + 1] = '\0';
	assert_true(seal_token(&key, snap, longest, &t, &e) < 0);
	longest[SEAL_TOKEN_MAX] = '\0';
	run_ok(seal_token(&key, snap, longest, &t, &e), &e);
	run_ok(unseal_token(&key, snap, &t, token, &e), &e);
	assert_string_equal(token, longest);
	// A key file that was cut short is not replaced.
	assert_int_equal(file_write_atomic(w.data_fd, SEAL_KEY_FILE, "short", 5, 0600), 0);
	expect_reason(seal_open(w.data_fd, &key, &e), &e, SEAL_KEY_FILE, "not a key");
	world_done(&w);
}

// --- replaced headers

static void test_a_replacement_that_was_cut_short_is_read(void **state)
{
	struct world w;
	struct err e = {0};
	struct snapshot_info s = full_info(), again;
	bool dirty[BLOCKS] = {[1] = true, [2] = true};
	char path[128];
	_cleanup_(header_freep) struct header *zero = NULL, *one = NULL, *two = NULL,
					      *merged = NULL;
	world_init(&w);
	memset(memory, 'm', sizeof memory);
	run_ok(header_new_zero(sizeof memory, image_6, &zero, &e), &e);
	world_write_diff(&w, "diff", memory, dirty, sizeof memory);
	run_ok(layer_ingest(w.work_fd, "diff", w.layers_fd, layer_1, zero, image_6, &one, NULL, &e),
		&e);
	dirty[1] = false;
	world_write_diff(&w, "diff", memory, dirty, sizeof memory);
	run_ok(layer_ingest(w.work_fd, "diff", w.layers_fd, layer_2, one, image_6, &two, NULL, &e),
		&e);
	assert_int_equal(file_write_atomic(w.work_fd, "state", "s", 1, 0600), 0);
	struct snapshot_files files = {w.work_fd, "state", NULL, NULL};
	run_ok(snapshot_write(w.data_fd, &s, two, &files, &e), &e);
	assert_int_not_equal(s.header_xxh3, 0);
	assert_int_not_equal(s.sums_xxh3, 0);
	run_ok(layer_merge(two, w.layers_fd, layer_3, &merged, &e), &e);
	// Another header under the old digest is refused: snapshot.json is first.
	snprintf(path, sizeof path, "snapshots/%s/memory.hdr", snap);
	run_ok(header_write(w.data_fd, path, merged, &e), &e);
	expect_reason(snapshot_read(w.data_fd, snap, &again, NULL, &e), &e, "memory.hdr",
		"another snapshot");
	run_ok(header_write(w.data_fd, path, two, &e), &e);
	run_ok(snapshot_replace_header(w.data_fd, snap, merged, &e), &e);
	run_ok(snapshot_read(w.data_fd, snap, &again, NULL, &e), &e);
	assert_int_not_equal(again.header_xxh3, s.header_xxh3);
	assert_int_not_equal(again.sums_xxh3, s.sums_xxh3);
	assert_int_not_equal(again.sums_xxh3, 0);
	// Where it ended after the first write, or the second.
	_cleanup_strbuf_ struct strbuf b = {0};
	again.header_xxh3 = again.sums_xxh3 = 0;
	assert_int_equal(snapshot_encode(&again, &b), 0);
	snprintf(path, sizeof path, "snapshots/%s/snapshot.json", snap);
	assert_int_equal(file_write_atomic(w.data_fd, path, b.data, b.len, 0644), 0);
	run_ok(snapshot_read(w.data_fd, snap, &again, NULL, &e), &e);
	snprintf(path, sizeof path, "snapshots/%s/memory.hdr", snap);
	run_ok(header_write(w.data_fd, path, two, &e), &e);
	run_ok(snapshot_read(w.data_fd, snap, &again, NULL, &e), &e);
	world_done(&w);
}

// --- one verification for all who wait

#define LARGE (4096u * B) // 16 MiB

static uint64_t bytes_read(void)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	assert_int_equal(file_read(AT_FDCWD, "/proc/self/io", 4096, &b), 0);
	return strtoull(b.data + strlen("rchar: "), NULL, 10);
}

struct verification {
	struct world *w;
	pthread_barrier_t *together;
	char record[300];
};

static void *verify(void *arg)
{
	struct verification *v = arg;
	pthread_barrier_wait(v->together);
	return (void *)(intptr_t)layer_verify_once(
		v->w->layers_fd, layer_1, LARGE, v->record, NULL);
}

static void test_callers_at_the_same_time_read_a_layer_once(void **state)
{
	enum { N = 6 };
	struct world w;
	struct err e = {0};
	pthread_t threads[N];
	pthread_barrier_t together;
	struct verification v = {&w, &together};
	_cleanup_free_ uint8_t *large = malloc(LARGE);
	_cleanup_free_ bool *dirty = malloc(LARGE / B);
	_cleanup_(header_freep) struct header *zero = NULL, *one = NULL;
	world_init(&w);
	memset(large, 'v', LARGE);
	memset(dirty, true, LARGE / B);
	world_write_diff(&w, "diff", large, dirty, LARGE);
	run_ok(header_new_zero(LARGE, image_6, &zero, &e), &e);
	run_ok(layer_ingest(w.work_fd, "diff", w.layers_fd, layer_1, zero, image_6, &one, NULL, &e),
		&e);
	snprintf(v.record, sizeof v.record, "%s/work/verified", w.dir);
	pthread_barrier_init(&together, NULL, N);
	uint64_t before = bytes_read();
	for (int i = 0; i < N; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, verify, &v), 0);
	for (int i = 0; i < N; i++) {
		void *result;
		pthread_join(threads[i], &result);
		assert_null(result);
	}
	assert_in_range(bytes_read() - before, LARGE, 2 * LARGE - 1);
	pthread_barrier_destroy(&together);
	world_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_snapshot_of_format_1_is_read),
		cmocka_unit_test(test_old_layers_take_new_ones_and_merge),
		cmocka_unit_test(test_damage_is_found_by_old_sums_too),
		cmocka_unit_test(test_an_ingest_that_an_older_program_began_is_finished),
		cmocka_unit_test(test_format_2_keeps_every_member),
		cmocka_unit_test(test_all_who_need_a_key_get_the_same),
		cmocka_unit_test(test_a_token_is_for_its_key_and_snapshot_alone),
		cmocka_unit_test(test_a_replacement_that_was_cut_short_is_read),
		cmocka_unit_test(test_callers_at_the_same_time_read_a_layer_once),
	};
	return cmocka_run_group_tests_name("snapshot: older and newer", tests, NULL, NULL);
}
