// SPDX-License-Identifier: Apache-2.0
// How a machine comes up, booted from an image or loaded from a snapshot: dependent steps, read top
// to bottom in machine_up. Nothing is undone here: sandbox_free_resources does that for whatever
// was made.
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "disk/disk.h"
#include "disk/image.h"
#include "envd/client.h"
#include "sandbox/internal.h"
#include "shim/shim.h"
#include "snapshot/layer.h"

// Emulated guests have been seen to need 10 s on a busy machine.
#define READY_EMULATED_MS 120000
#define READY_KVM_MS 20000
#define SHIM_START_MS 20000
#define INIT_MS 30000
// All calls of a start to its guest together; telling the time again is given up before.
#define GUEST_MS 60000
#define RETELL_MS 10000
// A guest that needs longer than this keeps no place at the gate from others: how long it takes is
// for its own code to say.
#define TURN_GUEST_MS 2000
#define TURN_BOOT_MS 20000
#define PROBE_MS 50

// A guest's clock is right within this, where the telling of it was no longer on its way.
#define CLOCK_SLACK_NS (25 * NSEC_PER_MSEC)
#define CLOCK_TRIES 8

// Layers that a jail can be given; a chain is merged long before it is this long.
#define LAYERS_MAX 100u

// A rate as near as this needs no correction: readings differ by as much (architecture, section 5).
#define CLOCK_PPM_FINE 500

void machine_phase(struct host_sandbox *i, const char *name, uint64_t *since)
{
	uint64_t now = clock_monotonic_ns();
	if (i->n_phases < HOST_MAX_PHASES) {
		struct host_phase *p = &i->phases[i->n_phases++];
		snprintf(p->name, sizeof p->name, "%s", name);
		p->us = (now - *since) / 1000;
	}
	*since = now;
}

json_t *machine_phases_json(const struct host_sandbox *i)
{
	json_t *a = json_array();
	for (unsigned k = 0; k < i->n_phases; k++)
		json_array_append_new(
			a, json_pack("[s, I]", i->phases[k].name, (json_int_t)i->phases[k].us));
	return a;
}

int machine_check_size(const struct host_sandbox *i, struct err *e)
{
	struct sysinfo si;
	if (i->vcpus < 1 || i->vcpus > 32)
		return err_set(e, ERR_INVALID, "vcpus: must be an integer from 1 to 32");
	if (sysinfo(&si) == 0 && i->memory_mb > (uint64_t)si.totalram * si.mem_unit >> 20)
		return err_set(e, ERR_INVALID, "memory_mb: this host has %lu",
			(uint64_t)si.totalram * si.mem_unit >> 20);
	return 0;
}

int machine_vmm(struct host *h, const struct sandbox *s, struct vmm **ret, struct err *e)
{
	char dir[512], sock[108];
	if (host_run_path(h, s->info.id, dir) < 0)
		return err_set(e, ERR_INTERNAL, "run directory path too long");
	int rc = shim_api_socket_path(dir, sock, e);
	return rc < 0 ? rc : vmm_new(sock, ret, e);
}

int machine_agent(const struct sandbox *s, char url[96], struct http_client **ret, struct err *e)
{
	snprintf(url, 96, "http://%s:%d", s->slot.address, ENVD_PORT);
	struct http_client_config cfg = {.base_url = url};
	return http_client_new(&cfg, ret, e);
}

// --- a snapshot as the source

void source_done(struct source *src)
{
	src->header = header_free(src->header);
}

static int check_vmm(const struct host *h, const struct snapshot_info *i, struct err *e)
{
	if (str_eq(i->vmm_name, h->vmm.name) && str_eq(i->vmm_state, h->vmm.state))
		return 0;
	return err_set(e, ERR_UNAVAILABLE,
		"the memory of snapshot %s was written by %s (%s); this host runs %s (%s) and "
		"cannot "
		"load it. Its disk is whole: 'stasis resume --disk-only' boots anew from it",
		i->id, i->vmm_name, i->vmm_state, h->vmm.name, h->vmm.state);
}

