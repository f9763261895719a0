// SPDX-License-Identifier: Apache-2.0
// The binds of a jail (disk, kernel or header, layers, state file) and the programs that the shim
// starts in it.
#include "sandbox/machine/jail.h"
#include <string.h>
#include "sandbox/machine/host_oom.h"
#include "sandbox/machine/runtimes.h"
#include "shim/shim.h"

#define SHIM_START_MS 60000 // a dead man's switch: one that ends is noticed at once

struct jail {
	struct shim_bind *binds; // their paths are owned
	size_t n_binds;
	bool failed;
};

static void jail_done(struct jail *j)
{
	for (size_t i = 0; i < j->n_binds; i++) {
		free((char *)j->binds[i].source);
		free((char *)j->binds[i].target);
	}
	free(j->binds);
}

// Both are taken over.
static void bind_to(struct jail *j, char *source, char *target, bool writable)
{
	struct shim_bind *all = reallocarray(j->binds, j->n_binds + 1, sizeof *all);
	if (all)
		j->binds = all;
	if (!all || !source || !target) {
		free(source);
		free(target);
		j->failed = true;
		return;
	}
	all[j->n_binds++] = (struct shim_bind){source, target, writable};
}

static void bind_layers(
	struct jail *j, const struct host *h, const struct sandbox *s, const struct source *src)
{
	const struct header *hd = src->header;
	bind_to(j, str_printf("%s/sandboxes/%s/base.hdr", h->data_dir, s->info.id),
		strdup(JAIL_HEADER), false);
	for (uint32_t i = 0; i < hd->n_layers; i++) {
		bind_to(j, str_printf("%s/layers/%s", h->data_dir, hd->layers[i]),
			str_printf(JAIL_LAYERS "/%s", hd->layers[i]), false);
		bind_to(j, str_printf("%s/layers/%s.sum", h->data_dir, hd->layers[i]),
			str_printf(JAIL_LAYERS "/%s.sum", hd->layers[i]), false);
	}
	if (src->working_set)
		bind_to(j, str_printf("%s/snapshots/%s/working_set", h->data_dir, src->info.id),
			strdup(JAIL_WORKING_SET), false);
}

static void pager_argv(const struct host *h, bool working_set, const char *argv[VMM_ARGV_MAX])
{
	static const char *const rest[] = {"--socket", JAIL_PAGER_SOCK, "--header", JAIL_HEADER,
		"--layers", JAIL_LAYERS, "--record", JAIL_SNAP "/working_set", "--stats",
		JAIL_SNAP "/pager.json", "--working-set", JAIL_WORKING_SET};
	size_t n = 0;
	vmm_add_own(h, OWN_PAGER, argv, &n);
	for (size_t i = 0; i < ARRAY_SIZE(rest) - (working_set ? 0 : 2); i++)
		argv[n++] = rest[i];
	argv[n] = NULL;
}

int jail_start(struct host *h, struct sandbox *s, const struct machine_plan *p, struct err *e)
{
	char dir[512], console[512], snap[512], vmm_log[512];
	const struct vmm_choice *v = s->vmm;
	const char *argv[VMM_ARGV_MAX], *pager[VMM_ARGV_MAX];
	_cleanup_(jail_done) struct jail j = {0};
	bool uffd = str_eq(s->info.backend, "uffd");
	if (host_run_path(h, s->info.id, dir) < 0 ||
		host_disk_path(h, s->info.id, "console.log", console) < 0 ||
		host_disk_path(h, s->info.id, "vmm.log", vmm_log) < 0 ||
		host_disk_path(h, s->info.id, "snap", snap) < 0)
		return err_set(e, ERR_INTERNAL, "data directory path too long");
	vmm_argv(h, v, argv);
	pager_argv(h, uffd && p->src->working_set, pager);
	_cleanup_free_ char *tree = str_printf("%s/" RUNTIMES "/%s", h->data_dir, v->runtime);
	bind_to(&j, str_printf("%s/sandboxes/%s/rootfs.img", h->data_dir, s->info.id),
		strdup(JAIL_ROOTFS), true);
	if (p->img) {
		bind_to(&j, str_printf("%s/%s", h->data_dir, p->img->vmlinux), strdup(JAIL_KERNEL),
			false);
		bind_to(&j, str_printf("%s/%s", h->data_dir, p->img->initrd), strdup(JAIL_INITRD),
			false);
	} else {
		bind_to(&j, str_printf("%s/snapshots/%s/vmstate", h->data_dir, p->src->info.id),
			strdup(JAIL_VMSTATE), false);
		if (uffd)
			bind_layers(&j, h, s, p->src);
		else
			bind_to(&j,
				str_printf("%s/layers/%s", h->data_dir, p->src->header->layers[0]),
				strdup(JAIL_MEM), false);
	}
	if (j.failed || !tree)
		return err_errno(e, ENOMEM, "jail");
	struct shim_spec spec = {.id = s->info.id,
		.dir = dir,
		.netns = s->slot.netns,
		.uid = slot_uid(&s->slot),
		.gid = slot_uid(&s->slot),
		.runtime_dir = tree,
		.own_dir = h->own_dir,
		.console_path = console,
		.vmm_log_path = v->firecracker ? vmm_log : NULL,
		.vmm_argv = argv,
		.pager_argv = uffd ? pager : NULL,
		.binds = j.binds,
		.n_binds = j.n_binds,
		.snap_dir = snap,
		.kvm = v->kvm,
		.kmsg_from = host_oom_mark(h)};
	struct shim_state st;
	int pidfd = -1;
	int rc = shim_start(h->shim_program, &spec, SHIM_START_MS, &st, &pidfd, e);
	if (rc == 0)
		s->pidfd = pidfd;
	return rc;
}
