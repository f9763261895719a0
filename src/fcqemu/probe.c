// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/probe.h"
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "base/file.h"
#include "base/proc.h"

#define PROBE_TIMEOUT_MS 2000
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

int probe_accel(const char *qemu, const char *accel, struct err *e)
{
	int rc = strcmp(accel, "kvm") == 0 ? check_kvm_device(e) : 0;
	if (rc < 0)
		return rc;
	_cleanup_close_ int rom = make_rom(e), pidfd = -1;
	if (rom < 0)
		return rom;
	int p[2];
	if (pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_errno(e, errno, "pipe");
	_cleanup_close_ int said_rd = p[0], said_wr = p[1];
	const char *const argv[] = {qemu, "-M", "microvm,acpi=off", "-accel", accel, "-cpu",
		strcmp(accel, "kvm") == 0 ? "host" : "max", "-m", "16M", "-nodefaults",
		"-no-user-config", "-display", "none", "-no-reboot", "-sandbox", "on", "-bios",
		"/proc/self/fd/3", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", NULL};
	const char *const env[] = {"LC_ALL=C", NULL};
	const struct proc_fd_map fds[] = {{rom, 3}};
	struct proc_spawn s = {.argv = argv,
		.env = env,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = said_wr,
		.fds = fds,
		.n_fds = 1,
		.death_signal = SIGKILL};
	if ((rc = proc_spawn(&s, NULL, &pidfd, e)) < 0)
		return rc;
	int status = 0;
	rc = proc_wait(pidfd, PROBE_TIMEOUT_MS, &status);
	if (rc == -ETIMEDOUT) {
		proc_kill(pidfd, SIGKILL);
		proc_wait(pidfd, -1, NULL);
		return err_set(e, ERR_TIMEOUT, "a small 64-bit guest did not finish within %d ms",
			PROBE_TIMEOUT_MS);
	}
	if (rc < 0)
		return err_errno(e, rc, "wait for %s", qemu);
	if (WIFEXITED(status) && WEXITSTATUS(status) == PROBE_STATUS)
		return 0;
	char how[64], why[300];
	proc_status_text(status, how, sizeof how);
	last_words(said_rd, why, sizeof why);
	return err_set(e, ERR_UNAVAILABLE, "a small 64-bit guest did not run (%s)%s%s", how,
		why[0] ? ": " : "", why);
}

int probe_qemu_version(const char *qemu, char *out, size_t size, struct err *e)
{
	const char *const argv[] = {qemu, "--version", NULL};
	_cleanup_strbuf_ struct strbuf b = {0};
	int rc = proc_run(argv, NULL, 0, 10000, &b, e);
	if (rc < 0)
		return rc;
	const char *p = b.data ? strstr(b.data, "version ") : NULL;
	if (!p)
		return err_set(e, ERR_INTERNAL, "%s --version does not name a version", qemu);
	p += strlen("version ");
	snprintf(out, size, "%.*s", (int)strspn(p, "0123456789."), p);
	return 0;
}
