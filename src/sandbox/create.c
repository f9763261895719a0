// SPDX-License-Identifier: Apache-2.0
// How a sandbox is made: fifteen dependent steps, read top to bottom. The journal entry comes
// before the first side effect; on any error sandbox_free_resources undoes whatever was made and
// the row goes. A server killed in between finds the open journal entry at its next start and does
// the same (recover.c).
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "disk/disk.h"
#include "disk/image.h"
#include "envd/client.h"
#include "sandbox/internal.h"
#include "shim/shim.h"
#include "vmm/vmm.h"

// Emulated guests have been seen to need 10 s on a busy machine.
#define READY_EMULATED_MS 120000
#define READY_KVM_MS 20000
#define SHIM_START_MS 20000
#define INIT_MS 30000
#define PROBE_MS 50

static void phase(struct host_sandbox *i, const char *name, uint64_t *since)
{
	uint64_t now = clock_monotonic_ns();
	if (i->n_phases < HOST_MAX_PHASES) {
		struct host_phase *p = &i->phases[i->n_phases++];
		snprintf(p->name, sizeof p->name, "%s", name);
		p->us = (now - *since) / 1000;
	}
	*since = now;
}

static int check_request(struct host *h, const struct host_create *req,
	const struct image_info *img, struct host_sandbox *ret, struct err *e)
{
	struct sysinfo si;
	struct host_sandbox i = {.state = SANDBOX_PENDING};
	if (!id_is_sandbox(req->id) || !id_is_uuid(req->op_id))
		return err_set(e, ERR_INVALID, "bad sandbox or operation id");
	i.vcpus = req->vcpus ? req->vcpus : img->vcpus;
	i.memory_mb = req->memory_mb ? req->memory_mb : (unsigned)img->memory_mb;
	i.disk_mb = req->disk_mb ? req->disk_mb : img->disk_mb;
	if (i.vcpus < 1 || i.vcpus > 32)
		return err_set(e, ERR_INVALID, "vcpus: must be an integer from 1 to 32");
	if (i.memory_mb < img->min_memory_mb)
		return err_set(e, ERR_INVALID, "memory_mb: template '%s' needs at least %u",
			img->name, (unsigned)img->min_memory_mb);
	if (i.disk_mb < img->disk_mb)
		return err_set(e, ERR_INVALID, "disk_mb: template '%s' needs at least %lu",
			img->name, img->disk_mb);
	if (sysinfo(&si) == 0 && i.memory_mb > (uint64_t)si.totalram * si.mem_unit >> 20)
		return err_set(e, ERR_INVALID, "memory_mb: this host has %lu",
			(uint64_t)si.totalram * si.mem_unit >> 20);
	snprintf(i.id, sizeof i.id, "%s", req->id);
	snprintf(i.template, sizeof i.template, "%s", img->name);
	i.created_ns = clock_realtime_ns();
	i.ends_at_ns = req->ends_at_ns;
	i.on_timeout = req->on_timeout;
	*ret = i;
	return 0;
}

// Claims the id in the table. 1 with *ret filled when this very operation was done before.
static int claim(struct host *h, const struct host_create *req, const struct host_sandbox *info,
	struct sandbox **ret_s, struct host_sandbox *ret, struct err *e)
{
	_cleanup_free_ struct sandbox *s = calloc(1, sizeof *s);
	if (!s)
		return err_errno(e, ENOMEM, "sandbox");
	s->pidfd = -1;
	s->info = *info;
	s->operation = "create";
	snprintf(s->token, sizeof s->token, "%s", req->token ? req->token : "");
	snprintf(s->op_id, sizeof s->op_id, "%s", req->op_id);
	int rc = 0;
	pthread_mutex_lock(&h->lock);
	struct sandbox *old;
	while ((old = host_find(h, req->id)) && old->operation && str_eq(old->op_id, req->op_id))
		pthread_cond_wait(&h->changed, &h->lock);
	unsigned live = 0;
	for (size_t b = 0; b < HOST_BUCKETS; b++)
		for (struct sandbox *x = h->buckets[b]; x; x = x->next)
			live += x->info.state != SANDBOX_STOPPED;
	if (old && str_eq(old->op_id, req->op_id)) {
		*ret = old->info;
		rc = 1;
	} else if (old) {
		rc = err_set(e, ERR_CONFLICT, "sandbox '%s' exists", req->id);
	} else if (live >= h->max_sandboxes) {
		rc = err_set(e, ERR_LIMIT,
			"this host runs %u sandboxes, its limit (serve --max-sandboxes)", live);
	} else {
		host_insert(h, s);
		*ret_s = TAKE_PTR(s);
	}
	pthread_mutex_unlock(&h->lock);
	return rc;
}

