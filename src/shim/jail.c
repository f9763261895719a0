// SPDX-License-Identifier: Apache-2.0
// How this works: the jail's root is one small tmpfs that only this process's mount namespace sees.
// It holds the directories, links and device nodes; files of the host come in by bind mounts. Each
// mount costs time at every clone and end, so there are only these: the tmpfs, /usr, /stasis, /run,
// /proc and one per bound file. pivot_root then makes the host's tree unreachable, and the lazy
// unmount frees it, so that a sandbox does not keep file systems of the host busy that it does not
// use.
#include "shim/jail.h"
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include "base/str.h"

// /tmp lives there too. Each bind has a file, and at most one directory, that it is put onto.
#define ROOT_OPTIONS "mode=0755,size=16m,nr_inodes=%zu"
#define ROOT_INODES 1024u
#define MAX_FILES 4096
#define MAX_TASKS 512 // of the sandbox's uid: 32 vCPUs, 64 I/O threads of QEMU, the adapter
#define DEFAULT_FSIZE (1ull << 40)

// All jail paths are handled relative to the new root, which is the working directory while the
// jail is built.
static const char *rel(const char *jail_path)
{
	return jail_path + 1;
}

static int mount_bind(const char *source, const char *target, unsigned long flags, struct err *e)
{
	flags |= MS_NOSUID | MS_NODEV;
	if (mount(source, target, NULL, MS_BIND, NULL) < 0 ||
		mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | flags, NULL) < 0)
		return err_errno(e, errno, "bind %s to %s in the jail", source, target);
	return 0;
}

static int make_node(
	const char *path, dev_t dev, mode_t mode, uint32_t uid, uint32_t gid, struct err *e)
{
	if (mknod(path, S_IFCHR | mode, dev) < 0 || chmod(path, mode) < 0 ||
		chown(path, uid, gid) < 0)
		return err_errno(e, errno, "make %s in the jail", path);
	return 0;
}

// A device whose number is the host's choice; absent there, absent here.
static int copy_node(const char *host, const struct shim_spec *s, bool required, struct err *e)
{
	struct stat st;
	if (stat(host, &st) < 0) {
		if (errno == ENOENT && !required)
			return 0;
		return err_errno(e, errno, "%s", host);
	}
	if (!S_ISCHR(st.st_mode))
		return err_set(e, ERR_INTERNAL, "%s is not a device", host);
	return make_node(rel(host), st.st_rdev, 0600, s->uid, s->gid, e);
}

static int make_devices(const struct shim_spec *s, struct err *e)
{
	static const struct {
		const char *path;
		unsigned minor;
	} common[] = {{"dev/null", 3}, {"dev/zero", 5}, {"dev/full", 7}, {"dev/random", 8},
		{"dev/urandom", 9}};
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(common); i++)
		rc = make_node(common[i].path, makedev(1, common[i].minor), 0666, 0, 0, e);
	if (rc == 0)
		rc = copy_node("/dev/net/tun", s, true, e);
	// Its owner may make descriptors that see faults from the kernel, without CAP_SYS_PTRACE.
	if (rc == 0)
		rc = copy_node("/dev/userfaultfd", s, false, e);
	if (rc == 0 && s->kvm)
		rc = copy_node("/dev/kvm", s, true, e);
	return rc;
}

static int make_tree(const struct shim_spec *s, struct err *e)
{
	static const char *const dirs[] = {"usr", "run", "proc", "dev", "dev/net", "tmp"};
	static const char *const links[][2] = {
		{"usr/bin", "bin"}, {"usr/lib", "lib"}, {"usr/lib64", "lib64"}};
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		if (mkdir(dirs[i], 0755) < 0)
			return err_errno(e, errno, "make /%s in the jail", dirs[i]);
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		if (symlink(links[i][0], links[i][1]) < 0)
			return err_errno(e, errno, "make /%s in the jail", links[i][1]);
	if (chmod("tmp", 0700) < 0 || chown("tmp", s->uid, s->gid) < 0)
		return err_errno(e, errno, "make /tmp in the jail");
	return make_devices(s, e);
}

