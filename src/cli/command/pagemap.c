// SPDX-License-Identifier: Apache-2.0
#include "cli/command/pagemap.h"
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/macro.h"
#include "base/missing.h"

#define TRIED (16u << 20)
#define CHUNK (256u << 10)
#define ASKED (100u << 20)

static uint64_t clock_thread_cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

bool pagemap_scan_works(void)
{
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t here = (uint64_t)(uintptr_t)&fd & ~4095ull;
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof arg,
		.start = here,
		.end = here + 4096,
		.vec = (uint64_t)(uintptr_t)&region,
		.vec_len = 1,
		.category_anyof_mask = PAGE_IS_PRESENT,
		.return_mask = PAGE_IS_PRESENT,
	};
	return !getenv("STASIS_NO_PAGEMAP_SCAN") && fd >= 0 && ioctl(fd, PAGEMAP_SCAN, &arg) >= 0;
}

static bool is_same(int fd, uint8_t *memory, uint8_t *a, uint8_t *b)
{
	for (size_t at = 0; at < TRIED; at += CHUNK) {
		struct iovec to = {a, CHUNK}, from = {memory + at, CHUNK};
		if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != (ssize_t)CHUNK ||
			pread(fd, b, CHUNK, (off_t)at) != (ssize_t)CHUNK ||
			memcmp(a, b, CHUNK) != 0)
			return false;
	}
	return true;
}

uint64_t pagemap_compare_ms(void)
{
	_cleanup_close_ int fd = memfd_create("compare", MFD_CLOEXEC);
	_cleanup_free_ uint8_t *memory = malloc(TRIED), *a = malloc(CHUNK), *b = malloc(CHUNK);
	if (fd < 0 || !memory || !a || !b)
		return 0;
	memset(memory, 1, TRIED);
	if (file_write_full(fd, memory, TRIED) < 0)
		return 0;
	uint64_t began = clock_thread_cpu_ns();
	bool same = is_same(fd, memory, a, b);
	uint64_t us = (clock_thread_cpu_ns() - began) / 1000;
	return same ? us * (ASKED / CHUNK) / (TRIED / CHUNK) / 1000 + 1 : 0;
}
