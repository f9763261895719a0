// SPDX-License-Identifier: Apache-2.0
// Stands in for a VMM in the tests of the shim: static, knows nothing of the product. It listens on
// the API socket and does what it is told there, one command a connection: tells what it sees,
// tries to get out, ends in different ways.
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_tun.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/fdpass.h"
#include "base/missing.h"

extern char **environ;

static FILE *out; // the connection of the command at hand
static int vmm_log = -1;

static void tell_file(const char *path, const char *prefix)
{
	char line[1024];
	FILE *f = fopen(path, "re");
	if (!f) {
		fprintf(out, "%s %s\n", prefix, strerrorname_np(errno));
		return;
	}
	while (fgets(line, sizeof line, f))
		fprintf(out, "%s %s", prefix, line);
	fclose(f);
}

static void tell_dir(const char *path)
{
	DIR *d = opendir(path);
	if (!d) {
		fprintf(out, "dir %s %s\n", path, strerrorname_np(errno));
		return;
	}
	for (struct dirent *de; (de = readdir(d));)
		if (de->d_name[0] != '.')
			fprintf(out, "dir %s %s\n", path, de->d_name);
	closedir(d);
}

static void report(void)
{
	char host[100] = "", cwd[100] = "";
	gethostname(host, sizeof host);
	fprintf(out, "host %s\n", host);
	fprintf(out, "cwd %s\n", getcwd(cwd, sizeof cwd));
	fprintf(out, "pid %d\n", (int)getpid());
	fprintf(out, "umask %o\n", umask(077));
	fprintf(out, "securebits %d\n", prctl(PR_GET_SECUREBITS));
	for (char **e = environ; *e; e++)
		fprintf(out, "env %s\n", *e);
	tell_file("/proc/self/status", "status");
	tell_file("/proc/self/mountinfo", "mount");
	tell_file("/proc/self/limits", "limit");
	tell_dir("/");
	tell_dir("/dev");
	tell_dir("/run");
	tell_dir("/proc");
	tell_dir("/proc/self/fd");
	struct if_nameindex *ifs = if_nameindex();
	for (struct if_nameindex *i = ifs; i && i->if_index; i++)
		fprintf(out, "if %s\n", i->if_name);
	if_freenameindex(ifs);
}

static void attempt(const char *what, long rc)
{
	fprintf(out, "%s %s\n", what, rc < 0 ? strerrorname_np(errno) : "OK");
}

static int try_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	return fd;
}

static int connect_abstract(const char *name)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	size_t n = strlen(name);
	memcpy(sa.sun_path + 1, name, n);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc = connect(fd, (struct sockaddr *)&sa,
		(socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n));
	int e = errno;
	close(fd);
	errno = e;
	return rc;
}

static int attach_tap(const char *name)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", name);
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	int rc = fd < 0 ? -1 : ioctl(fd, TUNSETIFF, &ifr);
	int e = errno;
	close(fd);
	errno = e;
	return rc;
}

static int new_userfaultfd(void)
{
	int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int u = fd < 0 ? -1 : ioctl(fd, USERFAULTFD_IOC_NEW, O_CLOEXEC);
	struct uffdio_api api = {.api = UFFD_API};
	int rc = u < 0 ? -1 : ioctl(u, UFFDIO_API, &api);
	int e = errno;
	close(u);
	close(fd);
	errno = e;
	return rc;
}

// What the adapter does to QEMU: look at its child's memory.
static void look_at_child(void)
{
	char path[64];
	int p[2];
	if (pipe(p) < 0)
		return;
	pid_t pid = fork();
	if (pid == 0) {
		close(p[1]);
		if (read(p[0], path, 1) < 0)
			_exit(1);
		_exit(0);
	}
	snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
	attempt("child_pagemap", try_open(path, O_RDONLY));
	snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
	attempt("child_mem", try_open(path, O_RDWR));
	close(p[1]);
	close(p[0]);
	waitpid(pid, NULL, 0);
}

