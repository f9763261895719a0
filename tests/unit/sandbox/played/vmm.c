// SPDX-License-Identifier: Apache-2.0
// The played VMM (vmm/vmm.h). Its promises are those of the two real ones:
//
// * fcqemu writes mem.tmp and vmstate.tmp. When both are whole they get their names, and only then
//   the tracking begins anew. A snapshot that failed changed nothing.
// * Firecracker begins the tracking anew as it writes mem: a snapshot that failed has lost what was
//   written before.
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/str.h"
#include "played/played.h"
#include "snapshot/layer.h"
#include "snapshot/merge.h"

enum { T_QUERY = 5000, T_CONFIG = 10000, T_START = 60000, T_STATE = 30000, T_SNAPSHOT = 600000 };

struct vmm {
	char dir[200];
};

struct vmstate {
	char magic[16];
	struct machine m;
};
#define MAGIC "played vmstate"

int vmm_new(const char *socket_path, struct vmm **ret, struct err *e)
{
	struct vmm *v = calloc(1, sizeof *v);
	if (!v)
		return err_errno(e, ENOMEM, "VMM client");
	snprintf(v->dir, sizeof v->dir, "%.*s", (int)(strlen(socket_path) - strlen(JAIL_API_SOCK)),
		socket_path);
	*ret = v;
	return 0;
}

struct vmm *vmm_free(struct vmm *v)
{
	free(v);
	return NULL;
}

static int is_dead(void *ctx)
{
	return !machine_lives(ctx);
}

static int meet(struct vmm *v, const char *call, int timeout_ms, struct machine *m, bool *ret_lost,
	struct err *e)
{
	*ret_lost = false;
	if (machine_read(v->dir, m) < 0 || !machine_lives(m))
		return err_errno(e, ECONNREFUSED, "%s: connect to the VMM", call);
	int rc = trouble_meet(call, m->id, timeout_ms, is_dead, m, ret_lost, e);
	if (rc < 0)
		return rc;
	// It may have waited.
	if (machine_read(v->dir, m) < 0 || !machine_lives(m))
		return err_errno(e, ECONNRESET, "%s: the VMM ended", call);
	return 0;
}

static int answer(
	struct vmm *v, const struct machine *m, const char *call, bool lost, struct err *e)
{
	if (machine_write(v->dir, m) < 0)
		return err_errno(e, ECONNRESET, "%s: the VMM ended", call);
	return lost ? trouble_wait(1000, NULL, NULL, call, e) : 0;
}

int vmm_get_version(struct vmm *v, struct vmm_version *ret, struct err *e)
{
	*ret = (struct vmm_version){.major = 1,
		.minor = 14,
		.patch = 2,
		.fcqemu = !world.firecracker,
		.text = "1.14.2"};
	return 0;
}

static int get_state(struct vmm *v, const char *call, int ms, enum vmm_state *ret, struct err *e)
{
	struct machine m;
	bool lost;
	int rc = meet(v, call, ms, &m, &lost, e);
	if (rc == 0)
		*ret = (enum vmm_state)m.state;
	return rc == 0 && lost ? trouble_wait(ms, NULL, NULL, call, e) : rc;
}

int vmm_get_state(struct vmm *v, enum vmm_state *ret, struct err *e)
{
	return get_state(v, "vmm_get_state", T_QUERY, ret, e);
}

int vmm_wait_idle(struct vmm *v, enum vmm_state *ret, struct err *e)
{
	return get_state(v, "vmm_wait_idle", T_SNAPSHOT, ret, e);
}

static int configure(struct vmm *v, const char *call, unsigned memory_mib, struct err *e)
{
	struct machine m;
	bool lost;
	int rc = meet(v, call, T_CONFIG, &m, &lost, e);
	if (rc < 0)
		return rc;
	if (m.state != VMM_NOT_STARTED)
		return err_set(e, ERR_INTERNAL, "%s: status 400: the machine was started", call);
	if (memory_mib)
		m.memory_mib = memory_mib;
	return answer(v, &m, call, lost, e);
}

int vmm_put_machine(struct vmm *v, const struct vmm_machine *m, struct err *e)
{
	return configure(v, "vmm_put_machine", m->memory_mib, e);
}

int vmm_put_boot(struct vmm *v, const struct vmm_boot *b, struct err *e)
{
	return configure(v, "vmm_put_boot", 0, e);
}

