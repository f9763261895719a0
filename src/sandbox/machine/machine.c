// SPDX-License-Identifier: Apache-2.0
// How a machine comes up, booted from an image or loaded from a snapshot: dependent steps, read top
// to bottom in machine_up. Nothing is undone here: sandbox_free (life/free.h) frees whatever was
// made.
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include "base/clock.h"
#include "base/file.h"
#include "disk/disk.h"
#include "disk/image.h"
#include "agentclient/client.h"
#include "net/resolvers.h"
#include "sandbox/machine/machine.h"
#include "sandbox/machine/console.h"
#include "sandbox/machine/greet.h"
#include "sandbox/machine/jail.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/machine/meter.h"
#include "sandbox/machine/reach.h"
#include "sandbox/machine/runtimes.h"
#include "sandbox/table/state.h"
#include "shim/shim.h"
#include "snapshot/layer.h"
#include "snapshot/verify.h"

// Its sums would be those of the damaged memory: nothing would notice.
static int check_diff(const struct vmm_choice *c, const struct host_sandbox *i, struct err *e)
{
	if (!c->firecracker || vmm_diff_is_right(&c->firecracker_version, i->memory_mb))
		return 0;
	return err_set(e, ERR_UNAVAILABLE,
		"memory_mb: Firecracker %s damages snapshots of guests with more than 3072 (mended "
		"in 1.14.2): install a newer one",
		c->firecracker_version.text);
}

int machine_check_size(const struct host *h, const struct host_sandbox *i, struct err *e)
{
	struct sysinfo si;
	if (i->vcpus < 1 || i->vcpus > 32)
		return err_set(e, ERR_INVALID, "vcpus: must be an integer from 1 to 32");
	if (sysinfo(&si) == 0 && i->memory_mb > (uint64_t)si.totalram * si.mem_unit >> 20)
		return err_set(e, ERR_INVALID, "memory_mb: this host has %lu",
			(uint64_t)si.totalram * si.mem_unit >> 20);
	return check_diff(h->vmm, i, e);
}

// --- disk

static int prepare_disk(
	struct host *h, struct sandbox *s, const struct machine_plan *p, struct err *e)
{
	char dir[512], path[512], base[512];
	if (host_disk_path(h, s->info.id, NULL, dir) < 0 ||
		host_disk_path(h, s->info.id, "rootfs.img", path) < 0 ||
		(p->src ? str_format(base, sizeof base, "%s/snapshots/%s/disk.img", h->data_dir,
				  p->src->info.id)
			: str_format(base, sizeof base, "%s/%s", h->data_dir, p->img->rootfs)) < 0)
		return err_set(e, ERR_INTERNAL, "data directory path too long");
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_errno(e, errno, "%s", dir);
	int rc = disk_clone(AT_FDCWD, base, path, s->info.disk_mb << 20, NULL, e);
	if (rc == 0 && host_disk_path(h, s->info.id, "snap", path) == 0 && mkdir(path, 0700) < 0 &&
		errno != EEXIST)
		rc = err_errno(e, errno, "%s", path);
	return rc;
}

// --- boot

static int configure(struct sandbox *s, const struct image_info *img, struct vmm *v, struct err *e)
{
	struct vmm_machine m = {
		.vcpus = s->info.vcpus, .memory_mib = s->info.memory_mb, .track_dirty = true};
	char args[sizeof img->boot_args + 32];
	snprintf(args, sizeof args, "console=ttyS0 %s", img->boot_args);
	struct vmm_boot b = {.kernel = JAIL_KERNEL, .initrd = JAIL_INITRD, .args = args};
	struct vmm_drive d = {.id = "rootfs", .path = JAIL_ROOTFS, .root = true};
	struct vmm_net n = {.id = "eth0", .tap = SLOT_TAP_NAME, .mac = SLOT_GUEST_MAC};
	int rc = vmm_put_machine(v, &m, e);
	if (rc == 0)
		rc = vmm_put_boot(v, &b, e);
	if (rc == 0)
		rc = vmm_put_drive(v, &d, e);
	if (rc == 0)
		rc = vmm_put_net(v, &n, e);
	if (rc == 0)
		rc = vmm_put_entropy(v, e);
	return rc;
}

