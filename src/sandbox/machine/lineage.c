// SPDX-License-Identifier: Apache-2.0
#include "sandbox/machine/lineage.h"
#include <fcntl.h>
#include "base/file.h"

int lineage_write(struct host *h, const struct sandbox *s, const struct header *hd, struct err *e)
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
	return rc < 0 ? err_errno(e, rc, "sandboxes/%s/" LINEAGE_FILE, s->info.id) : 0;
}