int vmm_put_drive(struct vmm *v, const struct vmm_drive *d, struct err *e)
{
	return configure(v, "vmm_put_drive", 0, e);
}

int vmm_patch_drive(struct vmm *v, const char *id, const char *path, struct err *e)
{
	return 0;
}

int vmm_put_net(struct vmm *v, const struct vmm_net *n, struct err *e)
{
	return configure(v, "vmm_put_net", 0, e);
}

int vmm_put_entropy(struct vmm *v, struct err *e)
{
	return configure(v, "vmm_put_entropy", 0, e);
}

static int write_page(int fd, unsigned page, uint32_t number)
{
	unsigned char bytes[PLAYED_PAGE];
	page_fill(bytes, number);
	return pwrite(fd, bytes, sizeof bytes, (off_t)page * PLAYED_PAGE) == sizeof bytes ? 0
											  : -EIO;
}

int vmm_start(struct vmm *v, struct err *e)
{
	struct machine m;
	bool lost;
	int rc = meet(v, "vmm_start", T_START, &m, &lost, e);
	if (rc < 0)
		return rc;
	_cleanup_close_ int fd = machine_memory(v->dir, O_RDWR);
	for (unsigned p = 0; fd >= 0 && p < PLAYED_PAGES; p++)
		if (content_booted.page[p]) {
			write_page(fd, p, content_booted.page[p]);
			m.dirty[p] = 1;
		}
	m.state = VMM_RUNNING;
	m.booted = true;
	m.emulated = atomic_load(&world.stage->emulated);
	snprintf(m.instance, sizeof m.instance, "a6e%u", ++m.instances);
	snprintf(m.agent, sizeof m.agent, "%s",
		world.stage->agent[0] ? world.stage->agent : PLAYED_AGENT);
	return answer(v, &m, "vmm_start", lost, e);
}

static int set_state(struct vmm *v, const char *call, enum vmm_state to, struct err *e)
{
	struct machine m;
	bool lost;
	int rc = meet(v, call, T_STATE, &m, &lost, e);
	if (rc < 0)
		return rc;
	if (m.state == VMM_NOT_STARTED)
		return err_set(e, ERR_INTERNAL, "%s: status 400: not started", call);
	m.state = to;
	return answer(v, &m, call, lost, e);
}

int vmm_pause(struct vmm *v, struct err *e)
{
	return set_state(v, "vmm_pause", VMM_PAUSED, e);
}

int vmm_resume(struct vmm *v, struct err *e)
{
	return set_state(v, "vmm_resume", VMM_RUNNING, e);
}

// ---- snapshots

static int in_jail(const struct machine *m, const char *path, char out[512])
{
	if (!str_starts(path, JAIL_SNAP "/"))
		return -EINVAL;
	return str_format(out, 512, "%s/%s", m->snap, path + strlen(JAIL_SNAP "/"));
}

static int write_memory(struct vmm *v, struct machine *m, const char *path, bool diff)
{
	unsigned char bytes[PLAYED_PAGE];
	_cleanup_close_ int in = machine_memory(v->dir, O_RDONLY);
	_cleanup_close_ int out = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (in < 0 || out < 0 || ftruncate(out, (off_t)PLAYED_PAGES * PLAYED_PAGE) < 0)
		return -EIO;
	for (unsigned p = 0; p < PLAYED_PAGES; p++) {
		// Of a hole only that it was written has to be told.
		bool holds = page_next_data(in, p) == p;
		if (!m->dirty[p] && (!holds || (diff && !world.superset)))
			continue;
		if (pread(in, bytes, sizeof bytes, (off_t)p * PLAYED_PAGE) != sizeof bytes)
			return -EIO;
		if (!diff && layer_block_is_zero(bytes))
			continue;
		if (pwrite(out, bytes, sizeof bytes, (off_t)p * PLAYED_PAGE) != sizeof bytes)
			return -EIO;
	}
	return 0;
}

static int write_state(const struct machine *m, const char *path)
{
	struct vmstate s = {.magic = MAGIC, .m = *m};
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : file_write_full(fd, &s, sizeof s);
}