static int boot(struct host *h, struct sandbox *s, const struct machine_plan *p, struct vmm *v,
	uint64_t *since, struct err *e)
{
	_cleanup_(header_freep) struct header *zero = NULL;
	char image[UUID_SIZE];
	int rc = configure(s, p->img, v, e);
	if (rc < 0)
		return err_prefix(e, rc, "configure");
	sandbox_phase(&s->info, "configure", since);
	if ((rc = plan_fault(p, "after_config", e)) < 0)
		return rc;
	id_new_uuid(image);
	rc = header_new_zero((uint64_t)s->info.memory_mb << 20, image, &zero, e);
	if (rc == 0)
		rc = lineage_write(h, s, zero, e);
	if (rc < 0)
		return rc;
	if ((rc = vmm_start(v, e)) < 0)
		return err_prefix(e, rc, "start");
	sandbox_phase(&s->info, "start", since);
	if ((rc = plan_fault(p, "after_start", e)) < 0)
		return rc;
	if ((rc = greet_wait_ready(h, s, e)) < 0)
		return err_prefix(e, rc, "boot");
	sandbox_phase(&s->info, "boot", since);
	return plan_fault(p, "after_ready", e);
}

// --- load

// A private map of the image's one layer shares its clean pages with every other sandbox that maps
// it; anything else needs the pager.
static int choose_backend(struct host *h, const struct source *src, bool *ret_file, struct err *e)
{
	char verified[512];
	_cleanup_close_ int layers =
		openat(h->data_fd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (layers < 0)
		return err_errno(e, errno, "layers");
	*ret_file = false;
	if (src->header->n_layers != 1)
		return 0;
	int rc = layer_is_flat(src->header, layers, ret_file, e);
	if (rc == 0 && *ret_file) {
		// No pager checks its blocks one by one.
		if (str_format(verified, sizeof verified, "%s/verified", h->run_dir) < 0)
			return err_set(e, ERR_INTERNAL, "run directory path too long");
		rc = layer_verify_once(
			layers, src->header->layers[0], src->header->size, verified, e);
	}
	return rc;
}

static int load(struct host *h, struct sandbox *s, const struct machine_plan *p, struct vmm *v,
	uint64_t *since, struct err *e)
{
	bool file = str_eq(s->info.backend, "file");
	bool resize = s->info.disk_mb << 20 != p->src->info.disk_size;
	bool once = !p->src->info.quiesced;
	struct vmm_load l = {.state_path = JAIL_VMSTATE,
		.backend = file ? VMM_BACKEND_FILE : VMM_BACKEND_UFFD,
		.backend_path = file ? JAIL_MEM : JAIL_PAGER_SOCK,
		.track_dirty = true,
		.resume = !resize && !once};
	int rc = vmm_snapshot_load(v, &l, e);
	// One that does not answer has refused nothing.
	if (rc < 0 && rc != -ETIMEDOUT && p->ret_refused)
		*p->ret_refused = true;
	// The guest is told of its larger disk before it runs.
	if (rc == 0 && resize)
		rc = vmm_patch_drive(v, "rootfs", JAIL_ROOTFS, e);
	// From here on its memory is not loaded again, whatever becomes of it.
	if (rc == 0 && once)
		rc = snapshot_mark_resumed(h->data_fd, p->src->info.id, e);
	if (rc == 0 && once)
		rc = plan_fault(p, "after_mark", e);
	if (rc == 0 && (resize || once))
		rc = vmm_resume(v, e);
	if (rc < 0)
		return err_prefix(e, rc, "load");
	sandbox_phase(&s->info, "load", since);
	return plan_fault(p, "after_load", e);
}

int machine_resolvers(const struct host *h, struct resolvers *ret, struct err *e)
{
	char from[RESOLVERS_FROM_SIZE];
	if (h->dns[0])
		return resolvers_parse(h->dns, ret, e);
	resolvers_of_host(ret, from);
	return 0;
}

// The guest's name servers, and the way to them: what it is told and what it may ask are one list.
static int choose_resolvers(struct host *h, struct sandbox *s, struct err *e)
{
	struct resolvers r;
	int rc = s->dns_own ? resolvers_parse(s->info.dns, &r, e) : machine_resolvers(h, &r, e);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&h->lock);
	resolvers_format(&r, s->info.dns);
	pthread_mutex_unlock(&h->lock);
	return slot_pool_resolvers(h->slots, &s->slot, &r, !s->dns_own, e);
}

