// SPDX-License-Identifier: Apache-2.0
// How a running sandbox becomes a snapshot; the common part of pause, fork and snapshot.
//
//  take     quiesce the guest (a pause does without its agent), stop it, let the VMM write its
//  dirty memory and device state, share
//           the disk's blocks: staged, nothing published
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
#include "sandbox/capture/capture.h"
#include "sandbox/capture/early_write.h"
#include "sandbox/capture/quiesce.h"
#include "sandbox/capture/snapshots.h"
#include "sandbox/machine/oom.h"
#include "sandbox/machine/reach.h"
#include "sandbox/table/space.h"
#include "sandbox/table/state.h"
#include "shim/shim.h"

uint64_t capture_needs(struct host *h, struct sandbox *s)
{
	char dir[512];
	uint64_t bytes, memory = (uint64_t)s->info.memory_mb << 20;
	if (host_run_path(h, s->info.id, dir) < 0 || shim_memory(dir, &bytes) < 0)
		return memory;
	return MIN(bytes, memory);
}

void capture_done(struct host *h, struct capture *c, bool committed)
{
	space_give_back(h, c->promised);
	c->promised = 0;
	if (c->published && !committed)
		snapshot_discard(h, c->snapshot);
	if (!c->published && c->stage.mem[0])
		stage_drop(h, -1, &c->stage);
	c->header = header_free(c->header);
	c->agent = http_client_free(c->agent);
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
	stage_names(c->snapshot, c->layer, &c->stage);
	return str_format(journal, 200, "{\"snapshot\":\"%s\",\"layer\":\"%s\",\"full\":%s}",
		c->snapshot, c->layer, full ? "true" : "false");
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
	int rc = s->held ? 0 : vmm_pause(v, e);
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
	char disk[sizeof "sandboxes//rootfs.img" + 64];
	snprintf(disk, sizeof disk, "sandboxes/%.63s/rootfs.img", s->info.id);
	rc = disk_clone(h->data_fd, disk, c->stage.disk, 0, NULL, e);
	if (rc < 0)
		return err_prefix(e, rc, "disk");
	sandbox_phase(&s->info, "disk_clone", since);
	return fault_hit("capture.after_disk", e);
}

// Its code may stop or replace the agent, and has no say in whether it is paused. What is copied or
// goes on needs the agent's word.
static int freeze(struct host *h, struct sandbox *s, struct capture *c, struct err *e)
{
	struct err why = {0};
	if (s->held) {
		c->quiesced = s->held == HELD_FROZEN;
		snprintf(c->unanswered, sizeof c->unanswered, "%s",
			c->quiesced ? "" : "it was held");
		return 0;
	}
	int rc = quiesce(h, s, &c->agent, true, &why);
	c->quiesced = rc == 0;
	if (rc == 0)
		return 0;
	if (machine_is_gone(s)) {
		*e = why;
		return err_prefix(e, rc, "quiesce the guest");
	}
	if (!str_eq(c->kind, "pause"))
		return err_set(e, why.code == ERR_TIMEOUT ? ERR_TIMEOUT : ERR_BAD_GATEWAY,
			"the guest's agent did not freeze it (%.300s); it runs on. A pause needs "
			"no agent",
			why.text);
	log_warn("stopped without its agent sandbox=%s error=%s", s->info.id, why.text);
	snprintf(c->unanswered, sizeof c->unanswered, "%.150s", why.text);
	return 0;
}

int capture_take(
	struct host *h, struct sandbox *s, struct capture *c, uint64_t *since, struct err *e)
{
	_cleanup_(vmm_freep) struct vmm *v = NULL;
	if (h->runtimes && !s->vmm)
		return err_set(e, ERR_UNAVAILABLE,
			"the VMM that sandbox '%s' runs on is not known (the server's log says "
			"why), so its memory could not be loaded again: it runs on; restart the "
			"server",
			s->info.id);
	_cleanup_close_ int dir = host_open_disk(h, s->info.id, e);
	if (dir < 0)
		return dir;
	int rc = machine_vmm(h, s, &v, e);
	if (rc < 0)
		return rc;
	stage_drop(h, dir, &c->stage);
	if ((rc = sync_disk(dir, e)) < 0)
		return rc;
	sandbox_phase(&s->info, "sync", since);
	oom_settle(h, s);
	c->stopped_ns = clock_monotonic_ns();
	rc = freeze(h, s, c, e);
	sandbox_phase(&s->info, "freeze", since);
	if (rc == 0)
		rc = fault_hit("capture.after_freeze", e);
	if (rc == 0)
		rc = stop_and_write(h, s, c, v, dir, since, e);
	if (rc == 0 || s->held)
		return rc;
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
	struct err why = {0};
	rc = quiesce(h, s, &c->agent, false, &why);
	if (rc < 0 && machine_is_gone(s)) {
		*e = why;
		return err_prefix(e, rc, "thaw the guest");
	}
	if (rc < 0)
		log_warn("thaw is owed sandbox=%s error=%s", s->info.id, why.text);
	s->owed.thaw = rc < 0;
	s->info.agent_silent = rc < 0 || s->owed.init;
	s->held = NOT_HELD;
	c->went_on = true;
	c->went_on_ns = clock_monotonic_ns();
	return 0;
}
