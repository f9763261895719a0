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
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include "agentclient/version.h"
#include "base/clock.h"
#include "base/file.h"
#include "envd/process/env.h"
#include "guestinit/cgroups.h"
#include "guestinit/console.h"
#include "guestinit/network.h"
#include "guestinit/root.h"

#define ENVD_STATE "/run/stasis/agent.json" // root's alone; gone with the guest's memory
#define STOP_WAIT_NS (2 * NSEC_PER_SEC)
#define RESTART_MIN_NS (100 * NSEC_PER_MSEC)
#define RESTART_MAX_NS (10 * NSEC_PER_SEC)
#define RESTART_CALM_NS (60 * NSEC_PER_SEC) // lived that long: the next restart is quick again

// --- the rest of the system

static void mount_quietly(
	const char *type, const char *at, mode_t mode, unsigned long flags, const char *data)
{
	mkdir(at, mode);
	if (mount(type, at, type, flags, data) < 0 && errno != EBUSY)
		init_say("cannot mount %s at %s: %s", type, at, strerror(errno));
}

// Before envd starts: it needs terminals, the cgroup tree, and a place for temporary files.
static void mount_for_envd(void)
{
	mount_quietly(
		"devpts", "/dev/pts", 0755, MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
	cgroups_set_up();
	mount_quietly("tmpfs", "/dev/shm", 01777, MS_NOSUID | MS_NODEV, "mode=1777");
	if (mkdir("/tmp", 01777) == 0)
		chmod("/tmp", 01777);
	else if (errno == EROFS)
		init_say("the root file system has no /tmp");
	static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"}};
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
			init_say("cannot make %s: %s", links[i][1], strerror(errno));
}

// What programs expect that make containers, tunnels and loop devices. A node is there before its
// module is, which the first one to open it makes the kernel load (Documentation/admin-guide/
// devices.txt; modes as udev's rules have them).
static void make_devices(void)
{
	static const struct {
		const char *path;
		mode_t mode;
		unsigned major, minor;
	} nodes[] = {
		{"/dev/net/tun", 0666, 10, 200},
		{"/dev/fuse", 0666, 10, 229},
		{"/dev/loop-control", 0660, 10, 237},
		{"/dev/mapper/control", 0600, 10, 236},
	};
	mkdir("/dev/net", 0755);
	mkdir("/dev/mapper", 0755);
	for (size_t i = 0; i < ARRAY_SIZE(nodes); i++)
		if (mknod(nodes[i].path, S_IFCHR, makedev(nodes[i].major, nodes[i].minor)) == 0 ||
			errno == EEXIST)
			chmod(nodes[i].path, nodes[i].mode);
	mount_quietly("mqueue", "/dev/mqueue", 01777, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_quietly("bpf", "/sys/fs/bpf", 0700, MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=700");
}

// The root may be older than the kernel: a disk that was booted again without its memory.
static void look_for_modules(void)
{
	struct utsname u;
	char path[sizeof u.release + 64];
	uname(&u);
	snprintf(path, sizeof path, "/lib/modules/%s/modules.dep", u.release);
	if (access(path, F_OK) < 0)
		init_say("no modules of Linux %s in the root file system: none can be loaded",
			u.release);
}

static void set_kernel_parameters(void)
{
	static const char *const set[][2] = {
		// the policy lets no IPv6 out: programs must not wait for it. But "localhost" is
		// ::1 too: lo after all, which takes that away
		{"/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"},
		{"/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0"},
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
		init_say("cannot set the host name %s: %s", text, strerror(errno));
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
	char *const argv[] = {"envd", "--guest", "--state", ENVD_STATE, "--trim", "/", "--cgroup",
		ENV_CGROUP_GUEST, "--only-from", only_from, NULL};
	static char version[64];
	static char *const env[] = {"PATH=" ENV_PATH_DEFAULT, "HOME=/root", version, NULL};
	snprintf(version, sizeof version, AGENT_INIT_VARIABLE "=%s-%u", STASIS_VERSION,
		AGENT_REVISION);
	pid_t pid = vfork();
	if (pid == 0) {
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setsid();
		execve(ENVD_PATH, argv, env);
		_exit(127);
	}
	if (pid < 0)
		init_say("cannot start envd: %s", strerror(errno));
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
		init_say("envd ended by signal %d, restart in %u ms", WTERMSIG(status),
			(unsigned)(w->delay_ns / NSEC_PER_MSEC));
	else
		init_say("envd ended with status %d, restart in %u ms", WEXITSTATUS(status),
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
		t = clock_timespec(end - now);
		sigtimedwait(signals, NULL, &t);
	}
}

// Ends all processes, gives the disk back clean, and ends the machine.
static _noreturn_ void shut_down(const sigset_t *signals)
{
	init_say("powering off");
	kill(-1, SIGTERM);
	wait_for_children(signals);
	kill(-1, SIGKILL);
	wait_for_children(signals);
	sync();
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
		init_say("the root file system stays writable: %s", strerror(errno));
	init_halt();
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
			t = clock_timespec(w->restart_ns - now);
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
		init_die(-rc, "cannot read /proc/cmdline");
	if (cmdline_parse(line.data, ret, bad, sizeof bad) < 0)
		init_die(0, "'%s' on the kernel command line makes no sense", bad);
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

	root_mount_or_die("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	init_open_console();
	root_mount_or_die("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	root_mount_or_die("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	read_cmdline(&c);
	if (access("/envd", X_OK) < 0)
		init_die(errno, "the initramfs has no program /envd");
	root_load_modules();
	root_mount(&c);
	root_enter();
	network_set_up(&c);
	mount_for_envd();
	set_hostname();
	set_limits();
	snprintf(w.only_from, sizeof w.only_from, "%s%%eth0",
		inet_ntoa((struct in_addr){c.gateway}));
	envd_start(&w);
	init_say("envd started");
	network_write_resolv_conf(&c);
	make_devices();
	look_for_modules();
	set_kernel_parameters();
	run(&w, &signals);
}
