// SPDX-License-Identifier: Apache-2.0
// Memory becomes a layer, then layer, state and disk become a snapshot. All of it is durable before
// snapshot.json has its name: the snapshot exists from that moment on, and not before.
#include "sandbox/capture/publish.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/request_id.h"
#include "disk/disk.h"
#include "sandbox/capture/harvest.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/machine/fit.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/machine/runtimes.h"
#include "sandbox/table/state.h"
#include "snapshot/ingest.h"

static int open_regular(int dir, const char *name)
{
	struct stat st;
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? TAKE_FD(fd) : -1;
}

int capture_ingest(struct host *h, struct sandbox *s, struct capture *c, int dir, struct err *e)
{
	_cleanup_(header_freep) struct header *parent = NULL;
	struct layer_stats stats;
	struct host_sandbox *i = &s->info;
	_cleanup_close_ int layers =
		openat(h->data_fd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (layers < 0)
		return err_errno(e, errno, "layers");
	int rc = file_there(dir, SNAP_MEM);
	if (rc < 0)
		return err_errno(e, rc, SNAP_MEM);
	_cleanup_close_ int source = rc == 1 ? open_regular(dir, SNAP_MEM) : -1;
	if (rc == 1)
		rc = stage_take(
			h, dir, SNAP_MEM, c->stage.mem, (uint64_t)s->info.memory_mb << 20, e);
	if (rc == 0)
		rc = s->full_next ? header_new_zero(
					    (uint64_t)s->info.memory_mb << 20, c->image, &parent, e)
				  : header_read(dir, LINEAGE_FILE, &parent, e);
	if (rc == 0)
		rc = layer_ingest_from(h->data_fd, c->stage.mem, source, layers, c->layer, parent,
			c->image, &c->header, &stats, e);
	if (rc < 0)
		return rc;
	i->memory_written_bytes = stats.data_bytes + stats.zero_bytes + stats.same_bytes;
	i->memory_kept_bytes = stats.data_bytes;
	pthread_mutex_lock(&h->lock);
	h->memory_written += i->memory_written_bytes;
	h->memory_kept += i->memory_kept_bytes;
	pthread_mutex_unlock(&h->lock);
	return 0;
}

static void fill_info(const struct host *h, const struct sandbox *s, const struct capture *c,
	struct snapshot_info *i)
{
	const struct vmm_choice *v = runtime_of(h, s);
	*i = (struct snapshot_info){.kind = snapshot_kind_from_name(c->kind),
		.vcpus = s->info.vcpus,
		.memory_bytes = (uint64_t)s->info.memory_mb << 20,
		.quiesced = c->quiesced,
		.created_ns = clock_realtime_ns()};
	i->cpu = v->cpu;
	snprintf(i->accel, sizeof i->accel, "%s", fit_accel(v));
	snprintf(i->runtime, sizeof i->runtime, "%s", v->runtime);
	snprintf(i->id, sizeof i->id, "%s", c->snapshot);
	snprintf(i->parent, sizeof i->parent, "%s", s->parent);
	snprintf(i->vmm_name, sizeof i->vmm_name, "%s", v->name);
	snprintf(i->vmm_version, sizeof i->vmm_version, "%s", v->version);
	snprintf(i->vmm_sha256, sizeof i->vmm_sha256, "%s", v->sha256);
	snprintf(i->vmm_state, sizeof i->vmm_state, "%s", v->state);
	snprintf(i->kernel_id, sizeof i->kernel_id, "%s", s->kernel_id);
	snprintf(i->agent_version, sizeof i->agent_version, "%s", s->info.agent);
}

static void fill_row(const struct sandbox *s, struct capture *c)
{
	struct host_snapshot *r = &c->row.info;
	snprintf(r->id, sizeof r->id, "%s", c->snapshot);
	snprintf(r->kind, sizeof r->kind, "%s", c->kind);
	snprintf(r->sandbox, sizeof r->sandbox, "%s", c->of ? c->of->sandbox : s->info.id);
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
	const struct vmm_choice *vmm;
	char path[512];
	uint64_t tsc_khz;
	struct err e;
	int rc;
};

static void *describe(void *arg)
{
	struct describe *d = arg;
	d->rc = vmm_state_tsc_khz(d->vmm, d->path, &d->tsc_khz, &d->e);
	return NULL;
}

static int ingest_and_describe(struct host *h, struct sandbox *s, struct capture *c, int dir,
	uint64_t *ret_tsc_khz, struct err *e)
{
	struct describe d = {.vmm = runtime_of(h, s)};
	pthread_t thread;
	if (str_format(d.path, sizeof d.path, "%s/%s", h->data_dir, c->stage.state) < 0)
		return err_set(e, ERR_INTERNAL, "data directory path too long");
	int rc = stage_take(h, dir, SNAP_STATE, c->stage.state, SNAPSHOT_MAX_VMSTATE, e);
	if (rc < 0)
		return rc;
	bool beside = request_id_thread(&thread, describe, &d) == 0;
	rc = capture_ingest(h, s, c, dir, e);
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
	bool recorded = info.kind == SNAPSHOT_PAUSE &&
			disk_take(dir, WORKING_SET, h->data_fd, c->stage.working_set, 0444,
				WORKING_SET_MAX, NULL) == 0;
	rc = snapshot_write(h->data_fd, &info, c->header,
		&(struct snapshot_files){.dirfd = h->data_fd,
			.vmstate = c->stage.state,
			.disk = c->stage.disk,
			.working_set = recorded ? c->stage.working_set : NULL},
		e);
	if (rc < 0)
		return err_prefix(e, rc, "snapshot");
	c->published = true;
	if ((rc = refs_add_snapshot(h->refs, c->snapshot, c->header)) < 0 ||
		(rc = refs_name_runtime(h->refs, c->snapshot, info.runtime)) < 0)
		return err_errno(e, rc, "snapshot");
	sandbox_phase(&s->info, "publish", since);
	char disk[sizeof "snapshots//disk.img" + UUID_SIZE];
	snprintf(disk, sizeof disk, "snapshots/%s/disk.img", c->snapshot);
	if (disk_usage(h->data_fd, disk, &c->row.info.disk_bytes) < 0)
		c->row.info.disk_bytes = 0;
	return 0;
}
