// SPDX-License-Identifier: Apache-2.0
// stasis-init: /init of the guest's initramfs, and PID 1 for ever after.
//
// How this works. It loads the modules of the initramfs, mounts the root device, copies /envd to a
// tmpfs of the new root, moves into that root in-process (the initramfs is emptied, this program
// lives on as a deleted file), brings up the network, starts envd, and from then on reaps orphans
// and restarts envd. The root file system needs nothing of ours in it. The order is by what the
// host waits for: an address and a listening envd come before everything else.
//
// Kernel command line: root= (/dev/vda), rootfstype= (ext4), ro, stasis.ip= (169.254.0.21/30),
// stasis.gw= (169.254.0.22), stasis.dns= (1.1.1.1,8.8.8.8).
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
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "guestinit/cmdline.h"
#include "envd/process/env.h"

#define NEW_ROOT "/newroot"
#define ENVD_PATH "/run/stasis/envd"
#define ENVD_STATE "/run/stasis/agent.json" // root's alone; gone with the guest's memory
#define ROOT_WAIT_NS (30 * NSEC_PER_SEC)
#define STOP_WAIT_NS (2 * NSEC_PER_SEC)
#define RESTART_MIN_NS (100 * NSEC_PER_MSEC)
#define RESTART_MAX_NS (10 * NSEC_PER_SEC)
#define RESTART_CALM_NS (60 * NSEC_PER_SEC) // lived that long: the next restart is quick again

_printf_(1, 2) static void say(const char *fmt, ...)
{
	char text[400];
	uint64_t ms = clock_monotonic_ns() / NSEC_PER_MSEC;
	int n = snprintf(text, sizeof text, "stasis-init: ");
	va_list ap;
	va_start(ap, fmt);
	n += vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
	va_end(ap);
	n = MIN(n, (int)sizeof text - 32);
	n += snprintf(text + n, sizeof text - (size_t)n, " (%llu.%03llu s)\n",
		(unsigned long long)ms / 1000, (unsigned long long)ms % 1000);
	if (write(STDOUT_FILENO, text, (size_t)n) < 0) {
		// no console: nobody to tell
	}
}