static int prepare_disk(
	struct host *h, struct sandbox *s, const struct image_info *img, struct err *e)
{
	char dir[512], path[512], base[512];
	enum disk_clone_method method;
	if (host_disk_path(h, s->info.id, NULL, dir) < 0 ||
		host_disk_path(h, s->info.id, "rootfs.img", path) < 0 ||
		str_format(base, sizeof base, "%s/%s", h->data_dir, img->rootfs) < 0)
		return err_set(e, ERR_INTERNAL, "data directory path too long");
	if (mkdir(dir, 0711) < 0)
		return err_errno(e, errno, "%s", dir);
	return disk_clone(AT_FDCWD, base, path, s->info.disk_mb << 20, &method, e);
}

static int start_shim(
	struct host *h, struct sandbox *s, const struct image_info *img, struct err *e)
{
	char dir[512], rootfs[512], console[512], kernel[512], initrd[512];
	const char *argv[16];
	if (host_run_path(h, s->info.id, dir) < 0 ||
		host_disk_path(h, s->info.id, "rootfs.img", rootfs) < 0 ||
		host_disk_path(h, s->info.id, "console.log", console) < 0 ||
		str_format(kernel, sizeof kernel, "%s/%s", h->data_dir, img->vmlinux) < 0 ||
		str_format(initrd, sizeof initrd, "%s/%s", h->data_dir, img->initrd) < 0)
		return err_set(e, ERR_INTERNAL, "data directory path too long");
	vmm_argv(h, s->info.id, argv);
	struct shim_bind binds[] = {
		{.source = kernel, .target = JAIL_KERNEL},
		{.source = initrd, .target = JAIL_INITRD},
		{.source = rootfs, .target = JAIL_ROOTFS, .writable = true},
	};
	struct shim_spec spec = {.id = s->info.id,
		.dir = dir,
		.netns = s->slot.netns,
		.uid = slot_uid(&s->slot),
		.gid = slot_uid(&s->slot),
		.runtime_dir = h->runtime_dir,
		.console_path = console,
		.vmm_argv = argv,
		.binds = binds,
		.n_binds = ARRAY_SIZE(binds),
		.kvm = h->vmm.kvm};
	struct shim_state st;
	int pidfd = -1;
	int rc = shim_start(h->shim_program, &spec, SHIM_START_MS, &st, &pidfd, e);
	if (rc == 0)
		s->pidfd = pidfd;
	return rc;
}

static int configure(struct host *h, struct sandbox *s, const struct image_info *img, struct vmm *v,
	struct err *e)
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

// Until envd answers; the end of the VMM is noticed at once because its pidfd is what we sleep on.
static int wait_ready(struct host *h, struct sandbox *s, struct err *e)
{
	int limit = h->vmm.kvm ? READY_KVM_MS : READY_EMULATED_MS;
	uint64_t end = clock_monotonic_ns() + (uint64_t)limit * NSEC_PER_MSEC;
	while (clock_monotonic_ns() < end) {
		if (envd_probe(s->slot.address, ENVD_PORT, PROBE_MS) == 0)
			return 0;
		struct pollfd pf = {.fd = s->pidfd, .events = POLLIN};
		if (poll(&pf, 1, h->vmm.kvm ? 2 : 10) > 0) {
			char dir[512];
			struct shim_exit x = {0};
			host_run_path(h, s->info.id, dir);
			shim_read_exit(dir, &x, NULL);
			return err_set(e, ERR_INTERNAL,
				"the VMM ended while the guest booted: %s %s", x.cause, x.detail);
		}
	}
	return err_set(
		e, ERR_TIMEOUT, "the guest's agent did not answer within %d s", limit / 1000);
}

static int init_guest(struct sandbox *s, const struct host_create *req,
	const struct image_info *img, struct err *e)
{
	char url[96];
	unsigned char entropy[64];
	_cleanup_(http_client_freep) struct http_client *c = NULL;
	snprintf(url, sizeof url, "http://%s:%d", s->slot.address, ENVD_PORT);
	struct http_client_config cfg = {.base_url = url};
	int rc = http_client_new(&cfg, &c, e);
	if (rc < 0)
		return rc;
	id_random_bytes(entropy, sizeof entropy);
	struct envd_target t = {.base_url = url};
	struct envd_init i = {.token = req->token,
		.env = req->env,
		.hostname = s->info.id,
		.entropy = entropy,
		.entropy_len = sizeof entropy,
		.grow_root = s->info.disk_mb > img->disk_mb};
	return envd_call_init(c, &t, &i, INIT_MS, e);
}

