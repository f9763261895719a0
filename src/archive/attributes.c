// SPDX-License-Identifier: Apache-2.0
#include "archive/attributes.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include "base/str.h"

#define MAX_XATTR_VALUE 65536

int attributes_set_owner(
	const struct unpack_options *o, int fd, const char *path, uid_t uid, gid_t gid)
{
	int flags = path ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH;
	if (o->flags & UNPACK_OWNER) {
		if (fchownat(fd, path ? path : "", uid, gid, flags) == 0 || errno == EPERM)
			return 0;
		return -errno;
	}
	if (o->give && fchownat(fd, path ? path : "", o->uid, o->gid, flags) < 0)
		return -errno;
	return 0;
}

mode_t attributes_mode(const struct unpack_options *o, mode_t mode)
{
	return mode & (o->flags & UNPACK_SET_ID ? 07777 : 0777);
}

void attributes_set_xattrs(
	const struct unpack_options *o, int fd, const struct archive_entry *entry)
{
	for (size_t i = 0; i < entry->n_xattrs; i++) {
		const struct archive_xattr *x = &entry->xattrs[i];
		bool ok = (str_starts(x->name, "user.") && (o->flags & UNPACK_XATTRS)) ||
			  (str_starts(x->name, "system.posix_acl_") && (o->flags & UNPACK_ACLS));
		if (ok && x->len <= MAX_XATTR_VALUE &&
			fsetxattr(fd, x->name, x->value, x->len, 0) < 0)
			continue; // this file system has none
	}
}

int attributes_set_times(
	const struct unpack_options *o, int fd, const char *path, struct timespec mtime)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, mtime};
	if (!(o->flags & UNPACK_TIMES))
		return 0;
	int rc = path ? utimensat(fd, path, times, AT_SYMLINK_NOFOLLOW) : futimens(fd, times);
	// A time that this file system cannot have is no reason to fail.
	return rc < 0 && errno != EINVAL && errno != EOVERFLOW && errno != EPERM ? -errno : 0;
}
