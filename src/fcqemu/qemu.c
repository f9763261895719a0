// SPDX-License-Identifier: Apache-2.0
// How this works. QEMU gets its whole machine on the command line, control over an inherited
// socket, and the preload ramhook.so, which puts guest memory where it can be tracked (see there).
// It starts stopped (-S); the guest is let go only after the hook has reported where the memory is,
// so that no write escapes the tracking. There is no wait of fixed length: every step ends with an
// event (report, greeting, answer) or at its time-out.
//
// Devices sit in fixed virtio-mmio slots, so that a snapshot finds them again: drives from 23 down,
// interfaces from 9 down, entropy in 1. Downwards, because that is the order in which the ACPI
// table lists them and the guest counts its disks. Slot 0 stays empty: under ACPI its interrupt
// never arrives (QEMU 7.2).
#include "fcqemu/qemu.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <x86intrin.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/id.h"
#include "base/log.h"
#include "base/proc.h"
#include "fcqemu/probe.h"
#include "fcqemu/state.h"
#include "vmm/limits.h"

#define START_TIMEOUT_MS 30000 // a busy machine; an idle one needs 40
#define SLOT_DRIVE 23
#define SLOT_NIC 9
#define SLOT_ENTROPY 1
// QEMU's default for translated code is up to 1 GiB a guest; a kernel and Python need a tenth.
#define TRANSLATION_MIB 256

#define QMP_CHILD_FD 3
#define REPORT_CHILD_FD 4
#define CONTROL_CHILD_FD 5
#define REMOVED_CHILD_FD 6
#define BACKEND_CHILD_FD 7
#define STATE_CHILD_FD 8
#define TAP_CHILD_FD 10

_Static_assert(
	SLOT_DRIVE - CONFIG_DRIVES_MAX == SLOT_NIC && SLOT_NIC - CONFIG_NICS_MAX == SLOT_ENTROPY,
	"slots must not overlap");

// ---- clock rate

static uint64_t raw_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

// The pair of readings that lie closest together out of a few: an interrupt between the two would
// spoil the rate.
struct tsc_mark tsc_mark_now(void)
{
	struct tsc_mark best = {0};
	uint64_t best_width = UINT64_MAX;
	for (int i = 0; i < 8; i++) {
		uint64_t before = __rdtsc(), ns = raw_ns(), after = __rdtsc();
		if (after - before < best_width) {
			best_width = after - before;
			best = (struct tsc_mark){before + (after - before) / 2, ns};
		}
	}
	return best;
}

uint64_t tsc_khz_since(const struct tsc_mark *since)
{
	struct tsc_mark now;
	do
		now = tsc_mark_now();
	while (now.ns - since->ns < 5 * NSEC_PER_MSEC);
	return (uint64_t)((unsigned __int128)(now.tsc - since->tsc) * 1000000 /
			  (now.ns - since->ns));
}

// ---- command line

struct args {
	char *v[160];
	size_t n;
	bool failed;
};

static void args_done(struct args *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i]);
}

static void args_take(struct args *a, char *text)
{
	if (!text || a->n + 1 >= ARRAY_SIZE(a->v)) {
		a->failed = true;
		free(text);
		return;
	}
	a->v[a->n++] = text;
}

static void args_add(struct args *a, const char *fmt, ...) _printf_(2, 3);
static void args_add(struct args *a, const char *fmt, ...)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	va_list ap;
	va_start(ap, fmt);
	strbuf_addv(&b, fmt, ap);
	va_end(ap);
	args_take(a, strbuf_steal(&b));
}

// Options in QEMU's JSON form, which needs no escaping of the client's paths.
static void args_add_json(struct args *a, const char *option, json_t *j)
{
	args_add(a, "%s", option);
	args_take(a, j ? json_dumps(j, JSON_COMPACT) : NULL);
	json_decref(j);
}