static void escape(int host_pid)
{
	struct rlimit high = {RLIM_INFINITY, RLIM_INFINITY};
	attempt("mount", mount("x", "/tmp", "tmpfs", 0, NULL));
	attempt("remount", mount(NULL, "/usr", NULL, MS_REMOUNT | MS_BIND, NULL));
	attempt("umount", umount2("/usr", MNT_DETACH));
	attempt("mknod", mknod("/tmp/disk", S_IFBLK | 0600, makedev(8, 0)));
	attempt("setuid", setuid(0));
	attempt("setgid", setgid(0));
	attempt("chroot", chroot("/tmp"));
	attempt("unshare_mount", unshare(CLONE_NEWNS));
	attempt("kill_host", kill(host_pid, 0));
	attempt("kill_shim", kill(1, SIGKILL));
	attempt("stop_shim", kill(1, SIGSTOP));
	attempt("ptrace_shim", ptrace(PTRACE_SEIZE, 1, 0, 0));
	attempt("shim_root", try_open("/proc/1/root", O_RDONLY));
	attempt("shim_mem", try_open("/proc/1/mem", O_RDONLY));
	attempt("dotdot", try_open("/../../../../etc/passwd", O_RDONLY));
	attempt("sysctl", try_open("/proc/sys/kernel/core_pattern", O_RDONLY));
	attempt("sysrq", try_open("/proc/sysrq-trigger", O_WRONLY));
	attempt("meminfo", try_open("/proc/meminfo", O_RDONLY));
	attempt("sys", try_open("/sys/kernel", O_RDONLY));
	attempt("shell", try_open("/bin/sh", O_RDONLY));
	attempt("write_root", try_open("/x", O_WRONLY | O_CREAT));
	attempt("write_usr", try_open("/usr/bin/x", O_WRONLY | O_CREAT));
	attempt("write_kernel", try_open("/vmlinux", O_WRONLY));
	attempt("make_in_run", try_open("/run/x", O_WRONLY | O_CREAT));
	attempt("unlink_sock", unlink("/run/api.sock"));
	attempt("rename_sock", rename("/run/api.sock", "/run/other"));
	attempt("chmod_run", chmod("/run", 0777));
	attempt("kvm", try_open("/dev/kvm", O_RDWR));
	attempt("raise_limit", setrlimit(RLIMIT_NOFILE, &high));
	attempt("abstract", connect_abstract("stasis-shim-test-outside"));
	attempt("foreign_tap", attach_tap("tap9"));
	attempt("hostname", sethostname("x", 1));
	attempt("raw_socket", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	// What must work.
	attempt("own_tap", attach_tap("tap0"));
	attempt("userfaultfd", new_userfaultfd());
	attempt("write_disk", try_open("/rootfs.img", O_RDWR));
	attempt("read_kernel", try_open("/vmlinux", O_RDONLY));
	attempt("write_tmp", try_open("/tmp/x", O_WRONLY | O_CREAT));
	attempt("null", try_open("/dev/null", O_RDWR));
	attempt("urandom", try_open("/dev/urandom", O_RDONLY));
	look_at_child();
}

// Guest memory as a VMM hands it over: registered for missing pages, descriptor and region through
// the pager's socket.
static char *memory;
static int memory_uffd, pager_socket;

static int hand_over(size_t size)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = "/run/pager.sock"};
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	memory_uffd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(dev);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register reg = {
		.range = {(uintptr_t)memory, size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	if (memory == MAP_FAILED || ioctl(memory_uffd, UFFDIO_API, &api) < 0 ||
		ioctl(memory_uffd, UFFDIO_REGISTER, &reg) < 0)
		return -1;
	pager_socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(pager_socket, (struct sockaddr *)&sa, sizeof sa) < 0)
		return -1;
	char json[200];
	int n = snprintf(json, sizeof json,
		"[{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%zu,\"offset\":0}]",
		(uintptr_t)memory, size);
	return fdpass_send(pager_socket, json, (size_t)n, memory_uffd, 0) == n ? 0 : -1;
}

static void flood(FILE *f, long n)
{
	for (long i = 0; i < n; i++)
		fprintf(f, "line %ld\n", i);
	fprintf(f, "the end\n");
	fflush(f);
}

