// SPDX-License-Identifier: Apache-2.0
// How a running sandbox becomes a snapshot; the common part of pause, fork and snapshot.
//
//  take     quiesce the guest, stop it, let the VMM write its dirty memory and device state, share
//           the disk's blocks: all of it beside the sandbox's disk, nothing published
//  let go   fork and snapshot only: the guest runs again
//  publish  memory becomes a layer, everything is made durable, snapshot.json last
//  settle   where the sandbox runs on: the diff is part of its lineage now
//
// The lineage rule. base.hdr and the VMM's dirty tracking together are all of memory; taking a diff
// resets the tracking, so from then on that diff must not be lost. Before the VMM is asked, the row
// says "uncertain" (store_op_begin with full_next set) and the journal names the layer. At the end
// the layer is in base.hdr and the row says "certain", or the next snapshot is a full one. fcqemu
// makes this easier: the memory file has its name only when it and the state file are complete, and
// only then the tracking is reset. A Firecracker that was interrupted leaves nothing that tells, so
// there the next snapshot is full.
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "disk/disk.h"
#include "agentclient/client.h"
#include "http/json.h"
#include "sandbox/capture/capture.h"
#include "sandbox/capture/early_write.h"
#include "sandbox/capture/harvest.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/machine/reach.h"
#include "sandbox/machine/vmm_choice.h"
#include "sandbox/table/state.h"
#include "shim/shim.h"
#include "snapshot/layer.h"

#define FREEZE_MS 30000
#define THAW_MS 30000
#define GREET_MS 5000

// Names in the sandbox's directory. What the VMM writes is in snap/, which is its own; it is moved
// out before anything is done with it.
#define SNAP_MEM "snap/mem"
#define SNAP_STATE "snap/vmstate"
#define STAGE_MEM "stage.mem"
#define STAGE_STATE "stage.vmstate"
#define STAGE_DISK "stage.disk"

void capture_done(struct capture *c)
{
	c->header = header_free(c->header);
	http_client_free(c->agent);
	c->agent = NULL;
}

int capture_init(
	struct capture *c, const char *kind, const char *snapshot, bool full, char journal[200])
{
	*c = (struct capture){.kind = kind, .image_key = ""};
	if (snapshot)
		snprintf(c->snapshot, sizeof c->snapshot, "%s", snapshot);
	else
		id_new_uuid(c->snapshot);
	id_new_uuid(c->layer);
	id_new_uuid(c->image);
	return str_format(journal, 200, "{\"snapshot\":\"%s\",\"layer\":\"%s\",\"full\":%s}",
		c->snapshot, c->layer, full ? "true" : "false");
}

// Without a named file there is nothing to remove: success.
static void drop_stage(int dir)
{
	static const char *const names[] = {SNAP_MEM, SNAP_MEM ".tmp", SNAP_STATE,
		SNAP_STATE ".tmp", STAGE_MEM, STAGE_STATE, STAGE_DISK};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		unlinkat(dir, names[i], 0);
}

static int ask(struct http_client *c, const struct envd_target *t, bool frozen, struct err *e)
{
	return frozen ? envd_call_freeze(c, t, FREEZE_MS, e) : envd_call_thaw(c, t, THAW_MS, e);
}

// Another instance of the agent than the one that was greeted has its settings from its file, or
// has lost them and refuses: it is greeted again, so that the snapshot has an agent that knows its
// token.
static int ask_and_greet(
	struct sandbox *s, struct http_client *c, struct envd_target *t, bool frozen, struct err *e)
{
	char seen[ENVD_INSTANCE_SIZE] = "";
	struct err refused = {0};
	t->instance = seen;
	int rc = ask(c, t, frozen, &refused);
	bool lost = rc < 0 && refused.code == ERR_UNAUTHENTICATED;
	// After a restart of the server it is not known who was greeted: one that takes the token
	// is.
	if (rc == 0 && !s->agent[0])
		snprintf(s->agent, sizeof s->agent, "%s", seen);
	if (lost || (rc == 0 && seen[0] && !str_eq(seen, s->agent))) {
		struct err why = {0};
		bool greeted = envd_call_greet(c, t, s->info.id, GREET_MS, &why) == 0;
		log_info("agent was started anew sandbox=%s instance=%s greeted=%s%s%s", s->info.id,
			seen, greeted ? "yes" : "no", greeted ? "" : " error=", why.text);
		if (greeted)
			snprintf(s->agent, sizeof s->agent, "%s", seen);
		// What it did already stays done.
		if (greeted && lost)
			return ask(c, t, frozen, e);
	}
	if (rc < 0 && e)
		*e = refused;
	return rc;
}