int qemu_command_line(const struct config *c, uint64_t tsc_khz, char **ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	const char *args = c->boot_args, *init = strstr(args, "-- ");
	if (init != args && (!init || init[-1] != ' '))
		init = args + strlen(args);
	strbuf_add(&b, args, (size_t)(init - args));
	if (c->n_drives && c->drives[0].root) {
		const struct drive *d = &c->drives[0];
		if (d->partuuid)
			strbuf_addf(&b, " root=PARTUUID=%s", d->partuuid);
		else
			strbuf_adds(&b, " root=/dev/vda");
		strbuf_adds(&b, d->read_only ? " ro" : " rw");
	}
	// The guest has no other timer to calibrate against; "reliable" keeps the watchdog from
	// distrusting the counter when the emulation is slow.
	if (tsc_khz)
		strbuf_addf(&b, " tsc_early_khz=%llu tsc=reliable", (unsigned long long)tsc_khz);
	else
		strbuf_adds(&b, " no-kvmapf"); // see firecracker_args, vmm.c
	// A triple fault is the reboot that QEMU turns into its end; there is no keyboard
	// controller.
	strbuf_adds(&b, " reboot=t");
	if (!strstr(args, "panic="))
		strbuf_adds(&b, " panic=-1");
	if (*init)
		strbuf_addf(&b, " %s", init);
	if (b.len >= CONFIG_BOOT_ARGS_MAX)
		return err_set(e, ERR_INVALID,
			"The kernel command line is invalid: %zu bytes with what fcqemu adds, at "
			"most "
			"%u.",
			b.len, CONFIG_BOOT_ARGS_MAX - 1);
	if (!(*ret = strbuf_steal(&b)))
		return err_errno(e, ENOMEM, "kernel command line");
	return 0;
}

struct node_name {
	char text[32];
};

// A drive is two block nodes: the disk, which the device holds for good, over the n-th file.
static struct node_name file_name(size_t index, unsigned n)
{
	struct node_name name;
	snprintf(name.text, sizeof name.text, "file%zu.%u", index, n);
	return name;
}

static struct node_name disk_name(size_t index)
{
	struct node_name name;
	snprintf(name.text, sizeof name.text, "disk%zu", index);
	return name;
}

// Unsafe: what the guest flushes is not synced; the host's page cache keeps it.
static json_t *cache_json(const struct drive *d)
{
	return json_pack(
		"{s:b, s:b}", "direct", 0, "no-flush", (int)!str_eq(d->cache_type, "Writeback"));
}

// Unmap: what the guest discards becomes a hole, where both nodes let it through. The device offers
// discard in any case.
static json_t *file_node(size_t index, unsigned n, const struct drive *d, const char *path)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:b, s:s, s:o}", "driver", "file", "node-name",
		file_name(index, n).text, "filename", path, "locking", "off", "read-only",
		(int)d->read_only, "discard", "unmap", "cache", cache_json(d));
}

static json_t *raw_node(size_t index, unsigned n, const struct drive *d)
{
	return json_pack("{s:s, s:s, s:s, s:b, s:s, s:o}", "driver", "raw", "node-name",
		disk_name(index).text, "file", file_name(index, n).text, "read-only",
		(int)d->read_only, "discard", "unmap", "cache", cache_json(d));
}

static void add_drive(struct args *a, size_t i, const struct drive *d)
{
	struct node_name disk = disk_name(i);
	char bus[32];
	snprintf(bus, sizeof bus, "virtio-mmio-bus.%zu", SLOT_DRIVE - i);
	args_add_json(a, "-blockdev", file_node(i, 0, d, d->path));
	args_add_json(a, "-blockdev", raw_node(i, 0, d));
	// Errors go to the guest; QEMU's default would stop it on a full disk.
	args_add_json(a, "-device",
		json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "driver", "virtio-blk-device", "id",
			disk.text, "drive", disk.text, "bus", bus, "werror", "report", "rerror",
			"report"));
}