static void log_lines(long n)
{
	struct pollfd pf = {.fd = vmm_log, .events = POLLOUT};
	for (long i = 0; i <= n; i++) {
		char line[32];
		int len = snprintf(line, sizeof line, i < n ? "log: %ld\n" : "log: end\n", i);
		while (write(vmm_log, line, (size_t)len) < 0 && errno == EAGAIN)
			poll(&pf, 1, -1);
	}
}

static void command(char *text)
{
	text[strcspn(text, "\n")] = '\0';
	char *arg = strchr(text, ' ');
	if (arg)
		*arg++ = '\0';
	long n = arg ? strtol(arg, NULL, 10) : 0;
	if (strcmp(text, "report") == 0) {
		report();
	} else if (strcmp(text, "escape") == 0) {
		escape((int)n);
	} else if (strcmp(text, "exit") == 0) {
		fprintf(stderr, "ending with %ld\n", n);
		exit((int)n);
	} else if (strcmp(text, "signal") == 0) {
		signal((int)n, SIG_DFL);
		raise((int)n);
	} else if (strcmp(text, "load") == 0) {
		attempt("load", hand_over((size_t)n));
	} else if (strcmp(text, "touch") == 0) {
		fprintf(out, "byte %d\n", memory[n]);
	} else if (strcmp(text, "break_off") == 0) { // half a hand-shake
		struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = "/run/pager.sock"};
		pager_socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		attempt("break_off", connect(pager_socket, (struct sockaddr *)&sa, sizeof sa));
		close(pager_socket);
	} else if (strcmp(text, "exit_after_pager") == 0) {
		// As an adapter that sees its pager go and ends before the pager is reaped.
		recv(pager_socket, text, 1, 0);
		exit((int)n);
	} else if (strcmp(text, "leave") == 0) {
		attempt("leave", try_open("/snap/left", O_WRONLY | O_CREAT | O_EXCL));
		attempt("leave_program", execl("/snap/program", "x", NULL));
	} else if (strcmp(text, "flood") == 0) {
		flood(stdout, n);
	} else if (strcmp(text, "log") == 0) {
		log_lines(n);
	} else if (strcmp(text, "complain") == 0) {
		flood(stderr, n);
	} else if (strcmp(text, "orphan") == 0) {
		if (fork() == 0) {
			setsid();
			close(fileno(out)); // the answer must end
			if (fork() == 0)
				for (;;)
					pause();
			_exit(0);
		}
		wait(NULL);
	}
	fprintf(out, "done\n");
}

// As the pager does, it has its name only when it is listened on; late: as Firecracker does.
static int listen_at(const char *path, bool late)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	snprintf(sa.sun_path, sizeof sa.sun_path, "%s%s", path, late ? "" : ".tmp");
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0) {
		perror(path);
		exit(1);
	}
	if (late)
		usleep(30000); // the shim must get through the time between bind and listen
	if (listen(fd, 16) < 0 || (!late && rename(sa.sun_path, path) < 0))
		exit(1);
	return fd;
}

int main(int argc, char **argv)
{
	const char *path = "/run/api.sock";
	bool late = false, silent = false;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--no-socket") == 0)
			silent = true;
		else if (strcmp(argv[i], "--late") == 0)
			late = true;
		else if (strcmp(argv[i], "--log") == 0) // as Firecracker opens its --log-path
			vmm_log = open(
				"/run/vmm.log", O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0600);
		else if (strcmp(argv[i], "--pager") == 0)
			path = "/run/pager.sock";
		else if (strcmp(argv[i], "--ignore-term") == 0)
			signal(SIGTERM, SIG_IGN);
		else if (strcmp(argv[i], "--fail") == 0) {
			fprintf(stderr, "first line\nno such device \x1b[31m\n");
			return 3;
		}
	}
	if (vmm_log >= 0)
		dprintf(vmm_log, "log: up\n");
	printf("up\n");
	fflush(stdout);
	while (silent)
		pause();
	int l = listen_at(path, late);
	for (;;) {
		char text[256];
		int c = accept4(l, NULL, NULL, SOCK_CLOEXEC);
		ssize_t n = c < 0 ? -1 : read(c, text, sizeof text - 1);
		if (n > 0 && (out = fdopen(c, "w"))) {
			text[n] = '\0';
			command(text);
			fclose(out);
		} else {
			close(c);
		}
	}
}