static int set_frozen(struct sandbox *s, struct capture *c, bool frozen, struct err *e)
{
	char url[96];
	struct http_client *made = NULL;
	if (!c->agent) {
		int rc = machine_agent(s, url, &made, e);
		if (rc < 0)
			return rc;
		c->agent = made;
	}
	snprintf(url, sizeof url, "http://%s:%d", s->slot.address, ENVD_PORT);
	struct envd_target t = {
		.base_url = url, .token = s->token, .tick = machine_is_gone, .ctx = s};
	return ask_and_greet(s, c->agent, &t, frozen, e);
}

// Most of what the guest wrote goes to the disk before it stands still.
static int sync_disk(int dir, struct err *e)
{
	_cleanup_close_ int fd = openat(dir, "rootfs.img", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fdatasync(fd) < 0)
		return err_errno(e, errno, "rootfs.img");
	return 0;
}

static int stop_and_write(struct host *h, struct sandbox *s, struct capture *c, struct vmm *v,
	int dir, uint64_t *since, struct err *e)
{
	int rc = vmm_pause(v, e);
	if (rc < 0)
		return err_prefix(e, rc, "stop");
	sandbox_phase(&s->info, "stop", since);
	if ((rc = fault_hit("capture.after_stop", e)) < 0)
		return rc;
	c->asked = true;
	struct early_write early = {.stop_fd = -1};
	if (str_eq(c->kind, "pause"))
		early_write_start(&early, dir, SNAP_MEM ".tmp", SNAP_MEM);
	rc = vmm_snapshot_create(v, JAIL_SNAP "/vmstate", JAIL_SNAP "/mem", !s->full_next, e);
	early_write_stop(&early);
	if (rc < 0)
		return err_prefix(e, rc, "memory");
	c->taken = true;
	sandbox_phase(&s->info, "memory", since);
	if ((rc = fault_hit("capture.after_memory", e)) < 0)
		return rc;
	rc = disk_clone(dir, "rootfs.img", STAGE_DISK, 0, NULL, e);
	if (rc < 0)
		return err_prefix(e, rc, "disk");
	sandbox_phase(&s->info, "disk_clone", since);
	return fault_hit("capture.after_disk", e);
}

int capture_take(
	struct host *h, struct sandbox *s, struct capture *c, uint64_t *since, struct err *e)
{
	_cleanup_(vmm_freep) struct vmm *v = NULL;
	_cleanup_close_ int dir = host_open_disk(h, s->info.id, e);
	if (dir < 0)
		return dir;
	int rc = machine_vmm(h, s, &v, e);
	if (rc < 0)
		return rc;
	drop_stage(dir);
	if ((rc = sync_disk(dir, e)) < 0)
		return rc;
	sandbox_phase(&s->info, "sync", since);
	c->stopped_ns = clock_monotonic_ns();
	if ((rc = set_frozen(s, c, true, e)) < 0)
		return err_prefix(e, rc, "quiesce the guest");
	sandbox_phase(&s->info, "freeze", since);
	rc = fault_hit("capture.after_freeze", e);
	if (rc == 0)
		rc = stop_and_write(h, s, c, v, dir, since, e);
	if (rc == 0)
		return 0;
	struct err undo = {0};
	if (capture_let_go(h, s, c, &undo) < 0)
		log_error("guest stands still after a failed snapshot sandbox=%s error=%s",
			s->info.id, undo.text);
	return rc;
}

int capture_let_go(struct host *h, struct sandbox *s, struct capture *c, struct err *e)
{
	_cleanup_(vmm_freep) struct vmm *v = NULL;
	enum vmm_state state = VMM_PAUSED;
	int rc = machine_vmm(h, s, &v, e);
	if (rc == 0)
		rc = vmm_resume(v, e);
	// A VMM that says no because it was never stopped is fine.
	if (rc < 0 && (vmm_get_state(v, &state, NULL) < 0 || state != VMM_RUNNING))
		return err_prefix(e, rc, "let the guest go on");
	rc = set_frozen(s, c, false, e);
	if (rc < 0)
		return err_prefix(e, rc, "thaw the guest");
	c->went_on = true;
	c->went_on_ns = clock_monotonic_ns();
	return 0;
}

// Out of the jail's directory into that of the sandbox, which is root's.
static int take(int dir, const char *from, const char *to, uint64_t max, struct err *e)
{
	int rc = disk_take(dir, from, dir, to, 0444, max, e);
	if (rc == 0 && unlinkat(dir, from, 0) < 0)
		rc = err_errno(e, errno, "%s", from);
	return rc;
}