static void add_nic(struct args *a, size_t i, const struct nic *n)
{
	char net[32], bus[32], mac[18];
	snprintf(net, sizeof net, "net%zu", i);
	snprintf(bus, sizeof bus, "virtio-mmio-bus.%zu", SLOT_NIC - i);
	if (n->mac) {
		snprintf(mac, sizeof mac, "%s", n->mac);
	} else {
		uint8_t r[3]; // as Firecracker: the guest chooses none by itself
		id_random_bytes(r, sizeof r);
		snprintf(mac, sizeof mac, "06:00:ac:%02x:%02x:%02x", r[0], r[1], r[2]);
	}
	args_add(a, "-netdev");
	args_add(a, "tap,id=%s,fd=%zu", net, TAP_CHILD_FD + i);
	json_t *j = json_pack("{s:s, s:s, s:s, s:s}", "driver", "virtio-net-device", "netdev", net,
		"bus", bus, "mac", mac);
	if (j && n->mtu)
		json_object_set_new(j, "host_mtu", json_integer((json_int_t)n->mtu));
	args_add_json(a, "-device", j);
}

static void add_machine(
	struct args *a, const struct qemu_options *o, const struct config *c, enum accel accel)
{
	static const char machine[] = "microvm,memory-backend=ram,pit=on,pic=on,rtc=on,acpi=on,"
				      "mem-merge=off,suppress-vmdesc=on";
	static const char *const fixed[] = {"-nodefaults", "-no-user-config", "-display", "none",
		"-no-reboot", "-S", "-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-M",
		machine, "-global", "virtio-mmio.force-legacy=false", "-global",
		"migration.send-configuration=off", "-global", "migration.x-events=on", "-chardev",
		"stdio,id=console,signal=off", "-serial", "chardev:console"};
	args_add(a, "%s", o->qemu);
	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
		args_add(a, "%s", fixed[i]);
	args_add(a, "-accel");
	if (accel == ACCEL_KVM)
		args_add(a, "kvm");
	else
		args_add(a, "tcg,thread=%s,tb-size=%d", c->vcpus > 1 ? "multi" : "single",
			TRANSLATION_MIB);
	args_add(a, "-cpu");
	// No virtual machines in the guest: they are many more ways into the host's kernel (or the
	// emulator). No counters of the processor: they tell of its neighbours. A feature that the
	// processor does not have may be put off all the same.
	args_add(a, "%s,svm=off,vmx=off,pmu=off", accel == ACCEL_KVM ? "host" : "max");
	args_add(a, "-smp");
	args_add(a, "%llu", (unsigned long long)c->vcpus);
	args_add(a, "-m");
	args_add(a, "%lluM", (unsigned long long)c->memory_mib);
	args_add(a, "-object");
	args_add(a, "memory-backend-memfd,id=ram,size=%lluM,share=on",
		(unsigned long long)c->memory_mib);
	args_add(a, "-chardev");
	args_add(a, "socket,id=qmp,fd=%d", QMP_CHILD_FD);
	args_add(a, "-mon");
	args_add(a, "chardev=qmp,mode=control");
}

static void add_boot(struct args *a, const struct config *c, char *line)
{
	args_add(a, "-kernel");
	args_add(a, "%s", c->kernel);
	if (c->initrd) {
		args_add(a, "-initrd");
		args_add(a, "%s", c->initrd);
	}
	args_add(a, "-append");
	args_take(a, line);
}

static int build_args(struct args *a, struct qemu *q, const struct qemu_options *o,
	const struct config *c, enum accel accel, const struct qemu_incoming *in, struct err *e)
{
	add_machine(a, o, c, accel);
	if (in) {
		args_add(a, "-incoming");
		args_add(a, "fd:%d", STATE_CHILD_FD);
	} else {
		char *line = NULL;
		q->tsc_khz = o->tsc_khz ? o->tsc_khz : tsc_khz_since(&o->mark);
		// KVM tells the guest itself (0).
		int rc = qemu_command_line(c, accel == ACCEL_TCG ? q->tsc_khz : 0, &line, e);
		if (rc < 0)
			return rc;
		add_boot(a, c, line);
	}
	for (size_t i = 0; i < c->n_drives; i++)
		add_drive(a, i, &c->drives[i]);
	for (size_t i = 0; i < c->n_nics; i++)
		add_nic(a, i, &c->nics[i]);
	if (c->entropy) {
		args_add(a, "-object");
		args_add(a, "rng-builtin,id=entropy");
		args_add(a, "-device");
		args_add(a, "virtio-rng-device,rng=entropy,bus=virtio-mmio-bus.%d", SLOT_ENTROPY);
	}
	a->v[a->n] = NULL;
	return a->failed ? err_errno(e, ENOMEM, "QEMU's arguments") : 0;
}

