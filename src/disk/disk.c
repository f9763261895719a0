// SPDX-License-Identifier: Apache-2.0
#include "disk/disk.h"
#include <endian.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include "base/fault.h"
#include "base/file.h"
#include "base/id.h"
#include "base/proc.h"
#include "base/str.h"

#define RESIZE_TIMEOUT_MS 120000

// For file systems where copy_file_range does not work between these two files.
static int copy_range_by_hand(int in, int out, off_t from, off_t to)
{
	enum { CHUNK = 1 << 20 };
	_cleanup_free_ char *buf = malloc(CHUNK);
	if (!buf)
		return -ENOMEM;
	while (from < to) {
		size_t want = (size_t)MIN(to - from, (off_t)CHUNK);
		ssize_t n = RETRY_EINTR(pread(in, buf, want, from));
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO; // the source became shorter meanwhile
		for (ssize_t done = 0; done < n;) {
			ssize_t w = RETRY_EINTR(
				pwrite(out, buf + done, (size_t)(n - done), from + done));
			if (w < 0)
				return -errno;
			done += w;
		}
		from += n;
	}
	return 0;
}

static int copy_range(int in, int out, off_t from, off_t to)
{
	while (from < to) {
		off_t a = from, b = from;
		ssize_t n = RETRY_EINTR(copy_file_range(
			in, &a, out, &b, (size_t)MIN(to - from, (off_t)1 << 30), 0));
		if (n < 0) {
			if (errno == EXDEV || errno == EINVAL || errno == ENOSYS ||
				errno == EOPNOTSUPP)
				return copy_range_by_hand(in, out, from, to);
			return -errno;
		}
		if (n == 0) // some pseudo file systems; the reads tell
			return copy_range_by_hand(in, out, from, to);
		from += n;
	}
	return 0;
}

// The data extents only; out is empty and ends with the same size and holes.
static int copy_sparse(int in, int out, off_t size)
{
	if (ftruncate(out, size) < 0)
		return -errno;
	for (off_t at = 0; at < size;) {
		off_t data = lseek(in, at, SEEK_DATA), hole = size;
		if (data < 0 && errno == ENXIO)
			break; // nothing but a hole up to the end
		if (data < 0 && errno != EINVAL)
			return -errno;
		if (data < 0)
			data = at; // no SEEK_DATA here: all is data
		else if ((hole = lseek(in, data, SEEK_HOLE)) < 0)
			return -errno;
		int rc = copy_range(in, out, data, MIN(hole, size));
		if (rc < 0)
			return rc;
		at = hole;
	}
	return 0;
}

static bool means_no_reflink(int errnum)
{
	return errnum == EOPNOTSUPP || errnum == ENOTTY || errnum == EXDEV || errnum == EINVAL ||
	       errnum == ENOSYS;
}

// Makes the empty file out what in is: by sharing blocks, or by copying the data extents. size is
// in's.
static int fill(int in, int out, off_t size, enum disk_clone_method *ret)
{
	*ret = DISK_CLONE_REFLINK;
	if (fault_hit("disk.reflink", NULL) == 0) {
		if (ioctl(out, FICLONE, in) == 0)
			return 0;
		if (!means_no_reflink(errno))
			return -errno;
	}
	*ret = DISK_CLONE_SPARSE;
	return copy_sparse(in, out, size);
}

