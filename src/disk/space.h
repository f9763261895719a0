// SPDX-License-Identifier: Apache-2.0
// How much room a file system has.
#pragma once
#include <stdint.h>

struct disk_space {
	uint64_t total, free;	      // bytes; free: to be had by us
	uint64_t inodes, free_inodes; // inodes 0: as many as there is room for
};
// 0 or -errno.
int disk_space(int fd, struct disk_space *ret);
// What is to be kept free: bytes, or so many percent; both 0: 5 %, at least 512 MiB and at most
// 16 GiB, but never more than a quarter.
uint64_t disk_reserve(const struct disk_space *s, uint64_t bytes, unsigned percent);
// The same of inodes: 1,000, but never more than a twentieth.
uint64_t disk_inode_reserve(const struct disk_space *s);