static void qemu_stop(struct qemu *q);

// ---- start

struct start {
	struct args args;
	int report_rd, report_wr, qmp_ours, qmp_theirs, stderr_rd, stderr_wr, control_ours,
		control_theirs, removed;
};

static void start_done(struct start *s)
{
	args_done(&s->args);
	safe_close(s->report_rd);
	safe_close(s->report_wr);
	safe_close(s->qmp_ours);
	safe_close(s->qmp_theirs);
	safe_close(s->stderr_rd);
	safe_close(s->stderr_wr);
	safe_close(s->control_ours);
	safe_close(s->control_theirs);
	safe_close(s->removed);
}

static size_t removed_size(const struct config *c)
{
	return (size_t)(c->memory_mib << 20) / 4096 / 8;
}

static int make_channels(struct start *s, struct err *e)
{
	int p[2];
	if (pipe2(p, O_CLOEXEC) < 0)
		return err_errno(e, errno, "pipe");
	s->report_rd = p[0];
	s->report_wr = p[1];
	if (pipe2(p, O_CLOEXEC) < 0)
		return err_errno(e, errno, "pipe");
	s->stderr_rd = p[0];
	s->stderr_wr = p[1];
	fcntl(s->stderr_rd, F_SETFL, O_NONBLOCK);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p) < 0)
		return err_errno(e, errno, "socketpair");
	s->qmp_ours = p[0];
	s->qmp_theirs = p[1];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p) < 0)
		return err_errno(e, errno, "socketpair");
	s->control_ours = p[0];
	s->control_theirs = p[1];
	return 0;
}

static int make_removed(struct qemu *q, struct start *s, const struct config *c, struct err *e)
{
	size_t size = removed_size(c);
	s->removed = memfd_create("removed", MFD_CLOEXEC);
	if (s->removed < 0 || ftruncate(s->removed, (off_t)size) < 0)
		return err_errno(e, errno, "memfd");
	void *bits = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, s->removed, 0);
	if (bits == MAP_FAILED)
		return err_errno(e, errno, "mmap");
	q->removed = bits;
	q->ram_size = c->memory_mib << 20;
	return 0;
}

static int spawn(struct qemu *q, struct start *s, const struct qemu_options *o,
	const struct config *c, const struct qemu_incoming *in, struct err *e)
{
	static const char *const modes[] = {
		[MEMORY_BOOT] = "boot", [MEMORY_FILE] = "file", [MEMORY_UFFD] = "uffd"};
	_cleanup_free_ char *preload = str_printf("LD_PRELOAD=%s", o->ramhook);
	_cleanup_free_ char *hook = str_printf("STASIS_RAMHOOK=%s:%llu:%d:%d:%d:%d",
		modes[q->memory], (unsigned long long)c->memory_mib << 20, REPORT_CHILD_FD,
		REMOVED_CHILD_FD, in ? BACKEND_CHILD_FD : -1, CONTROL_CHILD_FD);
	if (!preload || !hook)
		return err_errno(e, ENOMEM, "QEMU's environment");
	const char *const env[] = {preload, hook, "LC_ALL=C", NULL};
	struct proc_fd_map fds[6 + CONFIG_NICS_MAX] = {{s->qmp_theirs, QMP_CHILD_FD},
		{s->report_wr, REPORT_CHILD_FD}, {s->control_theirs, CONTROL_CHILD_FD},
		{s->removed, REMOVED_CHILD_FD}};
	size_t n = 4;
	if (in) {
		fds[n++] = (struct proc_fd_map){in->backend_fd, BACKEND_CHILD_FD};
		fds[n++] = (struct proc_fd_map){in->state_fd, STATE_CHILD_FD};
	}
	for (size_t i = 0; i < c->n_nics; i++)
		fds[n++] = (struct proc_fd_map){c->nics[i].tap_fd, TAP_CHILD_FD + (int)i};
	struct proc_spawn p = {.argv = (const char *const *)s->args.v,
		.env = env,
		.stdin_fd = -1,
		.stdout_fd = STDOUT_FILENO,
		.stderr_fd = s->stderr_wr,
		.fds = fds,
		.n_fds = n,
		.death_signal = SIGKILL};
	return proc_spawn(&p, &q->pid, &q->pidfd, e);
}

