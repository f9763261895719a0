// SPDX-License-Identifier: Apache-2.0
// Base images as the host shows them. (Templates that are snapshots: life/snapshots.c.)
#include "base/clock.h"
#include "base/log.h"
#include "disk/disk.h"
#include "disk/image.h"
#include "sandbox/machine/source.h"

int host_templates(struct host *h, struct host_template **ret, size_t *ret_n, struct err *e)
{
	_cleanup_free_ struct image_info *images = NULL;
	size_t n = 0, damaged = 0;
	int rc = image_list(h->data_dir, &images, &n, &damaged, e);
	if (rc < 0)
		return rc;
	if (damaged)
		log_warn("templates left out because they are damaged count=%zu", damaged);
	struct host_template *list = calloc(n + 1, sizeof *list);
	if (!list)
		return err_errno(e, ENOMEM, "list of templates");
	for (size_t i = 0; i < n; i++) {
		const struct image_info *img = &images[i];
		struct host_template *t = &list[i];
		snprintf(t->name, sizeof t->name, "%s", img->name);
		snprintf(t->kind, sizeof t->kind, "base");
		snprintf(t->kernel_id, sizeof t->kernel_id, "%s", img->kernel_id);
		char frozen[UUID_SIZE] = "";
		t->frozen = source_find_prewarmed(h, img, frozen, NULL) == 0 && frozen[0];
		t->vcpus = img->vcpus;
		t->memory_mb = (unsigned)img->memory_mb;
		t->min_memory_mb = (unsigned)img->min_memory_mb;
		t->disk_mb = img->disk_mb;
		if (disk_usage(h->data_fd, img->rootfs, &t->disk_bytes) < 0)
			t->disk_bytes = img->rootfs_bytes;
		if (clock_parse_rfc3339(img->created_at, &t->created_ns) < 0)
			t->created_ns = 0;
	}
	*ret = list;
	*ret_n = n;
	return 0;
}
