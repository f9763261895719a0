// SPDX-License-Identifier: Apache-2.0
// Which blocks of a file other files have too.
#pragma once
#include <stdint.h>

// A run of blocks of the file system, in bytes; where is its place there (fiemap's fe_physical):
// two files share what overlaps.
typedef int (*disk_extent_fn)(void *ctx, uint64_t where, uint64_t len);
// Calls f with each extent of an open regular file that is shared (FIEMAP_EXTENT_SHARED: reflink
// copies, on XFS and Btrfs). Nothing is written out first: what is not on the disk yet is nobody
// else's. 0; -EOPNOTSUPP where the file system tells no extents (tmpfs); what f returns other than
// 0.
int disk_shared_extents(int fd, disk_extent_fn f, void *ctx);