// Ends the machine. Both VMMs take a reset as the guest's end; Firecracker knows no power-off.
static _noreturn_ void halt(void)
{
	sync();
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

// errnum 0: the text says it all.
_printf_(2, 3) static _noreturn_ void die(int errnum, const char *fmt, ...)
{
	char text[300];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	say("%s%s%s: powering off", text, errnum ? ": " : "", errnum ? strerror(errnum) : "");
	halt();
}

// --- modules and the root device

static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

static void mount_or_die(const char *type, const char *at, unsigned long flags, const char *data)
{
	mkdir(at, 0755);
	// EBUSY: the kernel has mounted devtmpfs itself
	if (mount(type, at, type, flags, data) < 0 && errno != EBUSY)
		die(errno, "cannot mount %s at %s", type, at);
}

static void load_module(const char *name)
{
	char path[PATH_MAX];
	if (str_format(path, sizeof path, "/modules/%s", name) < 0)
		die(0, "bad module name in /modules/order");
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(errno, "cannot open %s", path);
	if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
		die(errno, "cannot load %s", path);
}

static void load_modules(void)
{
	_cleanup_strbuf_ struct strbuf order = {0};
	int rc = file_read(AT_FDCWD, "/modules/order", 1u << 20, &order);
	if (rc == -ENOENT)
		return; // a kernel with everything built in
	if (rc < 0)
		die(-rc, "cannot read /modules/order");
	for (char *line = order.data; line && *line;) {
		char *next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (*line && *line != '#')
			load_module(line);
		line = next;
	}
}

// Its driver may make the node a moment after the module was loaded: watched, not polled.
static void wait_for_node(const char *path)
{
	_cleanup_close_ int in = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (in < 0 || inotify_add_watch(in, "/dev", IN_CREATE | IN_MOVED_TO) < 0)
		die(errno, "cannot watch /dev");
	uint64_t end = clock_monotonic_ns() + ROOT_WAIT_NS;
	while (access(path, F_OK) < 0) {
		char events[4096];
		struct pollfd pf = {.fd = in, .events = POLLIN};
		uint64_t now = clock_monotonic_ns();
		if (now >= end)
			die(0, "the root device %s has not appeared", path);
		poll(&pf, 1, (int)((end - now) / NSEC_PER_MSEC) + 1);
		while (read(in, events, sizeof events) > 0)
			;
	}
}

static void mount_root(const struct cmdline *c)
{
	if (!str_starts(c->root, "/dev/"))
		die(0, "root=%s: only names of /dev can be mounted", c->root);
	wait_for_node(c->root);
	mkdir(NEW_ROOT, 0755);
	if (mount(c->root, NEW_ROOT, c->rootfstype, MS_NOATIME | (c->ro ? MS_RDONLY : 0), NULL) < 0)
		die(errno, "cannot mount %s (%s)", c->root, c->rootfstype);
	say("root mounted");
}

// --- into the root

// Makes the directory when it is missing, which a read-only root cannot.
static void new_dir(const char *path, mode_t mode)
{
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		die(errno, "the root file system has no %s", path + strlen(NEW_ROOT));
}

static void copy_envd(void)
{
	struct stat st;
	_cleanup_close_ int in = open("/envd", O_RDONLY | O_CLOEXEC);
	if (in < 0 || fstat(in, &st) < 0)
		die(errno, "the initramfs has no /envd");
	mkdir(NEW_ROOT "/run/stasis", 0755);
	_cleanup_close_ int out =
		open(NEW_ROOT ENVD_PATH, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
	for (off_t left = st.st_size; left > 0;) {
		ssize_t n = out < 0 ? -1 : sendfile(out, in, NULL, (size_t)left);
		if (n <= 0)
			die(errno, "cannot copy envd to %s", ENVD_PATH);
		left -= n;
	}
}

static void enter_root(void)
{
	static const char *const moved[] = {"/dev", "/proc", "/sys"};
	char to[64];
	new_dir(NEW_ROOT "/run", 0755);
	mount_or_die("tmpfs", NEW_ROOT "/run", MS_NOSUID | MS_NODEV, "mode=0755");
	copy_envd();
	for (size_t i = 0; i < ARRAY_SIZE(moved); i++) {
		snprintf(to, sizeof to, NEW_ROOT "%s", moved[i]);
		new_dir(to, 0755);
		if (mount(moved[i], to, NULL, MS_MOVE, NULL) < 0)
			die(errno, "cannot move %s", moved[i]);
	}
	// What the initramfs held is memory.
	file_rm_rf(AT_FDCWD, "/modules");
	unlink("/envd");
	unlink("/init");
	if (chdir(NEW_ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
		chdir("/") < 0)
		die(errno, "cannot move into the root");
}

// --- network

static void set_address(struct sockaddr *a, uint32_t address)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = address};
	memcpy(a, &in, sizeof in);
}

static int link_up(int fd, const char *name)
{
	struct ifreq r = {0};
	snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
	if (ioctl(fd, SIOCGIFFLAGS, &r) < 0)
		return -errno;
	r.ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, &r) < 0 ? -errno : 0;
}

static int set_up_eth0(int fd, const struct cmdline *c)
{
	struct ifreq r = {.ifr_name = "eth0"};
	set_address(&r.ifr_addr, c->ip);
	if (ioctl(fd, SIOCSIFADDR, &r) < 0)
		return -errno;
	set_address(&r.ifr_netmask, htonl(c->prefix ? ~0u << (32 - c->prefix) : 0));
	if (ioctl(fd, SIOCSIFNETMASK, &r) < 0)
		return -errno;
	int rc = link_up(fd, "eth0");
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	set_address(&route.rt_gateway, c->gateway);
	set_address(&route.rt_dst, 0);
	set_address(&route.rt_genmask, 0);
	if (rc == 0 && ioctl(fd, SIOCADDRT, &route) < 0)
		rc = -errno;
	return rc;
}

static void set_up_network(const struct cmdline *c)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		say("no network: %s", strerror(errno));
		return;
	}
	link_up(fd, "lo");
	int rc = set_up_eth0(fd, c);
	if (rc < 0)
		say("eth0 is not up: %s", strerror(-rc));
}

