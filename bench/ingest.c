// SPDX-License-Identifier: Apache-2.0
// Making a layer of a diff against memcpy, and finding blocks after 30 generations against 1.
//
//	bench-ingest DIR [MIB]
//
// Also: ingest of 64 MiB in runs of 1 to 64 blocks of memories of 1 and 8 GiB, the diff durable
// before, as a VMM leaves it; what it costs to find blocks that the parent has as well, in pairs;
// merge of a chain of 30 layers of 1 GiB. On tmpfs syncs cost nothing:
// run with DIR=/dev/shm and on the data volume, the difference is the time for fsync.
//
// The diff is in the page cache and on disk, so that what is measured is the scan: extents, zero
// test, sums, header. Floor: memcpy of as many bytes, both buffers touched before. Medians,
// interleaved.
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/file.h"
#include "snapshot/ingest.h"
#include "snapshot/merge.h"
#include "snapshot/verify.h"

#define ROUNDS 7
#define BLOCK SNAPSHOT_BLOCK

static uint64_t size;

static void check(int r, const struct err *e)
{
	if (r < 0) {
		fprintf(stderr, "%s\n", err_text(e, r));
		exit(1);
	}
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static double median(double *v)
{
	qsort(v, ROUNDS, sizeof *v, compare_double);
	return v[ROUNDS / 2];
}

static double ingest(int dir, int layers, const uint8_t *data, const struct header *zero)
{
	struct err e = {0};
	char id[UUID_SIZE], image[UUID_SIZE];
	_cleanup_(header_freep) struct header *h = NULL;
	_cleanup_close_ int fd = openat(dir, "diff", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	check(file_write_full(fd, data, size), NULL);
	fsync(fd);
	id_new_uuid(id);
	id_new_uuid(image);
	uint64_t t0 = clock_monotonic_ns();
	check(layer_ingest(dir, "diff", layers, id, zero, image, &h, NULL, &e), &e);
	double ns = (double)(clock_monotonic_ns() - t0);
	check(layer_remove(layers, id), NULL);
	return (double)size / ns;
}

static double copy(uint8_t *to, const uint8_t *from)
{
	uint64_t t0 = clock_monotonic_ns();
	memcpy(to, from, size);
	__asm__ volatile("" : : "r"(to) : "memory");
	return (double)size / (double)(clock_monotonic_ns() - t0);
}

static uint64_t rnd(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	return *s ^= *s << 17;
}

// A generation dirties a twentieth of memory, in runs of 1 to 16 blocks.
static struct header *generations(unsigned n)
{
	struct err e = {0};
	struct header *h, *child;
	char id[UUID_SIZE];
	uint64_t seed = 99, blocks = (1ull << 30) / BLOCK;
	struct header_range *ranges = calloc(blocks, sizeof *ranges);
	id_new_uuid(id);
	check(header_new_zero(blocks * BLOCK, id, &h, &e), &e);
	for (unsigned g = 0; g < n; g++) {
		size_t k = 0;
		if (g == 0)
			ranges[k++] = (struct header_range){0, blocks * BLOCK, false};
		for (uint64_t b = rnd(&seed) % 300; g && b + 16 < blocks;
			b += 17 + rnd(&seed) % 300) {
			uint64_t len = 1 + rnd(&seed) % 16;
			ranges[k++] =
				(struct header_range){b * BLOCK, len * BLOCK, rnd(&seed) % 8 == 0};
		}
		id_new_uuid(id);
		check(header_overlay(h, id, id, ranges, k, &child, &e), &e);
		header_free(h);
		h = child;
	}
	free(ranges);
	return h;
}

static double lookup_ns(const struct header *h)
{
	uint64_t seed = 7, sum = 0, n = 1000000, t0 = clock_monotonic_ns();
	for (uint64_t i = 0; i < n; i++)
		sum += header_find(h, rnd(&seed) % h->size)->layer;
	__asm__ volatile("" : : "r"(sum));
	return (double)(clock_monotonic_ns() - t0) / (double)n;
}

// --- sparse diffs and merges

// A file with about bytes of data in runs of 1 to 64 blocks.
static void sparse_diff(int dir, uint64_t memory, uint64_t bytes, uint64_t *seed)
{
	static uint8_t run[64 * BLOCK];
	_cleanup_close_ int fd = openat(dir, "diff", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	uint64_t gap = memory / BLOCK * 32 / (bytes / BLOCK) * 2;
	if (fd < 0 || ftruncate(fd, (off_t)memory) < 0)
		exit(1);
	for (uint64_t b = rnd(seed) % gap; b + 64 < memory / BLOCK; b += 64 + rnd(seed) % gap) {
		uint64_t len = 1 + rnd(seed) % 64;
		for (uint64_t i = 0; i < len * BLOCK; i += 64)
			memcpy(run + i, &(uint64_t){rnd(seed)}, 8);
		if (pwrite(fd, run, len * BLOCK, (off_t)(b * BLOCK)) != (ssize_t)(len * BLOCK))
			exit(1);
	}
	if (fsync(fd) < 0)
		exit(1);
}

static struct header *ingest_sparse(int dir, int layers, const struct header *parent,
	uint64_t bytes, uint64_t *seed, double *ret_ms, struct layer_stats *ret_stats)
{
	struct err e = {0};
	struct header *child;
	char id[UUID_SIZE], image[UUID_SIZE];
	sparse_diff(dir, parent->size, bytes, seed);
	id_new_uuid(id);
	id_new_uuid(image);
	uint64_t t0 = clock_monotonic_ns();
	check(layer_ingest(dir, "diff", layers, id, parent, image, &child, ret_stats, &e), &e);
	*ret_ms = (double)(clock_monotonic_ns() - t0) / 1e6;
	return child;
}

static void bench_sparse(int dir, int layers, uint64_t memory)
{
	struct err e = {0};
	double ms[ROUNDS];
	struct layer_stats st;
	struct header *zero;
	char image[UUID_SIZE];
	uint64_t seed = 5;
	id_new_uuid(image);
	check(header_new_zero(memory, image, &zero, &e), &e);
	for (int i = 0; i < ROUNDS; i++) {
		struct header *h =
			ingest_sparse(dir, layers, zero, 64ull << 20, &seed, &ms[i], &st);
		check(layer_remove(layers, h->layers[0]), NULL);
		header_free(h);
	}
	header_free(zero);
	printf("ingest of %" PRIu64 " MiB of %" PRIu64 " MiB: %.1f ms\n", st.data_bytes >> 20,
		memory >> 20, median(ms));
}

// --- what the parent has

#define TRIM_MEMORY (256ull << 20)
#define TRIM_LAYERS 8

static double cpu_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

// Every other 128 KiB of the image, one block in one_in of it changed.
static void diff_of(int dir, uint8_t *image, uint64_t one_in, uint64_t *seed)
{
	enum { RUN = 128 << 10 };
	_cleanup_close_ int fd = openat(dir, "diff", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, TRIM_MEMORY) < 0)
		exit(1);
	for (uint64_t at = 0; at < TRIM_MEMORY; at += 2 * RUN) {
		for (uint64_t b = 0; b < RUN; b += BLOCK)
			if (rnd(seed) % one_in == 0)
				memcpy(image + at + b, &(uint64_t){rnd(seed)}, 8);
		if (pwrite(fd, image + at, RUN, (off_t)at) != RUN)
			exit(1);
	}
	if (fsync(fd) < 0)
		exit(1);
}

// CPU of an ingest, milliseconds for a MiB of the diff.
static double ingest_over(int dir, int layers, const struct header *parent, struct layer_stats *st,
	struct header **ret)
{
	struct err e = {0};
	char id[UUID_SIZE], image[UUID_SIZE];
	id_new_uuid(id);
	id_new_uuid(image);
	double t0 = cpu_ms();
	check(layer_ingest(dir, "diff", layers, id, parent, image, ret, st, &e), &e);
	double ms = cpu_ms() - t0;
	return ms * (1 << 20) / (double)(st->data_bytes + st->zero_bytes + st->same_bytes);
}

static void drop_ingested(int layers, struct header *h, const struct header *parent)
{
	for (uint32_t i = parent->n_layers; i < h->n_layers; i++)
		check(layer_remove(layers, h->layers[i]), NULL);
	header_free(h);
}

// The same diff over an empty image, where nothing is compared, and over its parent.
static void bench_trim(int dir, int layers)
{
	static const uint64_t rates[] = {1, 16, 1024};
	struct err e = {0};
	struct header *zero, *parent, *h;
	struct layer_stats st;
	char id[UUID_SIZE];
	uint64_t seed = 17;
	uint8_t *image = calloc(1, TRIM_MEMORY);
	id_new_uuid(id);
	check(header_new_zero(TRIM_MEMORY, id, &zero, &e), &e);
	parent = zero;
	for (int i = 0; i < TRIM_LAYERS; i++, parent = h) {
		diff_of(dir, image, i ? 8 : 1, &seed);
		ingest_over(dir, layers, parent, &st, &h);
		if (parent != zero)
			header_free(parent);
	}
	for (size_t k = 0; k < ARRAY_SIZE(rates); k++) {
		double without[ROUNDS], with[ROUNDS];
		uint64_t kept = 0, written = 0;
		for (int i = 0; i < ROUNDS; i++) {
			// From the parent's content, each round.
			_cleanup_close_ int fd =
				openat(dir, "image", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
			check(layer_materialise(parent, layers, fd, &e), &e);
			if (pread(fd, image, TRIM_MEMORY, 0) != (ssize_t)TRIM_MEMORY)
				exit(1);
			uint64_t again = seed;
			diff_of(dir, image, rates[k], &again);
			without[i] = ingest_over(dir, layers, zero, &st, &h);
			drop_ingested(layers, h, zero);
			diff_of(dir, image, UINT64_MAX, &again);
			with[i] = ingest_over(dir, layers, parent, &st, &h);
			drop_ingested(layers, h, parent);
			kept = st.data_bytes;
			written = st.data_bytes + st.zero_bytes + st.same_bytes;
		}
		printf("ingest of %" PRIu64 " MiB over %u layers, one block in %" PRIu64
		       " changed: %.3f ms of CPU for a MiB, %.3f over nothing; %.1f MiB kept\n",
			written >> 20, parent->n_layers, rates[k], median(with), median(without),
			(double)kept / (1 << 20));
	}
	for (uint32_t i = 0; i < parent->n_layers; i++)
		check(layer_remove(layers, parent->layers[i]), NULL);
	header_free(parent);
	header_free(zero);
	free(image);
}

static uint64_t written_bytes(void)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	if (file_read(AT_FDCWD, "/proc/self/io", 4096, &b) < 0)
		return 0;
	const char *p = strstr(b.data, "\nwrite_bytes: ");
	return p ? strtoull(p + 14, NULL, 10) : 0;
}

static void bench_merge(int dir, int layers)
{
	struct err e = {0};
	struct header *h, *child;
	char id[UUID_SIZE];
	uint64_t seed = 11;
	double ms;
	id_new_uuid(id);
	check(header_new_zero(1ull << 30, id, &h, &e), &e);
	for (int i = 0; i < 30; i++) {
		child = ingest_sparse(dir, layers, h, (i ? 16ull : 256ull) << 20, &seed, &ms, NULL);
		header_free(h);
		h = child;
	}
	uint64_t small = 0, t0, w0 = written_bytes();
	for (size_t i = 0; i < h->n_maps; i++)
		small += h->maps[i].layer != HEADER_ZERO && h->maps[i].blocks < 16;
	id_new_uuid(id);
	t0 = clock_monotonic_ns();
	check(layer_merge(h, layers, id, &child, &e), &e);
	ms = (double)(clock_monotonic_ns() - t0) / 1e6;
	printf("merge of %u layers, %" PRIu64 " MiB in %zu mappings (%" PRIu64
	       " shorter than 64 KiB): %.0f ms, %" PRIu64 " MiB written\n",
		h->n_layers, header_data_bytes(h) >> 20, h->n_maps, small, ms,
		(written_bytes() - w0) >> 20);
	double once[ROUNDS], known[ROUNDS];
	for (int i = 0; i < ROUNDS; i++) {
		char record[64];
		snprintf(record, sizeof record, "/proc/self/fd/%d/verified%d", dir, i);
		t0 = clock_monotonic_ns();
		check(layer_verify_once(layers, id, h->size, record, &e), &e);
		once[i] = (double)(clock_monotonic_ns() - t0) / 1e6;
		t0 = clock_monotonic_ns();
		check(layer_verify_once(layers, id, h->size, record, &e), &e);
		known[i] = (double)(clock_monotonic_ns() - t0) / 1e6;
	}
	printf("verification of the merged layer: %.1f ms, %.3f ms when it is known\n",
		median(once), median(known));
	header_free(h);
	header_free(child);
}

int main(int argc, char **argv)
{
	uint64_t mib = 256;
	struct err e = {0};
	if (argc < 2 || (argc > 2 && str_to_u64(argv[2], 16384, &mib) < 0)) {
		fprintf(stderr, "usage: %s DIR [MIB]\n", argv[0]);
		return 2;
	}
	size = mib << 20;
	char path[512], image[UUID_SIZE];
	if (str_format(path, sizeof path, "%s/stasis-bench-ingest-XXXXXX", argv[1]) < 0 ||
		!mkdtemp(path)) {
		perror(argv[1]);
		return 1;
	}
	int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	check(mkdirat(dir, "layers", 0700), NULL);
	int layers = openat(dir, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint8_t *a = malloc(size), *b = malloc(size);
	uint64_t seed = 3;
	for (uint64_t i = 0; i < size; i += 8)
		memcpy(a + i, &(uint64_t){rnd(&seed)}, 8);
	memset(b, 1, size);
	struct header *zero;
	id_new_uuid(image);
	check(header_new_zero(size, image, &zero, &e), &e);
	double in[ROUNDS], mem[ROUNDS];
	for (int i = 0; i < ROUNDS; i++) {
		mem[i] = copy(b, a);
		in[i] = ingest(dir, layers, a, zero);
	}
	double m = median(mem), g = median(in);
	printf("ingest of %" PRIu64 " MiB: %.1f GB/s, memcpy %.1f GB/s: %.0f %%\n", mib, g, m,
		g / m * 100);
	header_free(zero);

	bench_sparse(dir, layers, 1ull << 30);
	bench_sparse(dir, layers, 8ull << 30);
	bench_trim(dir, layers);
	bench_merge(dir, layers);

	double l1[ROUNDS], l30[ROUNDS];
	struct header *one = generations(1), *thirty = generations(30);
	for (int i = 0; i < ROUNDS; i++) {
		l1[i] = lookup_ns(one);
		l30[i] = lookup_ns(thirty);
	}
	printf("lookup of a random block: %.0f ns after 1 generation, %.0f ns after 30 (%zu "
	       "mappings)\n",
		median(l1), median(l30), thirty->n_maps);
	header_free(one);
	header_free(thirty);
	free(a);
	free(b);
	close(layers);
	close(dir);
	return file_rm_rf(AT_FDCWD, path) < 0;
}