// The one line the hook writes: "ok base size tracking" or "error text". It was written before QEMU
// answered its first command, if at all, so there is nothing to wait for.
static int read_report(struct qemu *q, int fd, struct err *e)
{
	char line[256];
	unsigned long long base, size;
	int tracking;
	struct pollfd pf = {.fd = fd, .events = POLLIN};
	ssize_t n = poll(&pf, 1, 0) == 1 ? read(fd, line, sizeof line - 1) : 0;
	line[MAX(n, 0)] = '\0';
	line[strcspn(line, "\n")] = '\0';
	if (!line[0])
		return err_set(e, ERR_INTERNAL,
			"the memory hook did not report (does it know this QEMU's way of mapping "
			"memory?)");
	if (sscanf(line, "ok %llu %llu %d", &base, &size, &tracking) != 3)
		return err_set(e, ERR_INTERNAL, "memory hook: %s", line);
	q->ram_base = base;
	q->ram_size = size;
	q->tracking = tracking;
	return 0;
}

// Until QEMU answers commands and the hook has reported.
static int start_steps(struct qemu *q, struct start *s, const struct qemu_options *o,
	const struct config *c, const struct qemu_incoming *in, struct err *e)
{
	q->memory = in ? in->memory : MEMORY_BOOT;
	int rc = make_channels(s, e);
	if (rc == 0)
		rc = make_removed(q, s, c, e);
	if (rc == 0)
		rc = spawn(q, s, o, c, in, e);
	if (rc < 0)
		return rc;
	q->stderr_fd = TAKE_FD(s->stderr_rd);
	q->hook_fd = TAKE_FD(s->control_ours);
	s->stderr_wr = safe_close(s->stderr_wr);
	s->report_wr = safe_close(s->report_wr);
	s->qmp_theirs = safe_close(s->qmp_theirs);
	s->control_theirs = safe_close(s->control_theirs);
	int watch = q->memory == MEMORY_UFFD ? in->backend_fd : -1;
	rc = qmp_open(&q->qmp, TAKE_FD(s->qmp_ours), watch, START_TIMEOUT_MS, e);
	// The hook's own reason is better than "QEMU ended".
	struct err report = {0};
	int rc_report = read_report(q, s->report_rd, &report);
	if (rc_report < 0 && (rc == 0 || strncmp(report.text, "memory hook: ", 13) == 0)) {
		if (e)
			*e = report;
		rc = rc_report;
	}
	return rc;
}

static enum accel choose_accel(const struct qemu_options *o)
{
	if (o->accel != ACCEL_AUTO)
		return o->accel;
	struct err e = {0};
	bool certain;
	if (probe_kvm(o->qemu, &certain, &e) == 0)
		return ACCEL_KVM;
	log_info("emulated: %s", e.text);
	return ACCEL_TCG;
}

