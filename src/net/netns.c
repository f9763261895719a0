// SPDX-License-Identifier: Apache-2.0
#include "net/netns.h"
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include "base/file.h"

struct job {
	int netns;
	netns_fn fn;
	void *arg;
	struct err *e;
	int rc;
};

static void *job_main(void *arg)
{
	struct job *j = arg;
	if (j->netns >= 0 && setns(j->netns, CLONE_NEWNET) < 0)
		j->rc = err_errno(j->e, errno, "enter network namespace");
	else if (j->netns < 0 && unshare(CLONE_NEWNET) < 0)
		j->rc = err_errno(j->e, errno, "make network namespace%s",
			errno == EPERM ? " (root is needed)" : "");
	else
		j->rc = j->fn(j->arg, j->e);
	return NULL;
}

int netns_run(int netns, netns_fn fn, void *arg, struct err *e)
{
	struct job j = {netns, fn, arg, e, 0};
	pthread_t t;
	sigset_t all, old;
	// A signal handler of the program must not find itself in another namespace.
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	int rc = pthread_create(&t, NULL, job_main, &j);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return err_errno(e, rc, "start thread");
	pthread_join(t, NULL);
	return j.rc;
}

int netns_open(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct statfs fs;
	if (fd < 0)
		return -errno;
	if (fstatfs(fd, &fs) < 0)
		return -errno;
	return fs.f_type == NSFS_MAGIC ? TAKE_FD(fd) : -ENOENT;
}

int netns_bind(const char *path, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(e, errno, "make %s", path);
	if (mount("/proc/thread-self/ns/net", path, NULL, MS_BIND, NULL) < 0) {
		int rc = err_errno(e, errno, "mount network namespace on %s", path);
		unlink(path);
		return rc;
	}
	return 0;
}

int netns_unbind(const char *path, struct err *e)
{
	// EINVAL: the file of a name whose mount did not happen, or is gone since the last boot.
	if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
		return err_errno(e, errno, "unmount %s", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_errno(e, errno, "remove %s", path);
	return 0;
}

int netns_dir_make(const char *dir, struct err *e)
{
	int rc = file_mkdir_p(AT_FDCWD, dir, 0700);
	if (rc < 0)
		return err_errno(e, rc, "make %s", dir);
	if (mount("", dir, "none", MS_SHARED, NULL) == 0)
		return 0;
	if (errno != EINVAL) // not a mount point yet
		return err_errno(e, errno, "share mounts of %s", dir);
	if (mount(dir, dir, "none", MS_BIND, NULL) < 0)
		return err_errno(e, errno, "bind %s", dir);
	if (mount("", dir, "none", MS_SHARED, NULL) < 0) {
		rc = err_errno(e, errno, "share mounts of %s", dir);
		umount2(dir, MNT_DETACH);
		return rc;
	}
	return 0;
}

int netns_dir_remove(const char *dir, struct err *e)
{
	if (umount2(dir, UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
		return err_errno(e, errno, "unmount %s", dir);
	if (rmdir(dir) < 0 && errno != ENOENT)
		return err_errno(e, errno, "remove %s", dir);
	return 0;
}
