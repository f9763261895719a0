// SPDX-License-Identifier: Apache-2.0
// The guest's first program: /init of the initramfs, PID 1 for the guest's whole life.
//
// The root file system needs nothing of ours in it: init loads the modules, mounts the root device,
// puts the agent into the tmpfs at /run/stasis, moves into the root, and starts the agent.
// Everything before the agent is what the agent's first answer needs; a cold boot waits for this
// program.
//
// Kernel command line: root=DEVICE (default /dev/vda), ro, stasis.ip=ADDRESS/PREFIX,
// stasis.gw=ADDRESS, stasis.dns=A,B.
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <net/route.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

#define AGENT "/run/stasis/envd"
#define ROOT_WAIT_MS 10000
#define BACKOFF_MAX_MS 5000

struct options {
	char root[128], address[32], gateway[32], dns[128];
	unsigned prefix;
	bool read_only;
};

static void say(const char *fmt, ...) _printf_(1, 2);
static void say(const char *fmt, ...)
{
	char line[512];
	va_list ap;
	int n = snprintf(line, sizeof line, "stasis-init: ");
	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
	va_end(ap);
	size_t len = MIN((size_t)n, sizeof line - 3);
	memcpy(line + len, "\r\n", 3);
	file_write_full(STDOUT_FILENO, line, len + 2);
}

// Ends the machine. Both VMMs take a reset as the guest's end; Firecracker knows no power-off.
static _noreturn_ void finish(const char *why)
{
	say("%s, restarting system", why);
	sync();
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void try_mount(const char *what, const char *where, const char *type, unsigned long flags,
	const char *data)
{
	mkdir(where, 0755);
	if (mount(what, where, type, flags, data) < 0 && errno != EBUSY)
		say("%s: %s", where, strerror(errno));
}

static void read_options(struct options *o)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	*o = (struct options){.root = "/dev/vda",
		.address = "169.254.0.21",
		.gateway = "169.254.0.22",
		.dns = "1.1.1.1,8.8.8.8",
		.prefix = 30};
	if (file_read(AT_FDCWD, "/proc/cmdline", 8192, &b) < 0)
		return;
	char *rest = b.data;
	for (char *w; (w = strsep(&rest, " \n"));) {
		if (str_starts(w, "root=/")) {
			snprintf(o->root, sizeof o->root, "%s", w + 5);
		} else if (str_eq(w, "ro")) {
			o->read_only = true;
		} else if (str_starts(w, "stasis.ip=")) {
			char *slash = strchr(w, '/');
			uint64_t n;
			if (slash && str_to_u64(slash + 1, 32, &n) == 0) {
				*slash = '\0';
				o->prefix = (unsigned)n;
			}
			snprintf(o->address, sizeof o->address, "%s", w + 10);
		} else if (str_starts(w, "stasis.gw=")) {
			snprintf(o->gateway, sizeof o->gateway, "%s", w + 10);
		} else if (str_starts(w, "stasis.dns=")) {
			snprintf(o->dns, sizeof o->dns, "%s", w + 11);
		}
	}
}

static void load_modules(void)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	if (file_read(AT_FDCWD, "/modules/order", 65536, &b) < 0)
		return; // a kernel with everything built in
	char *rest = b.data;
	for (char *name; (name = strsep(&rest, "\n"));) {
		char path[256];
		if (!*name || str_format(path, sizeof path, "/modules/%s", name) < 0)
			continue;
		_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
			say("module %s: %s", name, strerror(errno));
	}
}

// The device is usually there when its driver has been loaded; else its node's appearing wakes us.
static int wait_device(const char *path)
{
	_cleanup_close_ int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	uint64_t end = clock_monotonic_ns() + ROOT_WAIT_MS * NSEC_PER_MSEC;
	inotify_add_watch(fd, "/dev", IN_CREATE);
	while (access(path, F_OK) < 0) {
		char buf[4096];
		struct pollfd pf = {.fd = fd, .events = POLLIN};
		uint64_t now = clock_monotonic_ns();
		if (now >= end || poll(&pf, 1, (int)((end - now) / NSEC_PER_MSEC) + 1) < 0)
			return -ENODEV;
		if (read(fd, buf, sizeof buf) < 0 && errno != EAGAIN)
			return -errno;
	}
	return 0;
}