int vmm_snapshot_create(
	struct vmm *v, const char *state_path, const char *mem_path, bool diff, struct err *e)
{
	static const char call[] = "vmm_snapshot_create";
	struct machine m;
	bool lost;
	char mem[512], state[512], mem_tmp[520], state_tmp[520];
	int rc = meet(v, call, T_SNAPSHOT, &m, &lost, e);
	if (rc < 0)
		return rc;
	if (m.state != VMM_PAUSED)
		return err_set(e, ERR_INTERNAL, "%s: status 400: the machine is not paused", call);
	if (in_jail(&m, mem_path, mem) < 0 || in_jail(&m, state_path, state) < 0)
		return err_set(e, ERR_INTERNAL, "%s: bad path", call);
	snprintf(mem_tmp, sizeof mem_tmp, "%s%s", mem, world.firecracker ? "" : ".tmp");
	snprintf(state_tmp, sizeof state_tmp, "%s%s", state, world.firecracker ? "" : ".tmp");
	rc = write_memory(v, &m, mem_tmp, diff);
	memset(m.dirty, 0, sizeof m.dirty);
	if (rc == 0)
		rc = write_state(&m, state_tmp);
	if (rc == 0 && !world.firecracker &&
		(rename(state_tmp, state) < 0 || rename(mem_tmp, mem) < 0))
		rc = -errno;
	if (rc < 0)
		return err_errno(e, rc, "%s", call);
	return answer(v, &m, call, lost, e);
}

static int read_memory(const struct machine *m, enum vmm_backend backend, int out, struct err *e)
{
	_cleanup_(header_freep) struct header *h = NULL;
	if (backend == VMM_BACKEND_FILE) {
		unsigned char bytes[PLAYED_PAGE];
		_cleanup_close_ int in = open(m->mem, O_RDONLY | O_CLOEXEC);
		if (in < 0)
			return err_errno(e, errno, "load %s", m->mem);
		for (unsigned p = page_next_data(in, 0); p < PLAYED_PAGES;
			p = page_next_data(in, p + 1))
			if (pread(in, bytes, sizeof bytes, (off_t)p * PLAYED_PAGE) !=
					sizeof bytes ||
				pwrite(out, bytes, sizeof bytes, (off_t)p * PLAYED_PAGE) !=
					sizeof bytes)
				return err_errno(e, EIO, "load %s", m->mem);
		return 0;
	}
	int rc = header_read(AT_FDCWD, m->header, &h, e);
	if (rc < 0 || h->n_layers == 0)
		return rc;
	_cleanup_close_ int layers = open(m->layers, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (layers < 0)
		return err_errno(e, errno, "layers '%s'", m->layers);
	return layer_materialise(h, layers, out, e);
}

int vmm_snapshot_load(struct vmm *v, const struct vmm_load *l, struct err *e)
{
	static const char call[] = "vmm_snapshot_load";
	struct machine m;
	struct vmstate s;
	bool lost;
	int rc = meet(v, call, T_START, &m, &lost, e);
	if (rc < 0)
		return rc;
	_cleanup_close_ int fd = open(m.vmstate, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || file_read_full(fd, &s, sizeof s) != sizeof s || !str_eq(s.magic, MAGIC))
		return err_set(e, ERR_INTERNAL, "%s: status 400: bad state file", call);
	if (s.m.emulated != (bool)atomic_load(&world.stage->emulated))
		return err_set(e, ERR_INTERNAL, "%s: status 400: the other accelerator's", call);
	if (!str_eq(s.m.tree, m.tree))
		return err_set(e, ERR_INTERNAL, "%s: status 400: written by another version", call);
	char path[512];
	snprintf(path, sizeof path, "%s/memory", v->dir);
	_cleanup_close_ int out = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
	if (out < 0 || (rc = read_memory(&m, l->backend, out, e)) < 0)
		return rc < 0 ? rc : err_errno(e, errno, "%s", path);
	if (ftruncate(out, (off_t)PLAYED_PAGES * PLAYED_PAGE) < 0)
		return err_errno(e, errno, "%s", path);
	m.state = l->resume ? VMM_RUNNING : VMM_PAUSED;
	m.booted = m.loaded = true;
	m.frozen = s.m.frozen;
	m.emulated = s.m.emulated;
	m.memory_mib = s.m.memory_mib;
	m.instances = s.m.instances;
	memcpy(m.token, s.m.token, sizeof m.token);
	memcpy(m.instance, s.m.instance, sizeof m.instance);
	memcpy(m.agent, s.m.agent, sizeof m.agent);
	return answer(v, &m, call, lost, e);
}