// The load began when QEMU started, and is over by now as a rule.
static int finish_load(struct qemu *q, const struct qemu_incoming *in, struct err *e)
{
	char here[64];
	state_format(q->qmp.version, here, sizeof here);
	if (strcmp(here, in->format) != 0)
		return err_set(e, ERR_CONFLICT,
			"The state file was written by %s, this is %s: only the same can load it.",
			in->format, here);
	for (;;) {
		_cleanup_(json_decrefp) json_t *info = NULL;
		uint64_t events = q->qmp.events;
		int rc = qmp_call(&q->qmp, "query-migrate", NULL, -1, START_TIMEOUT_MS, &info, e);
		if (rc < 0)
			return rc;
		const char *status = json_string_value(json_object_get(info, "status"));
		log_debug("load: %s", status ? status : "not begun");
		if (status && strcmp(status, "completed") == 0)
			return 0;
		if (status && strcmp(status, "failed") == 0)
			return err_set(e, ERR_INTERNAL, "QEMU could not load the device state");
		rc = qmp_wait_event(&q->qmp, events, "the end of the load", START_TIMEOUT_MS, e);
		if (rc < 0)
			return rc;
	}
}

static int launch(struct qemu *q, const struct qemu_options *o, const struct config *c,
	const struct qemu_incoming *in, struct err *e)
{
	_cleanup_(start_done) struct start s = {.report_rd = -1,
		.report_wr = -1,
		.qmp_ours = -1,
		.qmp_theirs = -1,
		.stderr_rd = -1,
		.stderr_wr = -1,
		.control_ours = -1,
		.control_theirs = -1,
		.removed = -1};
	int rc = build_args(&s.args, q, o, c, q->accel, in, e);
	if (rc == 0)
		rc = start_steps(q, &s, o, c, in, e);
	if (rc == 0 && in)
		rc = finish_load(q, in, e);
	else if (rc == 0)
		rc = qmp_call(&q->qmp, "cont", NULL, -1, START_TIMEOUT_MS, NULL, e);
	q->qmp.watch = -1;
	if (rc == 0)
		return 0;
	qemu_stop(q);
	if (e && q->last_line[0]) {
		char reason[400];
		snprintf(reason, sizeof reason, "%s", err_text(e, rc));
		snprintf(e->text, sizeof e->text, "%s: %s", reason, q->last_line);
	}
	return rc;
}

int qemu_start(struct qemu *q, const struct qemu_options *o, const struct config *c, struct err *e)
{
	q->accel = choose_accel(o);
	return launch(q, o, c, NULL, e);
}

int qemu_load(struct qemu *q, const struct qemu_options *o, const struct config *c,
	const struct qemu_incoming *in, struct err *e)
{
	q->accel = in->accel;
	return launch(q, o, c, in, e);
}

int qemu_save_devices(struct qemu *q, int fd, struct err *e)
{
	_cleanup_(json_decrefp) json_t *set = NULL;
	char path[48];
	int rc = qmp_call(&q->qmp, "add-fd", NULL, fd, q->state_timeout_ms, &set, e);
	if (rc < 0)
		return rc;
	json_int_t id = json_integer_value(json_object_get(set, "fdset-id"));
	snprintf(path, sizeof path, "/dev/fdset/%lld", (long long)id);
	rc = qmp_call(&q->qmp, "xen-save-devices-state",
		json_pack("{s:s, s:b}", "filename", path, "live", 0), -1, q->state_timeout_ms, NULL,
		e);
	int rc_remove = qmp_call(&q->qmp, "remove-fd", json_pack("{s:I}", "fdset-id", id), -1,
		q->state_timeout_ms, NULL, rc < 0 ? NULL : e);
	return rc < 0 ? rc : rc_remove;
}

// ---- life

void qemu_init(struct qemu *q)
{
	*q = (struct qemu){.pidfd = -1,
		.stderr_fd = -1,
		.hook_fd = -1,
		.loaded = {.file = -1},
		.state_timeout_ms = VMM_STATE_MS,
		.qmp = {.fd = -1, .watch = -1}};
}