static int copy_agent(void)
{
	_cleanup_close_ int in = open("/envd", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int out = -1;
	struct stat st;
	if (in < 0 || fstat(in, &st) < 0)
		return -errno;
	if (mkdir("/newroot/run/stasis", 0755) < 0 && errno != EEXIST)
		return -errno;
	out = open("/newroot" AGENT, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
	if (out < 0)
		return -errno;
	for (off_t left = st.st_size; left > 0;) {
		ssize_t n = copy_file_range(in, NULL, out, NULL, (size_t)left, 0);
		if (n <= 0) {
			char buf[65536];
			n = read(in, buf, sizeof buf);
			if (n <= 0 || file_write_full(out, buf, (size_t)n) < 0)
				return n < 0 ? -errno : -EIO;
		}
		left -= n;
	}
	return 0;
}

// The memory of what the initramfs held goes back to the guest.
static void drop_initramfs(void)
{
	file_rm_rf(AT_FDCWD, "/modules");
	unlink("/envd");
	unlink("/init");
}

static int enter_root(const struct options *o)
{
	static const char *const moved[] = {"/dev", "/proc", "/sys"};
	unsigned long flags = MS_NOATIME | (o->read_only ? MS_RDONLY : 0);
	int rc = wait_device(o->root);
	if (rc < 0) {
		say("root device %s does not appear", o->root);
		return rc;
	}
	mkdir("/newroot", 0755);
	if (mount(o->root, "/newroot", "ext4", flags, NULL) < 0) {
		rc = -errno;
		say("mount %s: %s", o->root, strerror(-rc));
		return rc;
	}
	try_mount("tmpfs", "/newroot/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
	if ((rc = copy_agent()) < 0) {
		say("no agent in the initramfs: %s", strerror(-rc));
		return rc;
	}
	for (size_t i = 0; i < ARRAY_SIZE(moved); i++) {
		char to[64];
		snprintf(to, sizeof to, "/newroot%s", moved[i]);
		mkdir(to, 0755);
		if (mount(moved[i], to, NULL, MS_MOVE, NULL) < 0)
			say("%s: %s", to, strerror(errno));
	}
	drop_initramfs();
	if (chdir("/newroot") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
		chdir("/") < 0) {
		rc = -errno;
		say("entering the root: %s", strerror(-rc));
		return rc;
	}
	return 0;
}

static void mount_rest(void)
{
	try_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		"mode=0620,gid=5,ptmxmode=0666");
	try_mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	try_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	if (mkdir("/tmp", 01777) == 0)
		chmod("/tmp", 01777);
	static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"}};
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
			say("%s: %s", links[i][1], strerror(errno));
}

static int set_address(int s, const char *ifname, unsigned long what, const char *address)
{
	struct ifreq r = {0};
	struct sockaddr_in a = {.sin_family = AF_INET};
	snprintf(r.ifr_name, sizeof r.ifr_name, "%s", ifname);
	if (inet_pton(AF_INET, address, &a.sin_addr) != 1)
		return -EINVAL;
	memcpy(&r.ifr_addr, &a, sizeof a);
	return ioctl(s, what, &r) < 0 ? -errno : 0;
}

static int link_up(int s, const char *ifname)
{
	struct ifreq r = {0};
	snprintf(r.ifr_name, sizeof r.ifr_name, "%s", ifname);
	if (ioctl(s, SIOCGIFFLAGS, &r) < 0)
		return -errno;
	r.ifr_flags = (short)(r.ifr_flags | IFF_UP | IFF_RUNNING);
	return ioctl(s, SIOCSIFFLAGS, &r) < 0 ? -errno : 0;
}

static void start_network(const struct options *o)
{
	_cleanup_close_ int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct in_addr mask = {o->prefix ? htonl(~0u << (32 - o->prefix)) : 0};
	char mask_text[INET_ADDRSTRLEN];
	inet_ntop(AF_INET, &mask, mask_text, sizeof mask_text);
	link_up(s, "lo");
	file_write_existing(AT_FDCWD, "/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
	int rc = set_address(s, "eth0", SIOCSIFADDR, o->address);
	if (rc == 0)
		rc = set_address(s, "eth0", SIOCSIFNETMASK, mask_text);
	if (rc == 0)
		rc = link_up(s, "eth0");
	if (rc < 0) {
		say("eth0: %s", strerror(-rc));
		return;
	}
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	struct sockaddr_in any = {.sin_family = AF_INET}, gw = any;
	inet_pton(AF_INET, o->gateway, &gw.sin_addr);
	memcpy(&route.rt_dst, &any, sizeof any);
	memcpy(&route.rt_genmask, &any, sizeof any);
	memcpy(&route.rt_gateway, &gw, sizeof gw);
	if (ioctl(s, SIOCADDRT, &route) < 0)
		say("default route: %s", strerror(errno));
}

// An image that brings its own resolvers keeps them.
static void write_resolvers(const struct options *o)
{
	struct stat st;
	if (o->read_only || (stat("/etc/resolv.conf", &st) == 0 && st.st_size > 0))
		return;
	_cleanup_strbuf_ struct strbuf b = {0};
	char copy[sizeof o->dns], *rest = copy;
	snprintf(copy, sizeof copy, "%s", o->dns);
	for (char *a; (a = strsep(&rest, ","));)
		strbuf_addf(&b, "nameserver %s\n", a);
	_cleanup_close_ int fd =
		open("/etc/resolv.conf", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd >= 0 && !b.failed)
		file_write_full(fd, b.data, b.len);
}

static void set_hostname(void)
{
	_cleanup_free_ char *name = NULL;
	if (file_read_line(AT_FDCWD, "/etc/hostname", &name) < 0 || !*name)
		sethostname("stasis", 6);
	else
		sethostname(name, strnlen(name, 64));
}

static pid_t start_agent(void)
{
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	char *argv[] = {AGENT, "--foreground", NULL};
	char *env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", NULL};
	execve(AGENT, argv, env);
	say("%s: %s", AGENT, strerror(errno));
	_exit(127);
}

// Reaps for ever; brings the agent back when it dies; ends the machine on SIGTERM, SIGINT, SIGUSR1
// or 2.
static _noreturn_ void supervise(pid_t agent, const sigset_t *set)
{
	uint64_t backoff_ms = 100, restart_at = 0;
	for (;;) {
		struct timespec t = {0}, *wait = NULL;
		if (restart_at) {
			uint64_t now = clock_monotonic_ns();
			uint64_t left = restart_at > now ? restart_at - now : 0;
			t = (struct timespec){
				(time_t)(left / NSEC_PER_SEC), (long)(left % NSEC_PER_SEC)};
			wait = &t;
		}
		siginfo_t si = {0};
		int sig = wait ? sigtimedwait(set, &si, wait) : sigwaitinfo(set, &si);
		if (sig > 0 && sig != SIGCHLD) {
			kill(-1, SIGTERM);
			finish("asked to stop");
		}
		int status;
		for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
			if (pid == agent) {
				say("agent ended with status %d, starting it again", status);
				restart_at = clock_monotonic_ns() + backoff_ms * NSEC_PER_MSEC;
				backoff_ms = MIN(backoff_ms * 2, (uint64_t)BACKOFF_MAX_MS);
			}
		if (restart_at && clock_monotonic_ns() >= restart_at) {
			restart_at = 0;
			agent = start_agent();
		}
	}
}

int main(void)
{
	struct options o;
	sigset_t set;
	// Wanted signals are blocked for good and taken one at a time; PID 1 ignores all others.
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	umask(022);
	try_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
	try_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	try_mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	reboot(RB_DISABLE_CAD);
	read_options(&o);
	load_modules();
	if (enter_root(&o) < 0)
		finish("no root file system");
	uint64_t root_ms = clock_monotonic_ns() / NSEC_PER_MSEC;
	mount_rest();
	set_hostname();
	start_network(&o);
	write_resolvers(&o);
	pid_t agent = start_agent();
	say("root mounted at %lu ms, agent started at %lu ms", root_ms,
		(uint64_t)(clock_monotonic_ns() / NSEC_PER_MSEC));
	supervise(agent, &set);
}
