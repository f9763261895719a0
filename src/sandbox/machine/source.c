// SPDX-License-Identifier: Apache-2.0
// A snapshot is read and checked against this host's VMM. It is in use from source_open to
// source_done: a deletion in between takes its name, its files stay until then.
#include "sandbox/machine/source.h"
#include <string.h>
#include "base/file.h"
#include "base/hash.h"
#include "sandbox/machine/vmm_choice.h"

void source_done(struct source *src)
{
	src->header = header_free(src->header);
	if (src->host)
		refs_unuse_snapshot(src->host->refs, src->row.info.id, &src->held);
	src->host = NULL;
}

static int check_vmm(const struct host *h, const struct snapshot_info *i, struct err *e)
{
	if (str_eq(i->vmm_name, h->vmm->name) && str_eq(i->vmm_state, h->vmm->state))
		return 0;
	return err_set(e, ERR_UNAVAILABLE,
		"the memory of snapshot %s was written by %s (%s); this host runs %s (%s) and "
		"cannot "
		"load it. Its disk is whole: 'stasis resume --disk-only' boots anew from it",
		i->id, i->vmm_name, i->vmm_state, h->vmm->name, h->vmm->state);
}

int source_open(struct host *h, const char *id, bool disk_only, struct source *ret, struct err *e)
{
	char path[sizeof "snapshots//working_set" + UUID_SIZE];
	struct source src = {0};
	int rc = store_get_snapshot(h, id, &src.row, e);
	if (rc == 0 && (rc = refs_use_snapshot(h->refs, id, &src.held)) < 0)
		rc = rc == -ENOENT
			     ? err_set(e, ERR_NOT_FOUND, "no snapshot '%.36s' on this host", id)
			     : err_errno(e, rc, "snapshot %.36s", id);
	else if (rc == 0)
		src.host = h;
	if (rc == 0)
		rc = snapshot_read(h->data_fd, id, &src.info, &src.header, e);
	if (rc == 0 && !disk_only)
		rc = check_vmm(h, &src.info, e);
	if (rc < 0) {
		source_done(&src);
		return rc;
	}
	snprintf(path, sizeof path, "snapshots/%.36s/working_set", id);
	src.working_set = file_exists(h->data_fd, path);
	*ret = src;
	return 0;
}

void source_image_key(const struct host *h, const struct image_info *img, char out[65])
{
	_cleanup_strbuf_ struct strbuf b = {0};
	strbuf_addf(&b, "%s %s %s %u %lu %lu %s %s %s %s", img->name, img->kernel_id,
		img->rootfs_sha256, img->vcpus, img->memory_mb, img->disk_mb, img->boot_args,
		h->vmm->name, h->vmm->state, h->vmm->sha256);
	hash_sha256_hex(b.data ? b.data : "", b.len, out);
}

int source_find_prewarmed(
	struct host *h, const struct image_info *img, char ret_snapshot[UUID_SIZE], struct err *e)
{
	char key[65];
	_cleanup_free_ struct store_snapshot *list = NULL;
	size_t n = 0;
	source_image_key(h, img, key);
	int rc = store_list_snapshots(h, "frozen", NULL, key, &list, &n, e);
	if (rc < 0)
		return rc;
	snprintf(ret_snapshot, UUID_SIZE, "%s", n ? list[0].info.id : "");
	return 0;
}