static void qemu_stop(struct qemu *q)
{
	if (q->pidfd >= 0) {
		proc_kill(q->pidfd, SIGKILL);
		qemu_reap(q, &(int){0});
	}
	qmp_close(&q->qmp);
	q->stderr_fd = safe_close(q->stderr_fd);
	q->hook_fd = safe_close(q->hook_fd);
	if (q->removed)
		munmap((void *)q->removed, q->ram_size / 4096 / 8);
	q->removed = NULL;
	loaded_done(&q->loaded);
}

void qemu_done(struct qemu *q)
{
	qemu_stop(q);
}

int qemu_reap(struct qemu *q, int *ret_status)
{
	int rc = proc_wait(q->pidfd, -1, ret_status);
	q->pidfd = safe_close(q->pidfd);
	qemu_read_stderr(q);
	return rc;
}

static void note_stderr(struct qemu *q, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (text[i] == '\n' || text[i] == '\r') {
			q->line_done = true;
			continue;
		}
		if (q->line_done) {
			q->line_len = 0;
			q->line_done = false;
		}
		if (q->line_len < sizeof q->last_line - 1)
			q->last_line[q->line_len++] = text[i];
		q->last_line[q->line_len] = '\0';
	}
}

void qemu_read_stderr(struct qemu *q)
{
	char buf[1024];
	ssize_t n;
	while (q->stderr_fd >= 0 && (n = RETRY_EINTR(read(q->stderr_fd, buf, sizeof buf))) != 0) {
		if (n < 0)
			return; // nothing more for now
		note_stderr(q, buf, (size_t)n);
		if (file_write_full(STDERR_FILENO, buf, (size_t)n) < 0) {
			// whoever started us does not listen; the last line is still kept
		}
	}
	q->stderr_fd = safe_close(q->stderr_fd);
}

int qemu_pause(struct qemu *q, struct err *e)
{
	return qmp_call(&q->qmp, "stop", NULL, -1, q->state_timeout_ms, NULL, e);
}

int qemu_resume(struct qemu *q, struct err *e)
{
	return qmp_call(&q->qmp, "cont", NULL, -1, q->state_timeout_ms, NULL, e);
}

static int file_size(const char *path, uint64_t *ret, struct err *e)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return err_errno(e, errno, "%.500s", path);
	*ret = (uint64_t)st.st_size;
	return 0;
}

// The guest is told of another size only by a resize, which QEMU refuses for read-only disks.
static int check_new_size(const struct drive *d, const char *path, uint64_t *ret, struct err *e)
{
	uint64_t old = 0;
	int rc = file_size(path, ret, e);
	if (rc < 0 || !d->read_only)
		return rc;
	if (file_size(d->path, &old, NULL) < 0 || old != *ret)
		return err_set(e, ERR_INVALID,
			"fcqemu cannot honour path_on_host: a read-only drive keeps its size.");
	return 0;
}

static int node_call(struct qemu *q, const char *command, json_t *args, struct err *e)
{
	return qmp_call(&q->qmp, command, args, -1, q->state_timeout_ms, NULL, e);
}

// The new file is opened first, so a failure leaves the drive as it was.
int qemu_set_drive(
	struct qemu *q, size_t index, const struct drive *d, const char *path, struct err *e)
{
	unsigned old = q->drive_file[index], new = old + 1;
	struct node_name disk = disk_name(index), drop = file_name(index, new);
	uint64_t size = 0;
	int rc = check_new_size(d, path, &size, e);
	if (rc == 0)
		rc = node_call(q, "blockdev-add", file_node(index, new, d, path), e);
	if (rc < 0)
		return rc;
	rc = node_call(
		q, "blockdev-reopen", json_pack("{s:[o]}", "options", raw_node(index, new, d)), e);
	if (rc == 0) {
		q->drive_file[index] = new;
		drop = file_name(index, old);
		if (!d->read_only)
			rc = node_call(q, "block_resize",
				json_pack("{s:s, s:I}", "node-name", disk.text, "size",
					(json_int_t)size),
				e);
	}
	node_call(q, "blockdev-del", json_pack("{s:s}", "node-name", drop.text), NULL);
	return rc;
}
