// SPDX-License-Identifier: Apache-2.0
#include "disk/space.h"
#include <sys/statvfs.h>
#include "base/macro.h"

#define DEFAULT_PERCENT 5u
#define DEFAULT_MIN (512ull << 20)
#define DEFAULT_MAX (16ull << 30)
#define INODES 1000u

int disk_space(int fd, struct disk_space *ret)
{
	struct statvfs fs;
	if (fstatvfs(fd, &fs) < 0)
		return -errno;
	*ret = (struct disk_space){.total = (uint64_t)fs.f_blocks * fs.f_frsize,
		.free = (uint64_t)fs.f_bavail * fs.f_frsize,
		.inodes = fs.f_files,
		.free_inodes = fs.f_favail};
	return 0;
}

uint64_t disk_reserve(const struct disk_space *s, uint64_t bytes, unsigned percent)
{
	if (bytes)
		return bytes;
	if (percent)
		return s->total / 100 * percent;
	uint64_t want = s->total / 100 * DEFAULT_PERCENT;
	want = MIN(MAX(want, DEFAULT_MIN), DEFAULT_MAX);
	return MIN(want, s->total / 4);
}

uint64_t disk_inode_reserve(const struct disk_space *s)
{
	return MIN((uint64_t)INODES, s->inodes / 20);
}