static void write_resolv_conf(const struct cmdline *c)
{
	static const char path[] = "/etc/resolv.conf";
	struct stat st;
	if (stat(path, &st) == 0 && (st.st_size > 0 || !S_ISREG(st.st_mode)))
		return;
	unlink(path); // may be a link to a resolver that does not run here
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	for (unsigned i = 0; fd >= 0 && i < c->n_dns; i++)
		dprintf(fd, "nameserver %s\n", inet_ntoa((struct in_addr){c->dns[i]}));
}

// --- the rest of the system

static void mount_quietly(
	const char *type, const char *at, mode_t mode, unsigned long flags, const char *data)
{
	mkdir(at, mode);
	if (mount(type, at, type, flags, data) < 0 && errno != EBUSY)
		say("cannot mount %s at %s: %s", type, at, strerror(errno));
}

// Before envd starts: it needs terminals, the cgroup tree, and a place for temporary files.
static void mount_for_envd(void)
{
	mount_quietly(
		"devpts", "/dev/pts", 0755, MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
	mount_quietly("cgroup2", "/sys/fs/cgroup", 0755, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_quietly("tmpfs", "/dev/shm", 01777, MS_NOSUID | MS_NODEV, "mode=1777");
	if (mkdir("/tmp", 01777) == 0)
		chmod("/tmp", 01777);
	else if (errno == EROFS)
		say("the root file system has no /tmp");
	static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"}};
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
			say("cannot make %s: %s", links[i][1], strerror(errno));
}

static void set_kernel_parameters(void)
{
	static const char *const set[][2] = {
		// the policy lets no IPv6 out: programs must not wait for it
		{"/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"},
		// ping for everybody
		{"/proc/sys/net/ipv4/ping_group_range", "0 2147483647"},
		// about 100 s instead of 15 min for a peer that is gone after a resume
		{"/proc/sys/net/ipv4/tcp_retries2", "8"},
		{"/proc/sys/fs/protected_hardlinks", "1"},
		{"/proc/sys/fs/protected_symlinks", "1"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(set); i++)
		file_write_existing(AT_FDCWD, set[i][0], set[i][1]);
}

static void set_hostname(void)
{
	_cleanup_free_ char *name = NULL;
	const char *text = "stasis"; // until /init tells the sandbox's own
	if (file_read_line(AT_FDCWD, "/etc/hostname", &name) == 0 && *name)
		text = name;
	if (sethostname(text, strnlen(text, 64)) < 0)
		say("cannot set the host name %s: %s", text, strerror(errno));
}

// As distributions have them; the kernel's own are of another age.
static void set_limits(void)
{
	const struct rlimit files = {1024, 524288};
	setrlimit(RLIMIT_NOFILE, &files);
}

// only_from: the gateway and the interface that leads to it.
static pid_t start_envd(char *only_from)
{
	char *const argv[] = {
		"envd", "--guest", "--state", ENVD_STATE, "--only-from", only_from, NULL};
	static char *const env[] = {"PATH=" ENV_PATH_DEFAULT, "HOME=/root", NULL};
	pid_t pid = vfork();
	if (pid == 0) {
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setsid();
		// The agent goes last when memory runs out; its children raise theirs.
		int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "-1000", 5) < 0) {
			// it runs without, too
		}
		execve(ENVD_PATH, argv, env);
		_exit(127);
	}
	if (pid < 0)
		say("cannot start envd: %s", strerror(errno));
	return pid;
}

// --- for ever

struct envd_watch {
	char only_from[INET_ADDRSTRLEN + sizeof "%eth0"];
	pid_t pid; // -1: not running
	uint64_t started_ns, restart_ns, delay_ns;
};

static void envd_start(struct envd_watch *w)
{
	w->started_ns = clock_monotonic_ns();
	w->pid = start_envd(w->only_from);
	if (w->pid < 0)
		w->restart_ns = w->started_ns + w->delay_ns;
}

static void envd_ended(struct envd_watch *w, int status)
{
	uint64_t now = clock_monotonic_ns();
	if (now - w->started_ns > RESTART_CALM_NS)
		w->delay_ns = RESTART_MIN_NS;
	if (WIFSIGNALED(status))
		say("envd ended by signal %d, restart in %u ms", WTERMSIG(status),
			(unsigned)(w->delay_ns / NSEC_PER_MSEC));
	else
		say("envd ended with status %d, restart in %u ms", WEXITSTATUS(status),
			(unsigned)(w->delay_ns / NSEC_PER_MSEC));
	w->pid = -1;
	w->restart_ns = now + w->delay_ns;
	w->delay_ns = MIN(w->delay_ns * 2, RESTART_MAX_NS);
}

static void reap(struct envd_watch *w)
{
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		if (pid == w->pid)
			envd_ended(w, status);
}

static void ns_to_timespec(uint64_t ns, struct timespec *t)
{
	*t = (struct timespec){(time_t)(ns / NSEC_PER_SEC), (long)(ns % NSEC_PER_SEC)};
}

// All orphans are ours: without children there is nobody left.
static void wait_for_children(const sigset_t *signals)
{
	uint64_t end = clock_monotonic_ns() + STOP_WAIT_NS;
	for (;;) {
		pid_t pid;
		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		uint64_t now = clock_monotonic_ns();
		struct timespec t;
		if (pid < 0 || now >= end)
			return;
		ns_to_timespec(end - now, &t);
		sigtimedwait(signals, NULL, &t);
	}
}

// Ends all processes, gives the disk back clean, and ends the machine.
static _noreturn_ void shut_down(const sigset_t *signals)
{
	say("powering off");
	kill(-1, SIGTERM);
	wait_for_children(signals);
	kill(-1, SIGKILL);
	wait_for_children(signals);
	sync();
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
		say("the root file system stays writable: %s", strerror(errno));
	halt();
}

static _noreturn_ void run(struct envd_watch *w, const sigset_t *signals)
{
	for (;;) {
		struct timespec t, *wait = NULL;
		if (w->pid < 0) {
			uint64_t now = clock_monotonic_ns();
			if (now >= w->restart_ns) {
				envd_start(w);
				continue;
			}
			ns_to_timespec(w->restart_ns - now, &t);
			wait = &t;
		}
		int sig = wait ? sigtimedwait(signals, NULL, wait) : sigwaitinfo(signals, NULL);
		if (sig == SIGCHLD)
			reap(w);
		else if (sig > 0)
			shut_down(signals);
	}
}

static void read_cmdline(struct cmdline *ret)
{
	_cleanup_strbuf_ struct strbuf line = {0};
	char bad[128];
	int rc = file_read(AT_FDCWD, "/proc/cmdline", 65536, &line);
	if (rc < 0)
		die(-rc, "cannot read /proc/cmdline");
	if (cmdline_parse(line.data, ret, bad, sizeof bad) < 0)
		die(0, "'%s' on the kernel command line makes no sense", bad);
}

static int say_usage(void)
{
	fputs("usage: /proc/1/exe poweroff   (inside a guest, as root)\n"
	      "Without arguments it is the init of a Stasis guest and must be PID 1.\n",
		stderr);
	return 2;
}

int main(int argc, char **argv)
{
	if (getpid() != 1) {
		if (argc == 2 && strcmp(argv[1], "poweroff") == 0)
			return kill(1, SIGTERM) < 0 ? 1 : 0;
		return say_usage();
	}
	struct cmdline c;
	struct envd_watch w = {.delay_ns = RESTART_MIN_NS};
	sigset_t signals;
	static const int wanted[] = {SIGCHLD, SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
	sigemptyset(&signals);
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		sigaddset(&signals, wanted[i]);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	reboot(RB_DISABLE_CAD); // Ctrl-Alt-Del, the VMM's polite stop, becomes SIGINT
	umask(022);

	mount_or_die("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	open_console();
	mount_or_die("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_or_die("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	read_cmdline(&c);
	if (access("/envd", X_OK) < 0)
		die(errno, "the initramfs has no program /envd");
	load_modules();
	mount_root(&c);
	enter_root();
	set_up_network(&c);
	mount_for_envd();
	set_hostname();
	set_limits();
	snprintf(w.only_from, sizeof w.only_from, "%s%%eth0",
		inet_ntoa((struct in_addr){c.gateway}));
	envd_start(&w);
	say("envd started");
	write_resolv_conf(&c);
	set_kernel_parameters();
	run(&w, &signals);
}
