// SPDX-License-Identifier: Apache-2.0
// The disk of a new sandbox: disk_clone against a bare FICLONE ioctl on the same file, in turns.
//
//	bench-clone FILE [rounds]	FILE: a root file system on the data volume
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include "base/clock.h"
#include "base/str.h"
#include "disk/disk.h"

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static int bare_clone(const char *src, const char *dst)
{
	_cleanup_close_ int in = open(src, O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int out = open(dst, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return in < 0 || out < 0 || ioctl(out, FICLONE, in) < 0 ? -errno : 0;
}

int main(int argc, char **argv)
{
	uint64_t ours[200], bare[200];
	uint64_t n = 50;
	struct err e = {0};
	enum disk_clone_method method = DISK_CLONE_SPARSE;
	if (argc < 2 || (argc > 2 && (str_to_u64(argv[2], ARRAY_SIZE(ours), &n) < 0 || !n))) {
		fprintf(stderr, "usage: bench-clone FILE [rounds up to 200]\n");
		return 2;
	}
	_cleanup_free_ char *dst = str_printf("%s.bench", argv[1]);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t t = clock_monotonic_ns();
		int rc = bare_clone(argv[1], dst);
		bare[i] = clock_monotonic_ns() - t;
		unlink(dst);
		if (rc < 0) {
			fprintf(stderr, "bench-clone: no reflink here: %s\n", strerror(-rc));
			return 1;
		}
		t = clock_monotonic_ns();
		rc = disk_clone(AT_FDCWD, argv[1], dst, 0, &method, &e);
		ours[i] = clock_monotonic_ns() - t;
		unlink(dst);
		if (rc < 0) {
			fprintf(stderr, "bench-clone: %s\n", e.text);
			return 1;
		}
	}
	qsort(ours, n, sizeof *ours, compare);
	qsort(bare, n, sizeof *bare, compare);
	printf("disk_clone (%s) p50 %.3f ms, bare FICLONE p50 %.3f ms, n %lu (goal: under 5 ms)\n",
		method == DISK_CLONE_REFLINK ? "reflink" : "copy", (double)ours[n / 2] / 1e6,
		(double)bare[n / 2] / 1e6, n);
	return 0;
}
