// SPDX-License-Identifier: Apache-2.0
// How this works. All that the guest runs must be in one cgroup, which is frozen before a snapshot:
// also the containers that a daemon of it starts, which makes their cgroups at what it takes for
// the root of the tree. So there is a cgroup "guest", which is all that can be seen at
// /sys/fs/cgroup, and a namespace in which it is the root in /proc/PID/cgroup, too. A child is born
// into the cgroup (moving there by cgroup.procs would wait for a grace period), makes the
// namespace, keeps it by a file, and ends.
#include "guestinit/cgroups.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "base/file.h"
#include "base/str.h"
#include "envd/process/env.h"
#include "guestinit/console.h"

#define ALL "/run/stasis/cgroup" // only while this works
#define GUEST ALL "/guest"
#define FLAGS (MS_NOSUID | MS_NODEV | MS_NOEXEC)

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

static int keep_namespace(void)
{
	if (unshare(CLONE_NEWCGROUP) < 0)
		return -errno;
	_cleanup_close_ int fd = open(ENV_CGROUP_NAMESPACE, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || mount("/proc/self/ns/cgroup", ENV_CGROUP_NAMESPACE, NULL, MS_BIND, NULL) < 0)
		return -errno;
	return 0;
}

static int make_namespace(int cgroup_fd)
{
	int status;
	struct clone_args args = {
		.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)cgroup_fd};
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0)
		_exit(-keep_namespace());
	if (pid < 0 || RETRY_EINTR(waitpid(pid, &status, 0)) < 0)
		return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

// All that the kernel has, for the guest to give on to cgroups of its own.
static void pass_controllers_on(void)
{
	_cleanup_free_ char *list = NULL;
	_cleanup_strbuf_ struct strbuf all = {0};
	if (file_read_line(AT_FDCWD, ALL "/cgroup.controllers", &list) < 0)
		return;
	char *rest = list;
	for (const char *name; (name = strsep(&rest, " "));)
		if (*name)
			strbuf_addf(&all, "%s+%s", all.len ? " " : "", name);
	if (!all.len || strbuf_check(&all) < 0)
		return;
	int rc = file_write_existing(AT_FDCWD, ALL "/cgroup.subtree_control", all.data);
	if (rc < 0)
		init_say("the guest has no cgroup controllers: %s", strerror(-rc));
}

static void make_guest(void)
{
	_cleanup_close_ int fd = -1;
	if (mkdir(GUEST, 0755) < 0 || (fd = open(GUEST, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 ||
		mount(GUEST, ENV_CGROUP_GUEST, NULL, MS_BIND, NULL) < 0) {
		init_say("the guest has no cgroup: %s", strerror(errno));
		return;
	}
	int rc = make_namespace(fd);
	if (rc < 0)
		init_say("the guest has no cgroup namespace: %s", strerror(-rc));
}

// The whole tree does not stay mounted: programs would find it in the list of mounts.
void cgroups_set_up(void)
{
	mkdir(ALL, 0700);
	if (mount("cgroup2", ALL, "cgroup2", FLAGS, NULL) < 0) {
		init_say("cannot mount cgroup2: %s", strerror(errno));
		return;
	}
	pass_controllers_on();
	make_guest();
	if (umount2(ALL, MNT_DETACH) < 0 || rmdir(ALL) < 0)
		init_say("cannot unmount %s: %s", ALL, strerror(errno));
}