// The layer; may be repeated.
static int ingest(struct host *h, struct sandbox *s, struct capture *c, int dir, struct err *e)
{
	_cleanup_(header_freep) struct header *parent = NULL;
	struct layer_stats stats;
	_cleanup_close_ int layers =
		openat(h->data_fd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (layers < 0)
		return err_errno(e, errno, "layers");
	// Once it is taken, what the jail still holds of it is of no account.
	int rc = file_there(dir, SNAP_MEM);
	if (rc < 0)
		return err_errno(e, rc, SNAP_MEM);
	if (rc == 1)
		rc = take(dir, SNAP_MEM, STAGE_MEM, (uint64_t)s->info.memory_mb << 20, e);
	if (rc == 0)
		rc = s->full_next ? header_new_zero(
					    (uint64_t)s->info.memory_mb << 20, c->image, &parent, e)
				  : header_read(dir, LINEAGE_FILE, &parent, e);
	if (rc == 0)
		rc = layer_ingest(
			dir, STAGE_MEM, layers, c->layer, parent, c->image, &c->header, &stats, e);
	return rc;
}

static void fill_info(const struct host *h, const struct sandbox *s, const struct capture *c,
	struct snapshot_info *i)
{
	const char *runtime = strrchr(h->runtime_dir, '/');
	*i = (struct snapshot_info){.kind = snapshot_kind_from_name(c->kind),
		.vcpus = s->info.vcpus,
		.memory_bytes = (uint64_t)s->info.memory_mb << 20,
		.quiesced = true,
		.created_ns = clock_realtime_ns()};
	cpu_describe(&i->cpu);
	if (h->vmm->tsc_khz)
		i->cpu.tsc_khz = h->vmm->tsc_khz;
	snprintf(i->accel, sizeof i->accel, "%s", h->vmm->kvm ? "kvm" : "tcg");
	snprintf(i->runtime, sizeof i->runtime, "%s", runtime ? runtime + 1 : h->runtime_dir);
	snprintf(i->id, sizeof i->id, "%s", c->snapshot);
	snprintf(i->parent, sizeof i->parent, "%s", s->parent);
	snprintf(i->vmm_name, sizeof i->vmm_name, "%s", h->vmm->name);
	snprintf(i->vmm_version, sizeof i->vmm_version, "%s", h->vmm->version);
	snprintf(i->vmm_sha256, sizeof i->vmm_sha256, "%s", h->vmm->sha256);
	snprintf(i->vmm_state, sizeof i->vmm_state, "%s", h->vmm->state);
	snprintf(i->kernel_id, sizeof i->kernel_id, "%s", s->kernel_id);
}

static void fill_row(const struct sandbox *s, struct capture *c)
{
	struct host_snapshot *r = &c->row.info;
	snprintf(r->id, sizeof r->id, "%s", c->snapshot);
	snprintf(r->kind, sizeof r->kind, "%s", c->kind);
	snprintf(r->sandbox, sizeof r->sandbox, "%s", s->info.id);
	snprintf(r->template, sizeof r->template, "%s", s->info.template);
	snprintf(r->parent, sizeof r->parent, "%s", s->parent);
	snprintf(c->row.token, sizeof c->row.token, "%s", s->token);
	snprintf(c->row.image_key, sizeof c->row.image_key, "%s", c->image_key);
	r->vcpus = s->info.vcpus;
	r->memory_mb = s->info.memory_mb;
	r->disk_mb = s->info.disk_mb;
	r->memory_bytes = header_data_bytes(c->header);
	r->created_ns = clock_realtime_ns();
}

// fcqemu is asked what it wrote; that is a process, so it is done beside the sums of the layer.
struct describe {
	const struct host *h;
	char path[512];
	uint64_t tsc_khz;
	struct err e;
	int rc;
};

static void *describe(void *arg)
{
	struct describe *d = arg;
	d->rc = vmm_state_tsc_khz(d->h, d->path, &d->tsc_khz, &d->e);
	return NULL;
}

static int ingest_and_describe(struct host *h, struct sandbox *s, struct capture *c, int dir,
	uint64_t *ret_tsc_khz, struct err *e)
{
	struct describe d = {.h = h};
	pthread_t thread;
	if (str_format(d.path, sizeof d.path, "%s/sandboxes/%s/" STAGE_STATE, h->data_dir,
		    s->info.id) < 0)
		return err_set(e, ERR_INTERNAL, "data directory path too long");
	int rc = take(dir, SNAP_STATE, STAGE_STATE, SNAPSHOT_MAX_VMSTATE, e);
	if (rc < 0)
		return rc;
	bool beside = pthread_create(&thread, NULL, describe, &d) == 0;
	rc = ingest(h, s, c, dir, e);
	if (beside)
		pthread_join(thread, NULL);
	else
		describe(&d);
	if (rc < 0)
		return err_prefix(e, rc, "layer");
	if (d.rc < 0)
		*e = d.e;
	*ret_tsc_khz = d.tsc_khz;
	return d.rc;
}

int capture_publish(
	struct host *h, struct sandbox *s, struct capture *c, uint64_t *since, struct err *e)
{
	struct snapshot_info info;
	uint64_t tsc_khz = 0;
	_cleanup_close_ int dir = host_open_disk(h, s->info.id, e);
	if (dir < 0)
		return dir;
	int rc = ingest_and_describe(h, s, c, dir, &tsc_khz, e);
	if (rc < 0)
		return rc;
	sandbox_phase(&s->info, "layer", since);
	if ((rc = fault_hit("capture.after_layer", e)) < 0)
		return rc;
	fill_info(h, s, c, &info);
	info.tsc_khz = tsc_khz;
	fill_row(s, c);
	if ((rc = snapshot_put_row(h, &c->row, &info, e)) < 0)
		return rc;
	// What the last resume touched first is the best guess at what the next one will.
	bool pause = info.kind == SNAPSHOT_PAUSE && file_exists(dir, WORKING_SET);
	rc = snapshot_write(h->data_fd, &info, c->header,
		&(struct snapshot_files){.dirfd = dir,
			.vmstate = STAGE_STATE,
			.disk = STAGE_DISK,
			.working_set = pause ? WORKING_SET : NULL},
		e);
	if (rc < 0)
		return err_prefix(e, rc, "snapshot");
	c->published = true;
	if ((rc = refs_add_snapshot(h->refs, c->snapshot, c->header)) < 0)
		return err_errno(e, rc, "snapshot");
	sandbox_phase(&s->info, "publish", since);
	char disk[sizeof "snapshots//disk.img" + UUID_SIZE];
	snprintf(disk, sizeof disk, "snapshots/%s/disk.img", c->snapshot);
	if (disk_usage(h->data_fd, disk, &c->row.info.disk_bytes) < 0)
		c->row.info.disk_bytes = 0;
	return 0;
}

// Whether the VMM has left a complete diff: under its name, taken, or a layer already. 1, 0, or the
// -errno that keeps it from being known.
static int diff_is_there(const struct host *h, int dir, const struct capture *c)
{
	char data[sizeof "layers/" + UUID_SIZE], sums[sizeof data + 4];
	snprintf(data, sizeof data, "layers/%.36s", c->layer);
	snprintf(sums, sizeof sums, "%s.sum", data);
	const struct {
		int dir;
		const char *name;
	} names[] = {{dir, SNAP_MEM}, {dir, STAGE_MEM}, {h->data_fd, data}, {h->data_fd, sums}};
	if (c->header)
		return 1;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		int there = file_there(names[i].dir, names[i].name);
		if (there != 0)
			return there;
	}
	return 0;
}

