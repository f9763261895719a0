// SPDX-License-Identifier: Apache-2.0
#include "cli/command/kept.h"
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/str.h"
#include "sandbox/machine/runtime_file.h"
#include "shim/shim.h"
#include "snapshot/store.h"

struct look {
	int data_fd;
	const struct kept_host *here;
	size_t n_here;
	char (*ids)[SHIM_TREE_ID_SIZE];
	struct kept *kept;
};

static bool is_of_here(const struct look *l, const struct runtime *r)
{
	const char *program = r->vmm.firecracker ? "firecracker" : "qemu";
	for (size_t i = 0; i < l->n_here; i++) {
		const struct kept_host *h = &l->here[i];
		if (!str_eq(h->program, program) || !str_eq(h->version, r->vmm.upstream))
			continue;
		// An update of a package often has the same version with a hole less.
		return !h->package[0] || !r->package[0] || str_eq(h->package, r->package);
	}
	return false;
}

static int look_at_tree(void *ctx, const char *id)
{
	struct look *l = ctx;
	struct runtime r = {0};
	char path[96];
	_cleanup_strbuf_ struct strbuf text = {0};
	snprintf(path, sizeof path, "runtime/%.32s/" SHIM_TREE_ABOUT, id);
	if (file_read(l->data_fd, path, 16384, &text) < 0 ||
		runtime_parse(text.data, text.len, &r, NULL) < 0 || is_of_here(l, &r))
		return 0;
	char(*ids)[SHIM_TREE_ID_SIZE] = reallocarray(l->ids, l->kept->vmms + 1, sizeof *ids);
	if (!ids)
		return -ENOMEM;
	l->ids = ids;
	snprintf(ids[l->kept->vmms++], SHIM_TREE_ID_SIZE, "%s", id);
	snprintf(l->kept->example, sizeof l->kept->example, "%s %.40s",
		r.vmm.firecracker ? "firecracker" : "qemu", r.vmm.upstream);
	return 0;
}

static int look_at_snapshot(void *ctx, const char *id, bool complete)
{
	struct look *l = ctx;
	struct snapshot_info i;
	if (!complete || snapshot_read_info(l->data_fd, id, &i, NULL) < 0)
		return 0;
	for (unsigned k = 0; k < l->kept->vmms; k++)
		if (str_eq(l->ids[k], i.runtime)) {
			l->kept->snapshots++;
			if (!l->kept->oldest_ns || i.created_ns < l->kept->oldest_ns)
				l->kept->oldest_ns = i.created_ns;
		}
	return 0;
}

int kept_look(const char *data_dir, const struct kept_host *here, size_t n, struct kept *ret,
	struct err *e)
{
	struct kept k = {0};
	_cleanup_free_ char *trees = str_printf("%s/runtime", data_dir);
	_cleanup_close_ int fd = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct look l = {.data_fd = fd, .here = here, .n_here = n, .kept = &k};
	if (fd < 0 || !trees)
		return err_errno(e, fd < 0 ? errno : ENOMEM, "%s", data_dir);
	int rc = shim_tree_list(trees, false, look_at_tree, &l, e);
	if (rc == 0 && k.vmms && (rc = snapshot_list(fd, look_at_snapshot, &l, e)) == -ENOENT)
		rc = 0;
	free(l.ids);
	if (rc == 0)
		*ret = k;
	return rc;
}