// All steps with side effects. s->info and s are written by this thread only: the sandbox is
// claimed.
static int build(struct host *h, const struct host_create *req, struct sandbox *s,
	const struct image_info *img, struct err *e)
{
	uint64_t t = clock_monotonic_ns(), started = t;
	char dir[512], sock[108];
	int rc = store_op_begin(h, req->op_id, "create", s, e);
	if (rc < 0 || (rc = fault_hit("create.after_journal", e)) < 0)
		return rc;
	phase(&s->info, "journal", &t);

	if ((rc = slot_pool_take(h->slots, &s->slot, e)) < 0)
		return err_prefix(e, rc, "slot");
	s->has_slot = true;
	phase(&s->info, "slot", &t);
	if ((rc = fault_hit("create.after_slot", e)) < 0)
		return rc;

	if ((rc = prepare_disk(h, s, img, e)) < 0)
		return err_prefix(e, rc, "disk");
	phase(&s->info, "disk", &t);
	if ((rc = fault_hit("create.after_disk", e)) < 0)
		return rc;

	if (host_run_path(h, s->info.id, dir) < 0)
		return err_set(e, ERR_INTERNAL, "run directory path too long");
	if ((rc = shim_api_socket_path(dir, sock, e)) < 0)
		return rc;
	if (mkdir(dir, 0711) < 0)
		return err_errno(e, errno, "%s", dir);
	if ((rc = fault_hit("create.after_dir", e)) < 0)
		return rc;

	if ((rc = start_shim(h, s, img, e)) < 0)
		return err_prefix(e, rc, "jail");
	phase(&s->info, "jail", &t);
	if ((rc = fault_hit("create.after_shim", e)) < 0)
		return rc;

	_cleanup_(vmm_freep) struct vmm *v = NULL;
	if ((rc = vmm_new(sock, &v, e)) < 0 || (rc = configure(h, s, img, v, e)) < 0)
		return err_prefix(e, rc, "configure");
	phase(&s->info, "configure", &t);
	if ((rc = fault_hit("create.after_config", e)) < 0)
		return rc;

	if ((rc = vmm_start(v, e)) < 0)
		return err_prefix(e, rc, "start");
	phase(&s->info, "start", &t);
	if ((rc = fault_hit("create.after_start", e)) < 0)
		return rc;

	if ((rc = wait_ready(h, s, e)) < 0)
		return err_prefix(e, rc, "boot");
	phase(&s->info, "boot", &t);
	if ((rc = fault_hit("create.after_ready", e)) < 0)
		return rc;

	if ((rc = init_guest(s, req, img, e)) < 0)
		return err_prefix(e, rc, "init");
	phase(&s->info, "init", &t);
	if ((rc = fault_hit("create.before_commit", e)) < 0)
		return rc;

	struct sandbox done = *s;
	sandbox_move(&done.info, SANDBOX_RUNNING, req->op_id);
	done.info.started_ns = clock_realtime_ns();
	snprintf(done.info.address, sizeof done.info.address, "%s", s->slot.address);
	_cleanup_(json_decrefp) json_t *data = json_pack(
		"{s:I}", "duration_us", (json_int_t)((clock_monotonic_ns() - started) / 1000));
	struct store_event ev = {.kind = "running", .data = data};
	if ((rc = store_commit(h, req->op_id, &done, &ev, e)) < 0)
		return err_prefix(e, rc, "commit");
	phase(&done.info, "commit", &t);
	pthread_mutex_lock(&h->lock);
	s->info = done.info;
	h->creates++;
	monitor_watch(h, s);
	pthread_mutex_unlock(&h->lock);
	return 0;
}

int host_create(
	struct host *h, const struct host_create *req, struct host_sandbox *ret, struct err *e)
{
	struct image_info img;
	struct host_sandbox info;
	struct volume_info volume;
	struct sandbox *s = NULL;
	struct err local = {0};
	if (!e)
		e = &local;
	int rc = volume_open(h->data_dir, &volume, e);
	if (rc < 0)
		return rc;
	if ((rc = image_load(h->data_dir, req->template, &img, e)) < 0)
		return rc;
	if ((rc = check_request(h, req, &img, &info, e)) < 0)
		return rc;
	if ((rc = claim(h, req, &info, &s, ret, e)) != 0)
		return rc < 0 ? rc : 0;

	rc = build(h, req, s, &img, e);
	if (rc == 0) {
		pthread_mutex_lock(&h->lock);
		*ret = s->info;
		host_release(h, s);
		pthread_mutex_unlock(&h->lock);
		monitor_wake(h);
		return 0;
	}
	log_warn("create failed sandbox=%s error=%s", req->id, err_text(e, rc));
	// What could not be freed keeps its row and its open journal entry: the next start tries
	// again.
	struct err undo = {0};
	_cleanup_(json_decrefp) json_t *data = json_pack(
		"{s:s%}", "error", err_text(e, rc), MIN(strlen(err_text(e, rc)), (size_t)400));
	struct store_event ev = {.kind = "create_failed", .cause = "create_failed", .data = data};
	if (sandbox_free_resources(h, s, false) == 0 && store_forget(h, req->id, &ev, &undo) < 0)
		log_error("journal not closed sandbox=%s error=%s", req->id, undo.text);
	pthread_mutex_lock(&h->lock);
	h->create_failures++;
	host_release(h, s);
	host_remove(h, s);
	pthread_mutex_unlock(&h->lock);
	return rc;
}
