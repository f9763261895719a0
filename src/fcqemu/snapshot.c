// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/snapshot.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fcqemu/dirty.h"
#include "fcqemu/hook.h"
#include "fcqemu/state.h"

#define COPY_TIMEOUT_MS 20000 // for 4 MiB
#define TSC_STEADY_PPM 500    // two measurements of one machine, and the guest's own tolerance
#define TSC_LIMIT_PERCENT 10  // what the guest's clock can be slewed by

// ---- files that appear whole
//
// Whole, not durable. The guest stands still meanwhile, and this process and the guest are lost by
// whatever would make the difference: who wants to keep the files writes them to the disk
// afterwards (fsync), as the host agent does before it says that a sandbox is paused.

struct pending {
	char *tmp; // until committed; removed by pending_done
	const char *path;
	int fd;
};

static void pending_done(struct pending *p)
{
	safe_close(p->fd);
	if (p->tmp)
		unlink(p->tmp);
	free(p->tmp);
}

static int pending_open(struct pending *p, const char *path, const char *what, struct err *e)
{
	p->path = path;
	_cleanup_free_ char *tmp = str_printf("%s.tmp", path);
	if (!tmp)
		return err_errno(e, ENOMEM, "%.500s", path);
	if (unlink(tmp) < 0 && errno != ENOENT)
		return err_errno(e, errno, "%.500s", tmp);
	p->fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (p->fd < 0)
		return err_set(e, ERR_INVALID,
			"Cannot perform open on the %s backing file: " OS_ERROR, what,
			OS_ERROR_OF(errno));
	p->tmp = TAKE_PTR(tmp);
	return 0;
}

static int pending_commit(struct pending *p, struct err *e)
{
	if (rename(p->tmp, p->path) < 0)
		return err_errno(e, errno, "rename to %.500s", p->path);
	free(TAKE_PTR(p->tmp));
	return 0;
}

// ---- create

