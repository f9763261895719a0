// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/probe.h"
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/proc.h"

// A KVM in an emulated machine, on a busy host, needs many seconds.
#define PROBE_TIMEOUT_MS 20000
#define VERSION_MS 20000
// Chunks, and time, after which they say how fast the guest is: one that is merely stopped for a
// moment, on a busy host, does all of its work in less.
#define PROBE_CHUNKS 4
#define PROBE_LONG_NS NSEC_PER_SEC
// KVM may be this many times slower than emulation: what it costs is I/O, which the probe does much
// of. One that interprets is beyond by two orders of magnitude.
#define PROBE_SLOWER 4
#define PROBE_STATUS (42 * 2 + 1) // what the guest's ROM makes QEMU end with

// The cheap answer first, with a better reason than QEMU's.
static int check_kvm_device(struct err *e)
{
	_cleanup_close_ int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "/dev/kvm");
	int version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return err_set(e, ERR_UNAVAILABLE, "/dev/kvm has interface %d, not %d", version,
			KVM_API_VERSION);
	return 0;
}

static int make_rom(struct err *e)
{
	_cleanup_close_ int fd = memfd_create("probe-rom", MFD_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "memfd_create");
	int rc = file_write_full(fd, probe_rom, sizeof probe_rom);
	return rc < 0 ? err_errno(e, rc, "memfd") : TAKE_FD(fd);
}

// Last line of what the probe said.
static void last_words(int fd, char *out, size_t size)
{
	char buf[2048];
	ssize_t n = read(fd, buf, sizeof buf - 1);
	while (n > 0 && buf[n - 1] == '\n')
		n--;
	buf[MAX(n, 0)] = '\0';
	const char *line = strrchr(buf, '\n');
	snprintf(out, size, "%s", line ? line + 1 : buf);
}

struct pace {
	uint64_t start_ns;	    // of QEMU
	uint64_t first_ns, last_ns; // of the bytes, as they were seen
	unsigned bytes;
};

// Takes what the guest said by now.
static void take_pace(struct pace *p, int fd)
{
	char buf[256];
	ssize_t n = read(fd, buf, sizeof buf);
	if (n <= 0)
		return;
	p->last_ns = clock_monotonic_ns();
	if (!p->bytes)
		p->first_ns = p->last_ns;
	p->bytes += (unsigned)n;
}

static bool is_slower(const struct pace *p, uint64_t limit_ns)
{
	uint64_t took = p->last_ns - p->first_ns;
	return p->bytes > PROBE_CHUNKS && took >= PROBE_LONG_NS && took / (p->bytes - 1) > limit_ns;
}

// Until QEMU ends: 0. -ETIMEDOUT, or -EAGAIN when the guest is slower than the limit.
static int watch(int pidfd, int said, uint64_t limit_ns, struct pace *p)
{
	uint64_t end = clock_monotonic_ns() + PROBE_TIMEOUT_MS * NSEC_PER_MSEC;
	for (;;) {
		uint64_t now = clock_monotonic_ns();
		struct pollfd pf[] = {
			{.fd = pidfd, .events = POLLIN}, {.fd = said, .events = POLLIN}};
		if (now >= end)
			return -ETIMEDOUT;
		if (poll(pf, 2, (int)((end - now) / NSEC_PER_MSEC) + 1) < 0 && errno != EINTR)
			return -errno;
		if (pf[1].revents & POLLIN)
			take_pace(p, said);
		if (pf[0].revents)
			return 0;
		if (limit_ns && is_slower(p, limit_ns))
			return -EAGAIN;
	}
}

static int spawn(const char *qemu, const char *accel, int pace_wr, int said_wr, int *ret_pidfd,
	struct err *e)
{
	_cleanup_close_ int rom = make_rom(e);
	if (rom < 0)
		return rom;
	const char *const argv[] = {qemu, "-M", "microvm,acpi=off", "-accel", accel, "-cpu",
		strcmp(accel, "kvm") == 0 ? "host" : "max", "-m", "16M", "-nodefaults",
		"-no-user-config", "-display", "none", "-no-reboot", "-sandbox", "on", "-bios",
		"/proc/self/fd/3", "-chardev", "file,id=pace,path=/proc/self/fd/4", "-device",
		"isa-debugcon,iobase=0xe9,chardev=pace", "-device",
		"isa-debug-exit,iobase=0xf4,iosize=4", NULL};
	const char *const env[] = {"LC_ALL=C", NULL};
	const struct proc_fd_map fds[] = {{rom, 3}, {pace_wr, 4}};
	struct proc_spawn s = {.argv = argv,
		.env = env,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = said_wr,
		.fds = fds,
		.n_fds = ARRAY_SIZE(fds),
		.death_signal = SIGKILL};
	return proc_spawn(&s, NULL, ret_pidfd, e);
}