// A boot comes here unasked, and a resume comes here unchecked.
static int take_vmm(struct host *h, struct sandbox *s, const struct vmm_choice *v, struct err *e)
{
	char why[RUNTIME_WHY_SIZE];
	if (!runtime_allows(h, v, why))
		return err_set(e, ERR_UNAVAILABLE,
			"nothing starts on this host's VMM: %s. Install a newer one, or 'stasis "
			"runtime allow' it",
			why);
	int rc = check_diff(v, &s->info, e);
	return rc < 0 ? rc : runtime_take(h, s, v, e);
}

int machine_up(struct host *h, struct sandbox *s, const struct machine_plan *p, uint64_t *since,
	struct err *e)
{
	char dir[512];
	bool file = false;
	int rc = take_vmm(h, s, p->img ? h->vmm : p->src->vmm, e);
	if (rc < 0)
		return rc;
	rc = slot_pool_take(h->slots, &s->slot, e);
	if (rc < 0)
		return err_prefix(e, rc, "slot");
	s->has_slot = true;
	if ((rc = choose_resolvers(h, s, e)) < 0)
		return rc;
	sandbox_phase(&s->info, "slot", since);
	if ((rc = plan_fault(p, "after_slot", e)) < 0)
		return rc;

	if ((rc = prepare_disk(h, s, p, e)) < 0)
		return err_prefix(e, rc, "disk");
	if (!p->img) {
		if ((rc = lineage_write(h, s, p->src->header, e)) < 0)
			return rc;
		if ((rc = choose_backend(h, p->src, &file, e)) < 0) {
			if (p->ret_refused)
				*p->ret_refused = true;
			return rc;
		}
		snprintf(s->parent, sizeof s->parent, "%s", p->src->info.id);
		snprintf(s->kernel_id, sizeof s->kernel_id, "%s", p->src->info.kernel_id);
	} else {
		s->parent[0] = '\0';
		snprintf(s->kernel_id, sizeof s->kernel_id, "%s", p->img->kernel_id);
	}
	s->full_next = false;
	s->harvest[0] = '\0';
	s->pager_told = (struct pager_figures){0};
	meter_begin(s);
	snprintf(s->info.backend, sizeof s->info.backend, "%s",
		p->img ? "boot"
		: file ? "file"
		       : "uffd");
	sandbox_phase(&s->info, "disk", since);
	if ((rc = plan_fault(p, "after_disk", e)) < 0)
		return rc;

	if (host_run_path(h, s->info.id, dir) < 0)
		return err_set(e, ERR_INTERNAL, "run directory path too long");
	if (mkdir(dir, 0700) < 0)
		return err_errno(e, errno, "%s", dir);
	if ((rc = plan_fault(p, "after_dir", e)) < 0)
		return rc;
	s->console_from = console_size(h, s->info.id);
	if ((rc = jail_start(h, s, p, e)) < 0)
		return err_prefix(e, rc, "jail");
	sandbox_phase(&s->info, "jail", since);
	if ((rc = plan_fault(p, "after_shim", e)) < 0)
		return rc;

	_cleanup_(vmm_freep) struct vmm *v = NULL;
	if ((rc = machine_vmm(h, s, &v, e)) < 0)
		return rc;
	rc = p->img ? boot(h, s, p, v, since, e) : load(h, s, p, v, since, e);
	if (rc < 0) {
		struct err why = {0};
		if (machine_has_ended(h, s, 0, "was started", &why) && e &&
			!strstr(e->text, "ended"))
			err_prefix(e, rc, "%.300s", why.text);
		return rc;
	}
	if ((rc = greet(h, s, p, e)) < 0)
		return err_prefix(e, rc, "init");
	sandbox_phase(&s->info, "init", since);
	snprintf(s->info.address, sizeof s->info.address, "%s", s->slot.address);
	s->ready_ns = str_eq(s->info.backend, "uffd") ? clock_monotonic_ns() : 0;
	return 0;
}
