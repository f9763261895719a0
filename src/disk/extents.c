// SPDX-License-Identifier: Apache-2.0
// FIEMAP as in the kernel's Documentation/filesystems/fiemap.rst.
#include "disk/extents.h"
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include "base/macro.h"

#define AT_ONCE 256u

static int give(const struct fiemap_extent *x, disk_extent_fn f, void *ctx)
{
	const uint32_t nowhere = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC |
				 FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_NOT_ALIGNED;
	if (!(x->fe_flags & FIEMAP_EXTENT_SHARED) || (x->fe_flags & nowhere) || !x->fe_length)
		return 0;
	return f(ctx, x->fe_physical, x->fe_length);
}

int disk_shared_extents(int fd, disk_extent_fn f, void *ctx)
{
	_cleanup_free_ struct fiemap *m = NULL;
	uint64_t from = 0;
	m = malloc(sizeof *m + AT_ONCE * sizeof(struct fiemap_extent));
	if (!m)
		return -ENOMEM;
	for (bool last = false; !last;) {
		*m = (struct fiemap){.fm_start = from,
			.fm_length = FIEMAP_MAX_OFFSET - from,
			.fm_extent_count = AT_ONCE};
		if (RETRY_EINTR(ioctl(fd, FS_IOC_FIEMAP, m)) < 0)
			return errno == ENOTTY || errno == EINVAL ? -EOPNOTSUPP : -errno;
		last = m->fm_mapped_extents < AT_ONCE;
		for (uint32_t i = 0; i < m->fm_mapped_extents; i++) {
			const struct fiemap_extent *x = &m->fm_extents[i];
			int rc = give(x, f, ctx);
			if (rc != 0)
				return rc;
			last |= (x->fe_flags & FIEMAP_EXTENT_LAST) != 0;
			from = x->fe_logical + x->fe_length;
		}
	}
	return 0;
}