int probe_accel(const char *qemu, const char *accel, uint64_t limit_ns, uint64_t *ret_ns,
	bool *ret_judged, struct err *e)
{
	*ret_judged = false;
	int pace[2], said[2];
	if (pipe2(pace, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_errno(e, errno, "pipe");
	_cleanup_close_ int pace_rd = pace[0], pace_wr = pace[1], pidfd = -1;
	if (pipe2(said, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_errno(e, errno, "pipe");
	_cleanup_close_ int said_rd = said[0], said_wr = said[1];
	struct pace p = {.start_ns = clock_monotonic_ns()};
	int rc = spawn(qemu, accel, pace_wr, said_wr, &pidfd, e);
	if (rc < 0)
		return rc;
	int status = 0;
	rc = watch(pidfd, pace_rd, limit_ns, &p);
	if (rc < 0)
		proc_kill(pidfd, SIGKILL);
	proc_wait(pidfd, -1, &status);
	if (rc == -ETIMEDOUT)
		return err_set(e, ERR_TIMEOUT, "a small 64-bit guest did not finish within %d s",
			PROBE_TIMEOUT_MS / 1000);
	if (rc == -EAGAIN) {
		*ret_judged = true;
		return err_set(e, ERR_UNAVAILABLE,
			"KVM interprets guests here: their kernel is %lu times slower than "
			"emulated",
			(p.last_ns - p.first_ns) / (p.bytes - 1) * PROBE_SLOWER / limit_ns);
	}
	if (rc < 0)
		return err_errno(e, rc, "wait for %s", qemu);
	take_pace(&p, pace_rd);
	if (WIFEXITED(status) && WEXITSTATUS(status) == PROBE_STATUS && p.bytes) {
		*ret_ns = (p.last_ns - p.start_ns) / p.bytes;
		return 0;
	}
	char how[64], why[300];
	proc_status_text(status, how, sizeof how);
	last_words(said_rd, why, sizeof why);
	// QEMU's own failures are 1 and signals; a guest that resets ends it with 0.
	*ret_judged = WIFEXITED(status) && WEXITSTATUS(status) != 1;
	return err_set(e, ERR_UNAVAILABLE, "a small 64-bit guest did not run (%s)%s%s", how,
		why[0] ? ": " : "", why);
}

int probe_kvm(const char *qemu, bool *ret_certain, struct err *e)
{
	uint64_t emulated_ns, kvm_ns;
	*ret_certain = false;
	int rc = check_kvm_device(e);
	if (rc < 0)
		return rc;
	bool judged;
	rc = probe_accel(qemu, "tcg", 0, &emulated_ns, &judged, e);
	if (rc < 0)
		return err_prefix(e, rc, "no measure of KVM: emulated");
	rc = probe_accel(
		qemu, "kvm", MAX(emulated_ns, 1ull) * PROBE_SLOWER, &kvm_ns, ret_certain, e);
	*ret_certain |= rc == 0;
	return rc;
}

int probe_qemu_version(const char *qemu, char *out, size_t size, struct err *e)
{
	const char *const argv[] = {qemu, "--version", NULL};
	_cleanup_strbuf_ struct strbuf b = {0};
	int rc = proc_run(argv, NULL, 0, VERSION_MS, &b, e);
	if (rc < 0)
		return rc;
	const char *p = b.data ? strstr(b.data, "version ") : NULL;
	if (!p)
		return err_set(e, ERR_INTERNAL, "%s --version does not name a version", qemu);
	p += strlen("version ");
	snprintf(out, size, "%.*s", (int)strspn(p, "0123456789."), p);
	return 0;
}
