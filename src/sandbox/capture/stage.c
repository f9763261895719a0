// SPDX-License-Identifier: Apache-2.0
// Names of the parts, and how they are taken out of the jail's directory.
#include "sandbox/capture/stage.h"
#include <unistd.h>
#include "base/str.h"
#include "disk/disk.h"

void stage_names(const char *snapshot, const char *layer, struct stage *ret)
{
	snprintf(ret->mem, sizeof ret->mem, "layers/%.36s.diff", layer);
	snprintf(ret->state, sizeof ret->state, "snapshots/%.36s.vmstate", snapshot);
	snprintf(ret->disk, sizeof ret->disk, "snapshots/%.36s.disk.img", snapshot);
	snprintf(
		ret->working_set, sizeof ret->working_set, "snapshots/%.36s.working_set", snapshot);
}

int stage_take(
	struct host *h, int dir, const char *from, const char *to, uint64_t max, struct err *e)
{
	int rc = disk_take(dir, from, h->data_fd, to, 0444, max, e);
	if (rc == 0 && unlinkat(dir, from, 0) < 0)
		rc = err_errno(e, errno, "%s", from);
	return rc;
}

void stage_drop(struct host *h, int dir, const struct stage *g)
{
	static const char *const jail[] = {
		SNAP_MEM, SNAP_MEM ".tmp", SNAP_STATE, SNAP_STATE ".tmp"};
	const char *const ours[] = {g->mem, g->state, g->disk, g->working_set};
	for (size_t i = 0; dir >= 0 && i < ARRAY_SIZE(jail); i++)
		unlinkat(dir, jail[i], 0);
	for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
		char begun[sizeof g->mem + sizeof DISK_TAKE_SUFFIX];
		snprintf(begun, sizeof begun, "%s" DISK_TAKE_SUFFIX, ours[i]);
		unlinkat(h->data_fd, begun, 0);
		if (ours[i][0])
			unlinkat(h->data_fd, ours[i], 0);
	}
}