// The empty file (and its directories) that something is bound onto.
static int make_mount_point(const char *path, struct err *e)
{
	_cleanup_free_ char *p = strdup(path);
	if (!p)
		return err_errno(e, ENOMEM, "bind to /%s", path);
	for (char *slash = strchr(p, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(p, 0755) < 0 && errno != EEXIST)
			return err_errno(e, errno, "make /%s in the jail", p);
		*slash = '/';
	}
	_cleanup_close_ int fd = open(p, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
	if (fd < 0)
		return err_errno(e, errno, "make /%s in the jail", p);
	return 0;
}

static int bind_file(const struct shim_bind *b, const struct shim_spec *s, struct err *e)
{
	struct stat st;
	if (lstat(b->source, &st) < 0)
		return err_errno(e, errno, "%s", b->source);
	if (!S_ISREG(st.st_mode))
		return err_set(e, ERR_INVALID, "%s: not a regular file", b->source);
	if (b->writable && (st.st_uid != s->uid || st.st_gid != s->gid) &&
		lchown(b->source, s->uid, s->gid) < 0)
		return err_errno(e, errno, "give %s to uid %u", b->source, s->uid);
	int rc = make_mount_point(rel(b->target), e);
	if (rc < 0)
		return rc;
	return mount_bind(b->source, rel(b->target), MS_NOEXEC | (b->writable ? 0 : MS_RDONLY), e);
}

// The only place where a sandbox can leave files for the host. Nothing in it can be run or be a
// device; it is the host's directory, so what is left there outlives the jail.
static int bind_snap(const struct shim_spec *s, struct err *e)
{
	_cleanup_close_ int fd = open(s->snap_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "%s", s->snap_dir);
	if (fchown(fd, s->uid, s->gid) < 0 || fchmod(fd, 0700) < 0)
		return err_errno(e, errno, "give %s to uid %u", s->snap_dir, s->uid);
	if (mkdir(rel(JAIL_SNAP), 0755) < 0)
		return err_errno(e, errno, "make " JAIL_SNAP " in the jail");
	return mount_bind(s->snap_dir, rel(JAIL_SNAP), MS_NOEXEC, e);
}

static int bind_own(const char *own_dir, struct err *e)
{
	_cleanup_free_ char *usr = str_printf("%s/usr", own_dir);
	if (!usr || mkdir(rel(JAIL_OWN), 0755) < 0)
		return err_errno(e, usr ? errno : ENOMEM, "make " JAIL_OWN " in the jail");
	return mount_bind(usr, rel(JAIL_OWN), MS_RDONLY, e);
}

static int mount_all(const struct shim_spec *s, struct err *e)
{
	_cleanup_free_ char *usr = str_printf("%s/usr", s->runtime_dir);
	_cleanup_free_ char *run = str_printf("%s/run", s->dir);
	if (!usr || !run)
		return err_errno(e, ENOMEM, "jail");
	int rc = mount_bind(usr, "usr", MS_RDONLY, e);
	if (rc == 0 && s->own_dir)
		rc = bind_own(s->own_dir, e);
	if (rc == 0)
		rc = mount_bind(run, "run", MS_NOEXEC, e);
	for (size_t i = 0; rc == 0 && i < s->n_binds; i++)
		rc = bind_file(&s->binds[i], s, e);
	if (rc == 0 && s->snap_dir)
		rc = bind_snap(s, e);
	if (rc < 0)
		return rc;
	// subset=pid: no sysctls, no sysrq, no host facts; invisible: no foreign processes, the
	// shim among them. The VMM does see its own children's pagemap and mem.
	if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		    "subset=pid,hidepid=invisible") < 0)
		return err_errno(e, errno, "mount /proc in the jail");
	return 0;
}

