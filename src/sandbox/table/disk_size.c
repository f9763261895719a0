// SPDX-License-Identifier: Apache-2.0
#include "sandbox/table/disk_size.h"
#include "base/str.h"
#include "disk/disk.h"

uint64_t disk_size(const struct host *h, const struct host_sandbox *s)
{
	char path[128];
	uint64_t bytes;
	int rc = s->state == SANDBOX_PAUSED
			 ? str_format(path, sizeof path, "snapshots/%s/disk.img", s->snapshot)
			 : str_format(path, sizeof path, "sandboxes/%s/rootfs.img", s->id);
	if (s->state == SANDBOX_STOPPED || rc < 0 || disk_usage(h->data_fd, path, &bytes) < 0)
		return 0;
	return bytes;
}