int source_open(struct host *h, const char *id, bool disk_only, struct source *ret, struct err *e)
{
	char path[sizeof "snapshots//working_set" + UUID_SIZE];
	struct source src = {0};
	int rc = store_get_snapshot(h, id, &src.row, e);
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

// --- jail

struct jail {
	char *paths[2 * LAYERS_MAX + 16]; // owned
	size_t n_paths;
	struct shim_bind binds[2 * LAYERS_MAX + 8];
	size_t n_binds;
	bool failed;
};

static void jail_done(struct jail *j)
{
	for (size_t i = 0; i < j->n_paths; i++)
		free(j->paths[i]);
}

static const char *own(struct jail *j, char *text)
{
	if (!text || j->n_paths == ARRAY_SIZE(j->paths)) {
		free(text);
		j->failed = true;
		return NULL;
	}
	return j->paths[j->n_paths++] = text;
}

// Both are taken over.
static void bind_to(struct jail *j, char *source, char *target, bool writable)
{
	const char *from = own(j, source), *to = own(j, target);
	if (j->n_binds == ARRAY_SIZE(j->binds))
		j->failed = true;
	else if (!j->failed)
		j->binds[j->n_binds++] =
			(struct shim_bind){.source = from, .target = to, .writable = writable};
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

static int start_shim(
	struct host *h, struct sandbox *s, const struct machine_plan *p, struct err *e)
{
	char dir[512], console[512], snap[512];
	const char *argv[16];
	_cleanup_(jail_done) struct jail j = {0};
	const char *pager[] = {JAIL_BIN "/stasis-pager", "--socket", JAIL_PAGER_SOCK, "--header",
		JAIL_HEADER, "--layers", JAIL_LAYERS, "--record", JAIL_SNAP "/working_set",
		"--stats", JAIL_SNAP "/pager.json", NULL, NULL, NULL};
	bool uffd = str_eq(s->info.backend, "uffd");
	if (host_run_path(h, s->info.id, dir) < 0 ||
		host_disk_path(h, s->info.id, "console.log", console) < 0 ||
		host_disk_path(h, s->info.id, "snap", snap) < 0)
		return err_set(e, ERR_INTERNAL, "data directory path too long");
	vmm_argv(h, argv);
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
	if (uffd && p->src->working_set) {
		pager[11] = "--working-set";
		pager[12] = JAIL_WORKING_SET;
	}
	if (j.failed)
		return err_errno(e, ENOMEM, "jail");
	struct shim_spec spec = {.id = s->info.id,
		.dir = dir,
		.netns = s->slot.netns,
		.uid = slot_uid(&s->slot),
		.gid = slot_uid(&s->slot),
		.runtime_dir = h->runtime_dir,
		.console_path = console,
		.vmm_argv = argv,
		.pager_argv = uffd ? pager : NULL,
		.binds = j.binds,
		.n_binds = j.n_binds,
		.snap_dir = snap,
		.kvm = h->vmm.kvm};
	struct shim_state st;
	int pidfd = -1;
	int rc = shim_start(h->shim_program, &spec, SHIM_START_MS, &st, &pidfd, e);
	if (rc == 0)
		s->pidfd = pidfd;
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

static bool vmm_ended(
	struct host *h, struct sandbox *s, int wait_ms, const char *when, struct err *e)
{
	struct pollfd pf = {.fd = s->pidfd, .events = POLLIN};
	if (poll(&pf, 1, wait_ms) <= 0)
		return false;
	char dir[512];
	struct shim_exit x = {0};
	host_run_path(h, s->info.id, dir);
	shim_read_exit(dir, &x, NULL);
	err_set(e, ERR_INTERNAL, "the VMM ended while the guest %s: %s %s", when, x.cause,
		x.detail);
	return true;
}

// Until envd answers; the end of the VMM is noticed at once because its pidfd is what we sleep on.
static int wait_ready(struct host *h, struct sandbox *s, struct err *e)
{
	int limit = h->vmm.kvm ? READY_KVM_MS : READY_EMULATED_MS;
	uint64_t begin = clock_monotonic_ns(), now = begin;
	uint64_t end = begin + (uint64_t)limit * NSEC_PER_MSEC;
	for (; now < end; now = clock_monotonic_ns()) {
		if (now - begin > TURN_BOOT_MS * NSEC_PER_MSEC)
			gate_leave(&h->gate, &s->ticket);
		if (envd_probe(s->slot.address, ENVD_PORT, PROBE_MS) == 0)
			return 0;
		if (vmm_ended(h, s, h->vmm.kvm ? 2 : 10, "booted", e))
			return -EIO;
	}
	return err_set(
		e, ERR_TIMEOUT, "the guest's agent did not answer within %d s", limit / 1000);
}

static int fault_of(const struct machine_plan *p, const char *step, struct err *e)
{
	char name[64];
	snprintf(name, sizeof name, "%s.%s", p->operation, step);
	return fault_hit(name, e);
}

static int boot(struct host *h, struct sandbox *s, const struct machine_plan *p, struct vmm *v,
	uint64_t *since, struct err *e)
{
	_cleanup_(header_freep) struct header *zero = NULL;
	char image[UUID_SIZE];
	int rc = configure(s, p->img, v, e);
	if (rc < 0)
		return err_prefix(e, rc, "configure");
	machine_phase(&s->info, "configure", since);
	if ((rc = fault_of(p, "after_config", e)) < 0)
		return rc;
	id_new_uuid(image);
	rc = header_new_zero((uint64_t)s->info.memory_mb << 20, image, &zero, e);
	if (rc == 0)
		rc = capture_write_base(h, s, zero, e);
	if (rc < 0)
		return rc;
	if ((rc = vmm_start(v, e)) < 0)
		return err_prefix(e, rc, "start");
	machine_phase(&s->info, "start", since);
	if ((rc = fault_of(p, "after_start", e)) < 0)
		return rc;
	if ((rc = wait_ready(h, s, e)) < 0)
		return err_prefix(e, rc, "boot");
	machine_phase(&s->info, "boot", since);
	return fault_of(p, "after_ready", e);
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
	if (src->header->n_layers > LAYERS_MAX)
		return err_set(e, ERR_LIMIT,
			"snapshot %s has %u layers, more than %u: it is being merged, try again",
			src->info.id, src->header->n_layers, LAYERS_MAX);
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
	struct vmm_load l = {.state_path = JAIL_VMSTATE,
		.backend = file ? VMM_BACKEND_FILE : VMM_BACKEND_UFFD,
		.backend_path = file ? JAIL_MEM : JAIL_PAGER_SOCK,
		.track_dirty = true,
		.resume = !resize};
	int rc = vmm_snapshot_load(v, &l, e);
	// The guest is told of its larger disk before it runs.
	if (rc == 0 && resize)
		rc = vmm_patch_drive(v, "rootfs", JAIL_ROOTFS, e);
	if (rc == 0 && resize)
		rc = vmm_resume(v, e);
	if (rc < 0)
		return err_prefix(e, rc, "load");
	machine_phase(&s->info, "load", since);
	return fault_of(p, "after_load", e);
}

static int clock_ppm(const struct host *h, const struct source *src)
{
	if (!src || !src->info.tsc_khz || !h->tsc_khz)
		return 0;
	int64_t ppm = ((int64_t)h->tsc_khz - (int64_t)src->info.tsc_khz) * 1000000 /
		      (int64_t)src->info.tsc_khz;
	return ppm >= -CLOCK_PPM_FINE && ppm <= CLOCK_PPM_FINE ? 0 : (int)ppm;
}

int machine_is_gone(void *ctx)
{
	const struct sandbox *s = ctx;
	struct pollfd pf = {.fd = s->pidfd, .events = POLLIN};
	return poll(&pf, 1, 0) > 0;
}

// *ret_late: what the guest's clock is behind by at most.
static int tell(struct http_client *c, const struct envd_target *t, const struct envd_init *i,
	uint64_t *ret_late, struct err *e)
{
	uint64_t at_work = 0, begin = clock_monotonic_ns();
	int rc = envd_call_init(c, t, i, INIT_MS, &at_work, e);
	uint64_t took = clock_monotonic_ns() - begin;
	*ret_late = took - MIN(took, at_work);
	return rc;
}

// A guest that is being waited for.
struct awaited {
	struct host *h;
	struct sandbox *s;
	uint64_t since_ns;
};

static bool is_over(const struct awaited *w, unsigned ms)
{
	return clock_monotonic_ns() - w->since_ns > ms * NSEC_PER_MSEC;
}

static int await(void *ctx)
{
	struct awaited *w = ctx;
	if (is_over(w, TURN_GUEST_MS))
		gate_leave(&w->h->gate, &w->s->ticket);
	return is_over(w, GUEST_MS) || machine_is_gone(w->s);
}

static int init_guest(
	struct host *h, struct sandbox *s, const struct machine_plan *p, struct err *e)
{
	char url[96];
	unsigned char entropy[64];
	_cleanup_(http_client_freep) struct http_client *c = NULL;
	struct awaited w = {h, s, clock_monotonic_ns()};
	int rc = machine_agent(s, url, &c, e);
	if (rc < 0)
		return rc;
	id_random_bytes(entropy, sizeof entropy);
	uint64_t had = p->src && !p->img ? p->src->info.disk_size : p->img->disk_mb << 20;
	struct envd_target t = {.base_url = url,
		.token = p->img ? NULL : p->src->row.token,
		.instance = s->agent,
		.tick = await,
		.ctx = &w};
	struct envd_init i = {.token = p->token,
		.env = p->env,
		.hostname = s->info.id,
		.entropy = entropy,
		.entropy_len = sizeof entropy,
		.grow_root = s->info.disk_mb << 20 > had,
		.resumed = !p->img,
		.clock_ppm = p->img ? 0 : clock_ppm(h, p->src)};
	// The first packets wake code that the guest has long not run; the time that is told must
	// not wait for that.
	if (i.resumed)
		rc = envd_call_health(c, &t, INIT_MS, e);
	uint64_t late = 0;
	if (rc == 0)
		rc = tell(c, &t, &i, &late, e);
	// Where it was long on its way all the same (a busy machine) it is told again.
	t.token = p->token;
	for (int tries = 0;
		rc == 0 && late > CLOCK_SLACK_NS && tries < CLOCK_TRIES && !is_over(&w, RETELL_MS);
		tries++)
		rc = tell(c, &t, &(struct envd_init){.token = p->token}, &late, e);
	if (rc < 0 && is_over(&w, GUEST_MS))
		rc = err_set(e, ERR_TIMEOUT, "the guest's agent did not finish within %d s",
			GUEST_MS / 1000);
	struct err why = {0};
	if (rc < 0 && vmm_ended(h, s, 0, "woke", &why) && e)
		*e = why;
	return rc;
}

int machine_up(struct host *h, struct sandbox *s, const struct machine_plan *p, uint64_t *since,
	struct err *e)
{
	char dir[512];
	bool file = false;
	int rc = slot_pool_take(h->slots, &s->slot, e);
	if (rc < 0)
		return err_prefix(e, rc, "slot");
	s->has_slot = true;
	machine_phase(&s->info, "slot", since);
	if ((rc = fault_of(p, "after_slot", e)) < 0)
		return rc;

	if ((rc = prepare_disk(h, s, p, e)) < 0)
		return err_prefix(e, rc, "disk");
	if (!p->img) {
		if ((rc = capture_write_base(h, s, p->src->header, e)) < 0 ||
			(rc = choose_backend(h, p->src, &file, e)) < 0)
			return rc;
		snprintf(s->parent, sizeof s->parent, "%s", p->src->info.id);
		snprintf(s->kernel_id, sizeof s->kernel_id, "%s", p->src->info.kernel_id);
	} else {
		s->parent[0] = '\0';
		snprintf(s->kernel_id, sizeof s->kernel_id, "%s", p->img->kernel_id);
	}
	s->full_next = false;
	s->harvest[0] = '\0';
	s->pager_told = (struct pager_figures){0};
	snprintf(s->info.backend, sizeof s->info.backend, "%s",
		p->img ? "boot"
		: file ? "file"
		       : "uffd");
	machine_phase(&s->info, "disk", since);
	if ((rc = fault_of(p, "after_disk", e)) < 0)
		return rc;

	if (host_run_path(h, s->info.id, dir) < 0)
		return err_set(e, ERR_INTERNAL, "run directory path too long");
	if (mkdir(dir, 0700) < 0)
		return err_errno(e, errno, "%s", dir);
	if ((rc = fault_of(p, "after_dir", e)) < 0)
		return rc;
	if ((rc = start_shim(h, s, p, e)) < 0)
		return err_prefix(e, rc, "jail");
	machine_phase(&s->info, "jail", since);
	if ((rc = fault_of(p, "after_shim", e)) < 0)
		return rc;

	_cleanup_(vmm_freep) struct vmm *v = NULL;
	if ((rc = machine_vmm(h, s, &v, e)) < 0)
		return rc;
	rc = p->img ? boot(h, s, p, v, since, e) : load(h, s, p, v, since, e);
	if (rc < 0) {
		struct err why = {0};
		if (vmm_ended(h, s, 0, "was started", &why) && e && !strstr(e->text, "ended"))
			err_prefix(e, rc, "%.300s", why.text);
		return rc;
	}
	if ((rc = init_guest(h, s, p, e)) < 0)
		return err_prefix(e, rc, "init");
	machine_phase(&s->info, "init", since);
	snprintf(s->token, sizeof s->token, "%s", p->token ? p->token : "");
	snprintf(s->info.address, sizeof s->info.address, "%s", s->slot.address);
	s->ready_ns = str_eq(s->info.backend, "uffd") ? clock_monotonic_ns() : 0;
	return 0;
}