static int write_state(struct qemu *q, const struct qemu_options *o, const struct config *c,
	struct pending *p, struct err *e)
{
	// QEMU writes behind the head, on a descriptor of its own: its access mode has to be
	// exactly write-only.
	_cleanup_close_ int stream_fd = open(p->tmp, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	if (stream_fd < 0)
		return err_errno(e, errno, "%.500s", p->tmp);
	// Not this host's rate but the one that the guest goes by: it has been told at its boot.
	struct state s = {.tsc_khz = q->tsc_khz, .config = *c};
	snprintf(s.qemu_version, sizeof s.qemu_version, "%s", q->qmp.version);
	snprintf(s.accel, sizeof s.accel, "%s", q->accel == ACCEL_KVM ? "kvm" : "tcg");
	_cleanup_strbuf_ struct strbuf description = {0};
	int rc = state_encode_description(&s, &description);
	if (rc < 0 || description.len > STATE_DESCRIPTION_MAX)
		return err_errno(e, rc < 0 ? rc : E2BIG, "description of the machine");
	off_t begin = (off_t)(STATE_HEAD_SIZE + description.len);
	if (lseek(stream_fd, begin, SEEK_SET) < 0)
		return err_errno(e, errno, "%.500s", p->tmp);
	if ((rc = qemu_save_devices(q, stream_fd, e)) < 0)
		return rc;
	struct stat st;
	if (fstat(p->fd, &st) < 0)
		return err_errno(e, errno, "%.500s", p->tmp);
	if (st.st_size <= begin || (uint64_t)(st.st_size - begin) > STATE_STREAM_MAX)
		return err_set(e, ERR_INTERNAL, "QEMU wrote a device state of %lld bytes",
			(long long)(st.st_size - begin));
	size_t whole = (size_t)st.st_size;
	char *map = mmap(NULL, whole, PROT_READ, MAP_SHARED, p->fd, 0);
	if (map == MAP_FAILED)
		return err_errno(e, errno, "%.500s", p->tmp);
	uint8_t head[STATE_HEAD_SIZE];
	state_encode_head(&description, map + begin, whole - (size_t)begin, head);
	munmap(map, whole);
	// The offset of p->fd is still 0.
	rc = file_write_full(p->fd, head, sizeof head);
	if (rc == 0)
		rc = file_write_full(p->fd, description.data, description.len);
	return rc < 0 ? err_errno(e, rc, "%.500s", p->tmp) : 0;
}

static struct dirty_source source_of(const struct qemu *q)
{
	return (struct dirty_source){.pid = q->pid,
		.base = q->ram_base,
		.size = q->ram_size,
		.tracking = q->tracking,
		.file_backed = q->memory == MEMORY_FILE,
		.removed = q->removed};
}

// A full image leaves out pages of zeros: the file begins as one hole.
static int full_ranges(
	const struct qemu *q, const struct dirty_source *s, struct dirty_list *ret, struct err *e)
{
	if (q->memory == MEMORY_BOOT)
		return dirty_scan_touched(s, ret, e);
	struct dirty_range *all = malloc(sizeof *all);
	if (!all)
		return err_errno(e, ENOMEM, "guest memory");
	*all = (struct dirty_range){0, s->size, false};
	*ret = (struct dirty_list){.v = all, .n = 1, .cap = 1, .bytes = s->size};
	return 0;
}

// Which pages a diff has to hold. Where the kernel does not know, those are left out that hold what
// they were loaded with.
static int diff_ranges(
	struct qemu *q, const struct dirty_source *s, struct dirty_list *ret, struct err *e)
{
	int rc = dirty_scan(s, ret, e);
	if (rc < 0)
		return rc;
	uint64_t touched = ret->bytes;
	if (!ret->exact) {
		loaded_drop_same(&q->loaded, s, ret);
		log_debug("memory: %llu KiB of %llu KiB touched are written",
			(unsigned long long)(ret->bytes >> 10),
			(unsigned long long)(touched >> 10));
	}
	loaded_note(&q->loaded, s->size, ret);
	return 0;
}

static int write_memory(struct qemu *q, bool diff, struct pending *p, struct err *e)
{
	const struct dirty_source source = source_of(q);
	_cleanup_(dirty_list_done) struct dirty_list list = {0};
	uint64_t begin = clock_monotonic_ns();
	int rc = diff ? diff_ranges(q, &source, &list, e) : full_ranges(q, &source, &list, e);
	if (rc < 0)
		return rc;
	if (!diff)
		loaded_note(&q->loaded, source.size, NULL);
	uint64_t scanned = clock_monotonic_ns();
	if (ftruncate(p->fd, (off_t)source.size) < 0)
		return err_errno(e, errno, "%.500s", p->tmp);
	rc = hook_write(q->hook_fd, &q->hook_id, p->fd, list.v, list.n, !diff, COPY_TIMEOUT_MS, e);
	log_debug("memory: %llu KiB in %zu ranges, scan %llu us, copy %llu us",
		(unsigned long long)(list.bytes >> 10), list.n,
		(unsigned long long)(scanned - begin) / 1000,
		(unsigned long long)(clock_monotonic_ns() - scanned) / 1000);
	return rc;
}

static int commit(struct pending *state, struct pending *memory, struct err *e)
{
	// An older memory file must not stand beside the new state.
	if (unlink(memory->path) < 0 && errno != ENOENT)
		return err_errno(e, errno, "%.500s", memory->path);
	int rc = pending_commit(state, e);
	return rc < 0 ? rc : pending_commit(memory, e);
}

int snapshot_create(struct qemu *q, const struct qemu_options *o, const struct config *c,
	const struct snapshot_create *s, struct err *e)
{
	_cleanup_(pending_done) struct pending state = {.fd = -1}, memory = {.fd = -1};
	if (strcmp(s->state_path, s->mem_path) == 0)
		return err_set(
			e, ERR_INVALID, "snapshot_path and mem_file_path are the same file.");
	int rc = pending_open(&state, s->state_path, "snapshot", e);
	if (rc == 0)
		rc = pending_open(&memory, s->mem_path, "memory", e);
	uint64_t begin = clock_monotonic_ns();
	if (rc == 0)
		rc = write_state(q, o, c, &state, e);
	uint64_t saved = clock_monotonic_ns();
	if (rc == 0)
		rc = write_memory(q, s->diff, &memory, e);
	uint64_t copied = clock_monotonic_ns();
	if (rc == 0)
		rc = commit(&state, &memory, e);
	if (rc < 0)
		return rc;
	// The files stand. Where this fails, the next diff holds some pages again: nothing is lost.
	const struct dirty_source source = source_of(q);
	struct err again = {0};
	if ((rc = dirty_reset(&source, &again)) < 0)
		log_warn("dirty pages are not reset: %s", err_text(&again, rc));
	log_debug("snapshot: state %llu us, memory %llu us, reset %llu us",
		(unsigned long long)(saved - begin) / 1000,
		(unsigned long long)(copied - saved) / 1000,
		(unsigned long long)(clock_monotonic_ns() - copied) / 1000);
	return 0;
}

// ---- load

static int check_clock(const struct qemu_options *o, const struct state *s, struct err *e)
{
	uint64_t here = o->tsc_khz ? o->tsc_khz : tsc_khz_since(&o->mark), there = s->tsc_khz;
	uint64_t off = here > there ? here - there : there - here;
	if (off * 1000000 <= there * TSC_STEADY_PPM)
		return 0;
	if (off * 100 <= there * TSC_LIMIT_PERCENT) {
		log_warn("the guest's time stamp counter ran at %llu kHz, here it is %llu: its "
			 "clock "
			 "needs correction",
			(unsigned long long)there, (unsigned long long)here);
		return 0;
	}
	return err_set(e, ERR_CONFLICT,
		"The guest's clock cannot go on here: its time stamp counter ran at %llu kHz, this "
		"host's runs at %llu kHz (at most %d %% apart).",
		(unsigned long long)there, (unsigned long long)here, TSC_LIMIT_PERCENT);
}

static int check_accel(
	const struct qemu_options *o, const struct state *s, enum accel *ret, struct err *e)
{
	enum accel saved = strcmp(s->accel, "kvm") == 0 ? ACCEL_KVM : ACCEL_TCG;
	if (saved == ACCEL_TCG && strcmp(s->accel, "tcg") != 0)
		return err_set(e, ERR_INVALID, "Unknown accelerator %s.", s->accel);
	if (o->accel != ACCEL_AUTO && o->accel != saved)
		return err_set(e, ERR_CONFLICT,
			"The snapshot was taken with %s and cannot be loaded with the other "
			"accelerator.",
			s->accel);
	*ret = saved;
	return 0;
}

static int open_memory(const char *path, uint64_t size, struct err *e)
{
#define BY_FILE "Failed to load guest memory: Error creating guest memory from file: "
	struct stat st;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(e, ERR_INVALID, BY_FILE "Failed to load guest memory: " OS_ERROR,
			OS_ERROR_OF(errno));
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < size)
		return err_set(e, ERR_INVALID,
			BY_FILE "Failed to restore guest memory: Total sum of memory regions "
				"exceeds largest possible file offset");
	return TAKE_FD(fd);
}

