// SPDX-License-Identifier: Apache-2.0
// How this works. The new content goes to a file without a name (O_TMPFILE) of the same directory,
// which is linked to the name when it is whole. Where something is there already, linking cannot
// replace it: the file gets a name of its own first, and is renamed. Only a kill between these two
// calls leaves that name behind (and a kill at any time, where the file system has no O_TMPFILE).
//
// In place, that is by overwriting, is written what cannot be replaced: a file in a directory that
// may not be written, a file that is a mount point. The content is collected in a file without a
// name elsewhere first, so that even then a content that does not arrive destroys nothing.
//
// A rename gives the name a new inode: other hard links of the old file keep the old content.
#include "base/replace.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include "base/file.h"
#include "base/id.h"
#include "base/str.h"

#define MAX_LINKS 40 // as the kernel's
#define MAX_XATTR 65536

// Directory part of path into *ret_dir (a descriptor), the last component into name.
static int split(int dirfd, const char *path, int *ret_dir, char name[NAME_MAX + 1])
{
	const char *slash = strrchr(path, '/');
	const char *base = slash ? slash + 1 : path;
	if (!*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
		return *path ? -EISDIR : -ENOENT;
	if (strlen(base) > NAME_MAX)
		return -ENAMETOOLONG;
	_cleanup_free_ char *dir = strndup(path, (size_t)(base - path));
	if (!dir)
		return -ENOMEM;
	int fd = openat(dirfd, *dir ? dir : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	memmove(name, base, strlen(base) + 1);
	*ret_dir = fd;
	return 0;
}

// Finds the directory and the name that path means.
static int locate(struct replace *r, int dirfd, const char *path)
{
	char target[PATH_MAX];
	int rc = split(dirfd, path, &r->dir, r->name);
	for (int links = 0; rc == 0 && (r->flags & REPLACE_FOLLOW); links++) {
		ssize_t n = readlinkat(r->dir, r->name, target, sizeof target - 1);
		if (n < 0)
			return errno == EINVAL || errno == ENOENT ? 0 : -errno;
		if (links == MAX_LINKS)
			return -ELOOP;
		target[n] = '\0';
		int next = -1;
		rc = split(r->dir, target, &next, r->name);
		if (rc == 0) {
			safe_close(r->dir);
			r->dir = next;
		}
	}
	return rc;
}

static bool is_mount_point(const struct replace *r)
{
	struct statx x;
	return statx(r->dir, r->name, AT_SYMLINK_NOFOLLOW, 0, &x) == 0 &&
	       (x.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) &&
	       (x.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

static int name_part(struct replace *r)
{
	unsigned char random[6];
	char hex[13];
	id_random_bytes(random, sizeof random);
	id_hex(random, sizeof random, hex);
	return str_format(r->part, sizeof r->part, REPLACE_PREFIX "%s.part", hex);
}

static int open_beside(struct replace *r, mode_t mode)
{
	r->fd = openat(r->dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
	if (r->fd >= 0)
		return 0;
	if (errno == EACCES || errno == EPERM || errno == EROFS || errno == ENOSPC ||
		errno == EDQUOT)
		return -errno;
	// No O_TMPFILE here.
	name_part(r);
	r->fd = openat(r->dir, r->part, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (r->fd >= 0)
		return 0;
	r->part[0] = '\0';
	return -errno;
}

// Collects the content elsewhere. The file itself is opened to see whether it could be written.
static int open_elsewhere(struct replace *r)
{
	_cleanup_close_ int target =
		openat(r->dir, r->name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (target < 0)
		return -errno;
	r->in_place = true;
	static const char *const places[] = {"/var/tmp", "/tmp"};
	for (size_t i = 0; r->fd < 0 && i < ARRAY_SIZE(places); i++)
		r->fd = open(places[i], O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
	if (r->fd < 0)
		r->fd = memfd_create("replace", MFD_CLOEXEC);
	return r->fd < 0 ? -errno : 0;
}

static int open_special(struct replace *r, int dirfd, const char *path)
{
	r->special = true;
	r->fd = openat(dirfd, path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
	return r->fd < 0 ? -errno : 0;
}

static int begin(struct replace *r, int dirfd, const char *path, mode_t mode)
{
	struct stat st;
	// Looked at through all links, also those of /proc/self/fd, whose text is no path.
	if ((r->flags & REPLACE_SPECIAL) && fstatat(dirfd, path, &st, 0) == 0 &&
		!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return open_special(r, dirfd, path);
	int rc = locate(r, dirfd, path);
	if (rc < 0)
		return rc;
	if (fstatat(r->dir, r->name, &r->old, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT)
			return -errno;
	} else if (S_ISDIR(r->old.st_mode)) {
		return -EISDIR;
	} else if (!S_ISREG(r->old.st_mode) && !S_ISLNK(r->old.st_mode)) {
		return -EINVAL;
	} else {
		r->exists = S_ISREG(r->old.st_mode);
	}
	if (r->exists && is_mount_point(r))
		return open_elsewhere(r);
	rc = open_beside(r, mode);
	// Whatever the reason why no file can be made there: file systems of the kernel have their
	// own.
	if (rc < 0 && r->exists && rc != -ENOSPC && rc != -EDQUOT) {
		return open_elsewhere(r) < 0 ? rc : 0;
	}
	return rc;
}

int replace_begin(struct replace *r, int dirfd, const char *path, unsigned flags, mode_t mode)
{
	*r = REPLACE_INIT;
	r->flags = flags;
	int rc = begin(r, dirfd, path, mode);
	if (rc < 0)
		replace_abort(r);
	return rc;
}

static void copy_xattrs(int from, int to)
{
	_cleanup_free_ char *names = malloc(MAX_XATTR), *value = malloc(MAX_XATTR);
	ssize_t n = names && value ? flistxattr(from, names, MAX_XATTR) : 0;
	for (char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
		if (strcmp(name, "security.capability") == 0)
			continue;
		ssize_t len = fgetxattr(from, name, value, MAX_XATTR);
		if (len >= 0 && fsetxattr(to, name, value, (size_t)len, 0) < 0)
			continue; // not ours to set
	}
}

void replace_take_old(struct replace *r)
{
	if (!r->exists || r->in_place || r->fd < 0)
		return;
	if (fchown(r->fd, r->old.st_uid, r->old.st_gid) < 0 &&
		fchown(r->fd, (uid_t)-1, r->old.st_gid) < 0) {
		// of another: as a copy of it by this user is
	}
	if (fchmod(r->fd, r->old.st_mode & 0777) < 0)
		return;
	_cleanup_close_ int old =
		openat(r->dir, r->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (old >= 0)
		copy_xattrs(old, r->fd);
}

// Links a file without a name to one.
static int link_fd(struct replace *r, const char *name)
{
	char path[32];
	snprintf(path, sizeof path, "/proc/self/fd/%d", r->fd);
	if (linkat(AT_FDCWD, path, r->dir, name, AT_SYMLINK_FOLLOW) == 0)
		return 0;
	// Without /proc; needs CAP_DAC_READ_SEARCH.
	if (errno == ENOENT && linkat(r->fd, "", r->dir, name, AT_EMPTY_PATH) == 0)
		return 0;
	return -errno;
}

int replace_park(struct replace *r)
{
	if (r->in_place || r->special || r->fd < 0)
		return 0;
	if (!r->part[0]) {
		name_part(r);
		int rc = link_fd(r, r->part);
		if (rc < 0) {
			r->part[0] = '\0';
			return rc;
		}
	}
	r->fd = safe_close(r->fd);
	return 0;
}

// One open, which empties the file: for the files of /proc and /sys, which take a write each, too.
static int write_in_place(struct replace *r)
{
	char buf[65536];
	_cleanup_close_ int to =
		openat(r->dir, r->name, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC);
	if (to < 0 || lseek(r->fd, 0, SEEK_SET) < 0)
		return -errno;
	for (;;) {
		ssize_t n = RETRY_EINTR(read(r->fd, buf, sizeof buf));
		if (n <= 0)
			return n < 0 ? -errno : 0;
		int rc = file_write_full(to, buf, (size_t)n);
		if (rc < 0)
			return rc;
	}
}

static int put_in_place(struct replace *r)
{
	if ((r->flags & REPLACE_SYNC) && r->exists && r->fd >= 0 && fdatasync(r->fd) < 0)
		return -errno;
	if (!r->part[0]) {
		int rc = link_fd(r, r->name);
		if (rc != -EEXIST)
			return rc;
		name_part(r);
		rc = link_fd(r, r->part);
		if (rc < 0) {
			r->part[0] = '\0';
			return rc;
		}
	}
	if (renameat(r->dir, r->part, r->dir, r->name) < 0)
		return -errno;
	r->part[0] = '\0';
	return 0;
}

int replace_commit(struct replace *r)
{
	int rc = 0;
	if (r->special) {
		rc = close(r->fd) < 0 ? -errno : 0;
		r->fd = -1;
	} else {
		rc = r->in_place ? write_in_place(r) : put_in_place(r);
	}
	replace_abort(r);
	return rc;
}

void replace_abort(struct replace *r)
{
	int saved = errno;
	if (r->part[0])
		unlinkat(r->dir, r->part, 0);
	safe_close(r->fd);
	safe_close(r->dir);
	*r = REPLACE_INIT;
	errno = saved;
}
