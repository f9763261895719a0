// SPDX-License-Identifier: Apache-2.0
// Making a layer of a diff against memcpy, and finding blocks after 30 generations against 1.
//
//	bench-ingest DIR [MIB]
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
#include "snapshot/layer.h"

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