static int connect_pager(const char *path, struct err *e)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	if (str_format(sa.sun_path, sizeof sa.sun_path, "%s", path) < 0)
		return err_set(e, ERR_INVALID, "%.200s: longer than a socket's path may be", path);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(e, errno, "socket");
	// A full backlog is no server that waits for us.
	fcntl(fd, F_SETFL, O_NONBLOCK);
	if (connect(fd, (const struct sockaddr *)&sa, sizeof sa) < 0)
		return err_set(e, ERR_INVALID,
			"Failed to load guest memory: Error creating guest memory from uffd: "
			"Failed to connect to UDS Unix stream: " OS_ERROR,
			OS_ERROR_OF(errno));
	fcntl(fd, F_SETFL, 0);
	return TAKE_FD(fd);
}

static int load_steps(struct qemu *q, const struct qemu_options *o, const struct snapshot_load *l,
	config_open_tap_fn open_tap, struct state *s, int state_fd, struct err *e)
{
	struct qemu_incoming in = {.state_fd = state_fd,
		.backend_fd = -1,
		.memory = l->uffd ? MEMORY_UFFD : MEMORY_FILE};
	int rc = check_accel(o, s, &in.accel, e);
	if (rc == 0 && in.accel == ACCEL_TCG)
		rc = check_clock(o, s, e);
	if (rc == 0)
		rc = config_open_backends(&s->config, open_tap, l->net_overrides, e);
	if (rc < 0)
		return rc;
	uint64_t size = s->config.memory_mib << 20;
	_cleanup_close_ int backend =
		l->uffd ? connect_pager(l->backend_path, e) : open_memory(l->backend_path, size, e);
	if (backend < 0)
		return backend;
	in.backend_fd = backend;
	state_format(s->qemu_version, in.format, sizeof in.format);
	if ((rc = qemu_load(q, o, &s->config, &in, e)) < 0)
		return rc;
	bool known = l->uffd ? o->memory_header && o->memory_layers : true;
	q->loaded.kind = !known ? LOADED_UNKNOWN : l->uffd ? LOADED_IMAGE : LOADED_FILE;
	q->loaded.header_path = o->memory_header;
	q->loaded.layers_path = o->memory_layers;
	if (!l->uffd)
		q->loaded.file = TAKE_FD(backend);
	return 0;
}

int snapshot_load(struct qemu *q, const struct qemu_options *o, const struct snapshot_load *l,
	config_open_tap_fn open_tap, struct config *ret, struct err *e)
{
	struct state s;
	_cleanup_close_ int state_fd = -1;
	int rc = state_read(l->state_path, &s, &state_fd, e);
	if (rc < 0)
		return err_prefix(e, rc, "Failed to get snapshot state from file");
	if ((rc = load_steps(q, o, l, open_tap, &s, state_fd, e)) < 0) {
		state_done(&s);
		return rc;
	}
	q->tsc_khz = s.tsc_khz;
	*ret = s.config;
	return 0;
}
