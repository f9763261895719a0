// SPDX-License-Identifier: Apache-2.0
// A copy shares all blocks with the snapshot that it is of. snapshot.json gets all that a
// snapshot's row has, so that host.db can be made anew from the files.
#include "sandbox/capture/snapshots.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/log.h"
#include "disk/disk.h"

// A copy of a small file beside the others of its snapshot, not synced yet.
static int copy_file(
	struct host *h, const char *from, const char *to, const char *name, struct err *e)
{
	char src[128], dst[128];
	snprintf(src, sizeof src, "snapshots/%.36s/%s", from, name);
	snprintf(dst, sizeof dst, "snapshots/%.36s.%s", to, name);
	unlinkat(h->data_fd, dst, 0);
	int rc = disk_clone(h->data_fd, src, dst, 0, NULL, e);
	if (rc == 0 && fchmodat(h->data_fd, dst, 0444, 0) < 0)
		rc = err_errno(e, errno, "%s", dst);
	return rc;
}

int snapshot_put_row(const struct host *h, const struct store_snapshot *row,
	struct snapshot_info *info, struct err *e)
{
	struct seal seal;
	snprintf(info->sandbox, sizeof info->sandbox, "%s", row->info.sandbox);
	snprintf(info->template, sizeof info->template, "%s", row->info.template);
	snprintf(info->image_key, sizeof info->image_key, "%s", row->image_key);
	info->disk_bytes = (uint64_t)row->info.disk_mb << 20;
	int rc = seal_open(h->data_fd, &seal, e);
	return rc < 0 ? rc : seal_token(&seal, info->id, row->token, &info->token, e);
}

int snapshot_copy(struct host *h, const struct source *src, const char *id, enum snapshot_kind kind,
	struct err *e)
{
	static const char *const names[] = {"vmstate", "disk.img", "working_set"};
	struct snapshot_info info = src->info;
	char part[3][64];
	int rc = 0;
	size_t n = src->working_set ? 3 : 2;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		snprintf(part[i], sizeof part[i], "snapshots/%.36s.%s", id, names[i]);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = copy_file(h, src->info.id, id, names[i], e);
	if (rc == 0 && fchmodat(h->data_fd, part[1], 0600, 0) < 0)
		rc = err_errno(e, errno, "%s", part[1]);
	if (rc == 0) {
		snprintf(info.id, sizeof info.id, "%s", id);
		snprintf(info.parent, sizeof info.parent, "%s", src->info.id);
		info.kind = kind;
		info.created_ns = clock_realtime_ns(); // of two pauses the newer one counts
		rc = snapshot_put_row(h, &src->row, &info, e);
	}
	if (rc == 0) {
		rc = snapshot_write(h->data_fd, &info, src->header,
			&(struct snapshot_files){.dirfd = h->data_fd,
				.vmstate = part[0],
				.disk = part[1],
				.working_set = n == 3 ? part[2] : NULL},
			e);
	}
	if (rc == 0 && ((rc = refs_add_snapshot(h->refs, id, src->header)) < 0 ||
			       (rc = refs_name_runtime(h->refs, id, info.runtime)) < 0)) {
		snapshot_delete(h->data_fd, id, NULL);
		err_errno(e, rc, "snapshot %s", id);
	}
	for (size_t i = 0; rc < 0 && i < ARRAY_SIZE(names); i++)
		unlinkat(h->data_fd, part[i], 0);
	return rc;
}

void snapshot_discard(struct host *h, const char *id)
{
	struct err e = {0};
	if (snapshot_delete(h->data_fd, id, &e) < 0)
		log_warn("unfinished snapshot stays for now snapshot=%s error=%s", id, e.text);
	else
		refs_snapshot_gone(h->refs, id);
}
