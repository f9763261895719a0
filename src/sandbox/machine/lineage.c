// SPDX-License-Identifier: Apache-2.0
// base.hdr is written and read, and its layers are held for as long as it is there (table/refs.h).
#include "sandbox/machine/lineage.h"
#include <fcntl.h>
#include "base/file.h"

static int hold(struct host *h, struct sandbox *s, const struct header *hd, struct err *e)
{
	struct layer_set now;
	int rc = layer_set_of(hd, &now);
	if (rc == 0 && (rc = refs_hold_layers(h->refs, &now)) < 0)
		layer_set_done(&now);
	if (rc < 0)
		return err_errno(e, rc, "layers of sandbox '%s'", s->info.id);
	lineage_forget(h, s);
	s->base = now;
	return 0;
}

void lineage_forget(struct host *h, struct sandbox *s)
{
	refs_release_layers(h->refs, &s->base);
	layer_set_done(&s->base);
}

int lineage_write(struct host *h, struct sandbox *s, const struct header *hd, struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_close_ int dir = host_open_disk(h, s->info.id, e);
	if (dir < 0)
		return dir;
	int rc = header_encode(hd, &text);
	_cleanup_close_ int fd = rc < 0 ? -1
					: openat(dir, "." LINEAGE_FILE,
						  O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);
	if (rc == 0)
		rc = fd < 0 ? -errno : file_write_full(fd, text.data, text.len);
	if (rc == 0 && renameat(dir, "." LINEAGE_FILE, dir, LINEAGE_FILE) < 0)
		rc = -errno;
	if (rc < 0)
		return err_errno(e, rc, "sandboxes/%s/" LINEAGE_FILE, s->info.id);
	return hold(h, s, hd, e);
}

int lineage_read(struct host *h, const struct sandbox *s, struct header **ret, struct err *e)
{
	char path[sizeof "sandboxes//" LINEAGE_FILE + 64];
	snprintf(path, sizeof path, "sandboxes/%.63s/" LINEAGE_FILE, s->info.id);
	return header_read(h->data_fd, path, ret, e);
}

int lineage_adopt(struct host *h, struct sandbox *s, struct err *e)
{
	_cleanup_(header_freep) struct header *hd = NULL;
	int rc = lineage_read(h, s, &hd, e);
	return rc < 0 ? rc : hold(h, s, hd, e);
}