int jail_enter(const struct shim_spec *s, struct err *e)
{
	char options[64];
	_cleanup_free_ char *root = str_printf("%s/root", s->dir);
	if (!root)
		return err_errno(e, ENOMEM, "jail");
	umask(022);
	snprintf(options, sizeof options, ROOT_OPTIONS, ROOT_INODES + 2 * s->n_binds);
	if (unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		return err_errno(e, errno, "new namespaces");
	if (sethostname(s->id, strlen(s->id)) < 0)
		return err_errno(e, errno, "set the host name");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_errno(e, errno, "make mounts private");
	if (mount("jail", root, "tmpfs", MS_NOSUID | MS_NOEXEC, options) < 0)
		return err_errno(e, errno, "mount %s", root);
	if (chdir(root) < 0)
		return err_errno(e, errno, "%s", root);
	int rc = make_tree(s, e);
	if (rc == 0)
		rc = mount_all(s, e);
	if (rc < 0)
		return rc;
	// The old root is stacked on the new one and taken off: needs no directory for it.
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return err_errno(e, errno, "pivot_root");
	return 0;
}

// By system call: libcap-ng would be one more library to load for each sandbox.
static int set_caps(uint64_t mask)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {0};
	for (int i = 0; i < 2; i++)
		d[i].effective = d[i].permitted = (uint32_t)(mask >> (32 * i));
	return syscall(SYS_capset, &h, d) < 0 ? -errno : 0;
}

int jail_limit_caps(uint64_t keep_caps, struct err *e)
{
	int rc = set_caps(keep_caps);
	return rc < 0 ? err_errno(e, rc, "give up capabilities") : 0;
}

// What each step is for (capabilities(7), prctl(2)), and why in this order:
//
// 1. Bounding set: no program that is started later gains a capability from its file. This takes
//    nothing from the process itself: it still needs some to work (step 5).
// 2. Ambient set: no program that is started later is given one by inheritance.
// 3. Securebits. NOROOT: a program that is started as uid 0 is given none for being that.
//    NO_CAP_AMBIENT_RAISE: step 2 is for good. KEEP_CAPS and NO_SETUID_FIXUP stay off and are
//    locked: whoever changes from uid 0 to another uid (jail_become) loses all capabilities by
//    that. The locks cannot be taken off again, and all of it is inherited over fork and exec.
// 4. no_new_privs: set-user-ID bits and capabilities of files mean nothing at an exec. The kernel
//    would let this be done at any time; here it is before the first child exists.
// 5. The process's own capabilities, last: steps 1 and 3 need CAP_SETPCAP, which is not among those
//    that are kept. The inheritable set is emptied by the same call.
int jail_seal(uint64_t keep_caps, struct err *e)
{
	for (unsigned long cap = 0; cap < 64; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
			if (errno == EINVAL && cap > 0)
				break; // past the kernel's last one
			return err_errno(e, errno, "drop capability %lu", cap);
		}
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return err_errno(e, errno, "clear ambient capabilities");
	unsigned long bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
			     SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
			     SECBIT_NO_SETUID_FIXUP_LOCKED;
	if (prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) < 0)
		return err_errno(e, errno, "set securebits");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(e, errno, "set no_new_privs");
	return jail_limit_caps(keep_caps, e);
}

int jail_become(uint32_t uid, uint32_t gid, uint64_t fsize_max)
{
	const struct {
		__rlimit_resource_t what;
		rlim_t max;
	} limits[] = {{RLIMIT_CORE, 0}, {RLIMIT_NOFILE, MAX_FILES}, {RLIMIT_NPROC, MAX_TASKS},
		{RLIMIT_FSIZE, fsize_max ? fsize_max : DEFAULT_FSIZE}};
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		struct rlimit have, want = {limits[i].max, limits[i].max};
		if (getrlimit(limits[i].what, &have) < 0)
			return -errno;
		// Raising a hard limit needs a right that is gone by now.
		want.rlim_cur = want.rlim_max = MIN(want.rlim_max, have.rlim_max);
		if (setrlimit(limits[i].what, &want) < 0)
			return -errno;
	}
	umask(077);
	if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
		return -errno;
	return set_caps(0);
}