// A server that was killed after the settling, but before its row said so, had done it.
static bool is_settled(int dir, const char *layer)
{
	_cleanup_(header_freep) struct header *base = NULL;
	if (header_read(dir, LINEAGE_FILE, &base, NULL) < 0)
		return false;
	for (uint32_t i = 0; i < base->n_layers; i++)
		if (str_eq(base->layers[i], layer))
			return true;
	return false;
}

void capture_settle(struct host *h, struct sandbox *s, struct capture *c)
{
	struct err e = {0};
	_cleanup_close_ int dir = host_open_disk(h, s->info.id, &e);
	if (dir < 0) {
		s->full_next = c->asked;
		return;
	}
	if (is_settled(dir, c->layer)) {
		s->full_next = false;
		drop_stage(dir);
		return;
	}
	// The VMM's answer may have been lost, not what it wrote.
	int there = diff_is_there(h, dir, c);
	bool complete = c->taken || (there == 1 && !h->vmm->firecracker);
	bool untouched = !c->asked || (there == 0 && !h->vmm->firecracker);
	int rc = complete && !c->header ? ingest(h, s, c, dir, &e) : 0;
	if (rc == 0 && complete)
		rc = lineage_write(h, s, c->header, &e);
	if (rc < 0)
		log_warn("diff lost, the next snapshot will be a full one sandbox=%s error=%s",
			s->info.id, e.text);
	// What was uncertain before stays so unless a full one was taken just now.
	s->full_next = complete ? rc < 0 : untouched ? s->full_next : true;
	drop_stage(dir);
}