int disk_clone(int dirfd, const char *src, const char *dst, uint64_t size,
	enum disk_clone_method *ret, struct err *e)
{
	enum disk_clone_method method;
	struct stat st;
	if (size > INT64_MAX)
		return err_set(e, ERR_INVALID, "disk of %" PRIu64 " bytes: too large", size);
	_cleanup_close_ int in = openat(dirfd, src, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (in < 0 || fstat(in, &st) < 0)
		return err_errno(e, errno, "disk image %s", src);
	if (!S_ISREG(st.st_mode))
		return err_set(e, ERR_INVALID, "disk image %s: not a regular file", src);
	_cleanup_close_ int out = openat(dirfd, dst, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (out < 0)
		return err_errno(e, errno, "create disk %s", dst);
	int rc = fill(in, out, st.st_size, &method);
	if (rc == 0 && size > (uint64_t)st.st_size && ftruncate(out, (off_t)size) < 0)
		rc = -errno;
	if (rc < 0) {
		unlinkat(dirfd, dst, 0);
		return err_errno(e, rc, "copy disk %s to %s", src, dst);
	}
	if (ret)
		*ret = method;
	return 0;
}

// Opens the file that a jail left: it is whatever the jail made of that name.
static int open_foreign(int dirfd, const char *name, uint64_t max, struct stat *ret, struct err *e)
{
	_cleanup_close_ int fd = file_open_beneath(
		dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(e, fd, "%s", name);
	if (fstat(fd, ret) < 0)
		return err_errno(e, errno, "%s", name);
	if (!S_ISREG(ret->st_mode))
		return err_set(e, ERR_INVALID, "%s: not a regular file", name);
	if ((uint64_t)ret->st_size > max)
		return err_set(e, ERR_TOO_LARGE, "%s: %jd bytes; at most %" PRIu64, name,
			(intmax_t)ret->st_size, max);
	return TAKE_FD(fd);
}

// The writer may have made the file longer between fstat and FICLONE.
static int take_into(int in, const struct stat *st, int out, mode_t mode, uint64_t max)
{
	enum disk_clone_method method;
	struct stat got;
	int rc = fill(in, out, st->st_size, &method);
	if (rc < 0)
		return rc;
	if (fstat(out, &got) < 0 || fchmod(out, mode) < 0)
		return -errno;
	return (uint64_t)got.st_size > max ? -EFBIG : 0;
}

int disk_take(int from_dir, const char *from, int to_dir, const char *to, mode_t mode, uint64_t max,
	struct err *e)
{
	char tmp[NAME_MAX + 1];
	struct stat st;
	if (str_format(tmp, sizeof tmp, "%s" DISK_TAKE_SUFFIX, to) < 0)
		return err_set(e, ERR_INVALID, "%s: the name is too long", to);
	_cleanup_close_ int in = open_foreign(from_dir, from, max, &st, e);
	if (in < 0)
		return in;
	unlinkat(to_dir, tmp, 0); // of an attempt that was killed
	_cleanup_close_ int out =
		openat(to_dir, tmp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (out < 0)
		return err_errno(e, errno, "%s", tmp);
	int rc = take_into(in, &st, out, mode, max);
	if (rc == 0 && renameat(to_dir, tmp, to_dir, to) < 0)
		rc = -errno;
	if (rc < 0) {
		unlinkat(to_dir, tmp, 0);
		return err_errno(e, rc, "take %s", from);
	}
	return 0;
}

// An open file in dirfd without a name.
static int open_unnamed(int dirfd)
{
	int fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd < 0 ? -errno : fd;
	char name[64] = ".probe.", uuid[UUID_SIZE];
	id_new_uuid(uuid);
	snprintf(name, sizeof name, ".probe.%s", uuid);
	fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	unlinkat(dirfd, name, 0);
	return fd;
}

int disk_probe(int dirfd, bool *ret_reflink, bool *ret_holes, struct err *e)
{
	enum { BLOCK = 4096 };
	char data[3 * BLOCK];
	memset(data, 'x', sizeof data);
	_cleanup_close_ int a = open_unnamed(dirfd), b = open_unnamed(dirfd);
	if (a < 0 || b < 0)
		return err_errno(e, a < 0 ? a : b, "make a file to probe the data directory");
	int rc = file_write_full(a, data, sizeof data);
	if (rc < 0)
		return err_errno(e, rc, "write a file to probe the data directory");
	bool reflink = fault_hit("disk.reflink", NULL) == 0 && ioctl(b, FICLONE, a) == 0;
	*ret_holes = fallocate(a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, BLOCK, BLOCK) == 0 &&
		     lseek(a, 0, SEEK_HOLE) == BLOCK &&
		     lseek(a, BLOCK, SEEK_DATA) == (off_t)2 * BLOCK;
	*ret_reflink = reflink;
	return 0;
}

int disk_usage(int dirfd, const char *path, uint64_t *ret)
{
	struct stat st;
	if (fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	*ret = (uint64_t)st.st_blocks * 512;
	return 0;
}

// The size of an ext4 file system by its superblock (at byte 1024; offsets from the kernel's
// fs/ext4/ext4.h). 0 or -EBADMSG.
static int ext4_size(const unsigned char sb[1024], uint64_t *ret)
{
	uint32_t lo, hi, incompat, log_block;
	uint16_t magic;
	memcpy(&lo, sb + 0x04, sizeof lo);
	memcpy(&log_block, sb + 0x18, sizeof log_block);
	memcpy(&magic, sb + 0x38, sizeof magic);
	memcpy(&incompat, sb + 0x60, sizeof incompat);
	memcpy(&hi, sb + 0x150, sizeof hi);
	uint64_t blocks = le32toh(lo);
	if (le32toh(incompat) & 0x80) // 64bit
		blocks |= (uint64_t)le32toh(hi) << 32;
	if (le16toh(magic) != 0xef53 || le32toh(log_block) > 6 ||
		__builtin_mul_overflow(blocks, 1024ull << le32toh(log_block), ret))
		return -EBADMSG;
	return 0;
}

int disk_grow_ext4(const char *path, struct err *e)
{
	unsigned char sb[1024];
	uint64_t now = 0;
	struct stat st;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "grow %s", path);
	ssize_t n = RETRY_EINTR(pread(fd, sb, sizeof sb, 1024));
	if (n < 0)
		return err_errno(e, errno, "read %s", path);
	if (n != sizeof sb || ext4_size(sb, &now) < 0)
		return err_set(e, ERR_INVALID, "%s holds no ext4 file system", path);
	// A remainder that resize2fs could not use either (less than a block) is not worth a start.
	if (now + 65536 > (uint64_t)st.st_size)
		return 0;
	const char *const argv[] = {"/usr/sbin/resize2fs", "-f", path, NULL};
	int rc = proc_run(argv, NULL, 0, RESIZE_TIMEOUT_MS, NULL, e);
	return err_prefix(e, rc, "grow the file system in %s", path);
}
