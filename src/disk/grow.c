// SPDX-License-Identifier: Apache-2.0
// How this works. File, loop device, file system: each is made larger than what stands on it, in
// this order, while it is in use. What is cut short leaves a lower step larger than the next one,
// which nothing minds, and the same call goes on from there: a step that is done does nothing.
#include <fcntl.h>
#include <inttypes.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include "base/fault.h"
#include "base/proc.h"
#include "base/str.h"
#include "disk/disk.h"

#define STEP (1ull << 30)
#define SECTOR_SIZE 4096u
#define GROWFS_TIMEOUT_MS 300000

// The image is what the mounted volume's loop device has behind it.
static int open_loop(
	const char *image, const struct stat *st, const char *data_dir, int *ret_fd, struct err *e)
{
	struct volume_info info;
	struct loop_info64 li;
	int rc = volume_open(data_dir, &info, e);
	if (rc < 0)
		return rc;
	if (!info.loop)
		return err_set(e, ERR_INVALID,
			"%s is on a file system of its own, not in %s: make that one larger",
			data_dir, image);
	_cleanup_close_ int fd = open(info.loop_device, O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, LOOP_GET_STATUS64, &li) < 0)
		return err_errno(e, errno, "%s", info.loop_device);
	if (li.lo_inode != st->st_ino || li.lo_device != st->st_dev)
		return err_set(e, ERR_CONFLICT, "%s, which is mounted at %s, is not of %s",
			info.loop_device, data_dir, image);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int check_room(
	int fd, const struct stat *st, uint64_t size, const char *image, struct err *e)
{
	struct statvfs vfs;
	uint64_t has = (uint64_t)st->st_blocks * 512, more = size > has ? size - has : 0;
	if (fstatvfs(fd, &vfs) < 0)
		return err_errno(e, errno, "file system of %s", image);
	uint64_t avail = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	if (more > avail)
		return err_errno(e, ENOSPC,
			"%s: %" PRIu64 " MiB more are wanted, the disk has %" PRIu64
			" MiB free: choose a smaller size",
			image, more >> 20, avail >> 20);
	return 0;
}

// All blocks, so that the disk can't run full below it. On failure it is as large as before.
static int grow_file(int fd, const struct stat *st, uint64_t size, const char *image,
	disk_progress_fn progress, void *ctx, struct err *e)
{
	uint64_t was = (uint64_t)st->st_size;
	for (uint64_t done = was, step; done < size; done += step) {
		step = MIN(size - done, STEP);
		if (progress)
			progress(ctx, "allocating", done - was, size - was);
		if (RETRY_EINTR(fallocate(fd, 0, (off_t)done, (off_t)step)) < 0) {
			int rc = err_errno(
				e, errno, "allocate %" PRIu64 " MiB for %s", size >> 20, image);
			return ftruncate(fd, st->st_size) < 0
				       ? err_prefix(e, rc, "and it is larger now")
				       : rc;
		}
	}
	// Its length must not be less than the file system's after a power cut.
	return fsync(fd) < 0 ? err_errno(e, errno, "write %s", image) : 0;
}

int volume_grow(const char *image, const char *data_dir, uint64_t size, disk_progress_fn progress,
	void *ctx, struct err *e)
{
	struct stat st;
	_cleanup_close_ int loop = -1;
	_cleanup_close_ int fd = open(image, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "data volume %s", image);
	if (RETRY_EINTR(flock(fd, LOCK_EX)) < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "lock %s", image);
	size -= size % SECTOR_SIZE;
	int rc = open_loop(image, &st, data_dir, &loop, e);
	if (rc < 0)
		return rc;
	if (size > INT64_MAX || size < (uint64_t)st.st_size)
		return err_set(e, ERR_INVALID,
			"%s has %" PRIu64 " MiB: a volume can be made larger, not smaller", image,
			(uint64_t)st.st_size >> 20);
	rc = check_room(fd, &st, size, image, e);
	if (rc == 0)
		rc = grow_file(fd, &st, size, image, progress, ctx, e);
	if (rc == 0)
		rc = fault_hit("volume.after_allocate", e);
	if (rc < 0)
		return rc;
	if (ioctl(loop, LOOP_SET_CAPACITY) < 0)
		return err_errno(e, errno, "tell the loop device of the size of %s", image);
	rc = fault_hit("volume.after_capacity", e);
	if (rc < 0)
		return rc;
	if (progress)
		progress(ctx, "growing the file system", 0, 1);
	const char *const argv[] = {"/usr/sbin/xfs_growfs", "-d", data_dir, NULL};
	rc = proc_run(argv, NULL, 0, GROWFS_TIMEOUT_MS, NULL, e);
	if (rc == 0 && progress)
		progress(ctx, "growing the file system", 1, 1);
	return rc;
}
