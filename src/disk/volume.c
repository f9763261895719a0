// SPDX-License-Identifier: Apache-2.0
// How this works: the image is built as a file without a name (O_TMPFILE) that gets its name when
// all is in it, so that a killed "setup" leaves nothing. mkfs.xfs reaches it, the list of files to
// put inside (a "protofile") and the marker's text through /proc/<pid>/fd: no mount is needed to
// write the marker. Mounting configures a free loop device with autoclear and keeps it open until
// the mount holds it; unmounting is then all that must be undone, by whomever. The image's own lock
// orders two programs that mount it at once: XFS under two loop devices would be destroyed.
#include <fcntl.h>
#include <inttypes.h>
#include <linux/loop.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include "base/fault.h"
#include "base/file.h"
#include "base/id.h"
#include "base/json.h"
#include "base/proc.h"
#include "base/str.h"
#include "disk/disk.h"

#define MIN_SIZE (1ull << 30)
#define FALLOCATE_STEP (1ull << 30)
#define MKFS_TIMEOUT_MS 300000
// Logical sectors of the loop device and sector size of XFS: suits direct I/O to any disk.
#define SECTOR_SIZE 4096
#define LOOP_MAJOR 7
#define DATA_DIR_MODE 0700 // guests' memory and disks: what a jail needs is bound into it by root

static char *marker_text(const char *uuid, uint64_t epoch, const char *journal)
{
	return str_printf("{\"uuid\":\"%s\",\"format_version\":%d,\"epoch\":%" PRIu64
			  ",\"journal\":\"%s\"}\n",
		uuid, VOLUME_FORMAT_VERSION, epoch, journal);
}

// An anonymous file with that text; descriptor or -errno.
static int memfd_with(const char *text)
{
	_cleanup_close_ int fd = memfd_create("stasis", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = file_write_full(fd, text, strlen(text));
	return rc < 0 ? rc : TAKE_FD(fd);
}

static int allocate(int fd, uint64_t size, disk_progress_fn progress, void *ctx, const char *image,
	struct err *e)
{
	struct statvfs vfs;
	if (fstatvfs(fd, &vfs) < 0)
		return err_errno(e, errno, "file system of %s", image);
	uint64_t avail = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	if (avail < size)
		return err_errno(e, ENOSPC,
			"%s: %" PRIu64 " MiB wanted, %" PRIu64 " MiB free: choose a smaller size",
			image, size >> 20, avail >> 20);
	for (uint64_t done = 0; done < size;) {
		uint64_t step = MIN(size - done, FALLOCATE_STEP);
		if (progress)
			progress(ctx, "allocating", done, size);
		if (RETRY_EINTR(fallocate(fd, 0, (off_t)done, (off_t)step)) < 0)
			return err_errno(
				e, errno, "allocate %" PRIu64 " MiB for %s", size >> 20, image);
		done += step;
	}
	if (progress)
		progress(ctx, "allocating", size, size);
	return 0;
}

static int make_xfs(int fd, struct err *e)
{
	char uuid[UUID_SIZE], target[64], proto_path[64], uuid_opt[64];
	id_new_uuid(uuid);
	_cleanup_free_ char *marker = marker_text(uuid, 0, "");
	_cleanup_close_ int marker_fd = marker ? memfd_with(marker) : -ENOMEM;
	if (marker_fd < 0)
		return err_errno(e, marker_fd, "marker of the volume");
	// xfs_mkfs(8): a boot file, two unused numbers, the root directory, its files, "$".
	_cleanup_free_ char *proto =
		str_printf("/dev/null\n0 0\nd--%o 0 0\n%s ---644 0 0 /proc/%d/fd/%d\n$\n",
			DATA_DIR_MODE, VOLUME_MARKER, (int)getpid(), marker_fd);
	_cleanup_close_ int proto_fd = proto ? memfd_with(proto) : -ENOMEM;
	if (proto_fd < 0)
		return err_errno(e, proto_fd, "list of files of the volume");
	snprintf(target, sizeof target, "/proc/%d/fd/%d", (int)getpid(), fd);
	snprintf(proto_path, sizeof proto_path, "/proc/%d/fd/%d", (int)getpid(), proto_fd);
	snprintf(uuid_opt, sizeof uuid_opt, "reflink=1,uuid=%s", uuid);
	// -K: no discard, which would give the allocated blocks back.
	const char *const argv[] = {"/usr/sbin/mkfs.xfs", "-q", "-K", "-m", uuid_opt, "-s",
		"size="
		"4096",
		"-L", "stasis", "-p", proto_path, target, NULL};
	_Static_assert(SECTOR_SIZE == 4096, "the mkfs option above");
	return proc_run(argv, NULL, 0, MKFS_TIMEOUT_MS, NULL, e);
}

int volume_create(
	const char *image, uint64_t size, disk_progress_fn progress, void *ctx, struct err *e)
{
	if (size < MIN_SIZE || size > INT64_MAX)
		return err_set(e, ERR_INVALID, "a data volume needs at least 1 GiB");
	size -= size % SECTOR_SIZE;
	if (file_exists(AT_FDCWD, image))
		return err_errno(e, EEXIST, "%s: remove it first (stasis setup --remove)", image);
	const char *slash = strrchr(image, '/');
	_cleanup_free_ char *dir = !slash	    ? strdup(".")
				   : slash == image ? strdup("/")
						    : strndup(image, (size_t)(slash - image));
	if (!dir)
		return err_errno(e, ENOMEM, "create %s", image);
	_cleanup_close_ int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(e, errno, "create a file in %s", dir);
	int rc = allocate(fd, size, progress, ctx, image, e);
	if (rc < 0)
		return rc;
	if (progress)
		progress(ctx, "making the file system", 0, 1);
	rc = make_xfs(fd, e);
	if (rc < 0)
		return err_prefix(e, rc, "%s", image);
	if (fsync(fd) < 0)
		return err_errno(e, errno, "write %s", image);
	rc = fault_hit("volume.before_link", e);
	if (rc < 0)
		return rc;
	char self[64];
	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, self, AT_FDCWD, image, AT_SYMLINK_FOLLOW) < 0)
		return err_errno(e, errno, "create %s", image);
	rc = file_fsync_dir(AT_FDCWD, dir);
	if (rc < 0) {
		unlink(image);
		return err_errno(e, rc, "write %s", dir);
	}
	if (progress)
		progress(ctx, "making the file system", 1, 1);
	return 0;
}

// --- what is mounted at a directory

enum mounted {
	MOUNTED_NOTHING,
	MOUNTED_OTHER,
	MOUNTED_LOOP, // a loop device; its number in *ret_loop
};

static int dir_mounted(const char *dir, enum mounted *ret, dev_t *ret_dev, struct err *e)
{
	struct stat st, up;
	*ret = MOUNTED_NOTHING;
	_cleanup_close_ int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 || fstat(fd, &st) < 0 || fstatat(fd, "..", &up, 0) < 0)
		return err_errno(e, errno, "data directory %s", dir);
	*ret_dev = st.st_dev;
	if (st.st_dev != up.st_dev || st.st_ino == up.st_ino)
		*ret = major(st.st_dev) == LOOP_MAJOR ? MOUNTED_LOOP : MOUNTED_OTHER;
	return 0;
}

// "/dev/loop3" for its device number. 0 or -errno.
static int loop_path(dev_t dev, char out[32])
{
	char link[64], target[4096];
	snprintf(link, sizeof link, "/sys/dev/block/%u:%u", major(dev), minor(dev));
	ssize_t n = readlink(link, target, sizeof target - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	const char *name = strrchr(target, '/');
	return str_format(out, 32, "/dev/%s", name ? name + 1 : target);
}

// The kernel tells the number as it encodes it for user space (huge_encode_dev).
static bool loop_has_file(const struct loop_info64 *info, const struct stat *st)
{
	return info->lo_inode == st->st_ino && info->lo_device == st->st_dev;
}

// Is that file behind the loop device?
static int loop_is_backed_by(dev_t dev, const char *image, bool *ret)
{
	char path[32];
	struct stat st;
	struct loop_info64 info;
	*ret = false;
	if (stat(image, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	int rc = loop_path(dev, path);
	if (rc < 0)
		return rc;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, LOOP_GET_STATUS64, &info) < 0)
		return -errno;
	*ret = loop_has_file(&info, &st);
	return 0;
}

// --- mounting

// Does a directory of ours, in this mount namespace, show the device?
static int device_is_mounted(dev_t dev, bool *ret)
{
	char word[32];
	_cleanup_strbuf_ struct strbuf mounts = {0};
	int rc = file_read(AT_FDCWD, "/proc/self/mountinfo", 16 << 20, &mounts);
	snprintf(word, sizeof word, " %u:%u ", major(dev), minor(dev));
	*ret = rc == 0 && strstr(mounts.data, word);
	return rc;
}

// The loop device that the image is still attached to: unmounted here, but held by a process with a
// copy of our mounts (a jail that is being made, a container). XFS mounts the same device again,
// and refuses the same file system on a second one. *ret_fd -1: there is none.
static int loop_find(const char *image, char ret_path[32], int *ret_fd, struct err *e)
{
	struct stat st;
	_cleanup_closedir_ DIR *d = opendir("/sys/block");
	*ret_fd = -1;
	if (!d || stat(image, &st) < 0)
		return err_errno(e, errno, "loop devices of %s", image);
	for (struct dirent *de; (de = readdir(d));) {
		struct loop_info64 info;
		if (!str_starts(de->d_name, "loop") ||
			str_format(ret_path, 32, "/dev/%s", de->d_name) < 0)
			continue;
		_cleanup_close_ int fd = open(ret_path, O_RDWR | O_CLOEXEC);
		if (fd < 0 || ioctl(fd, LOOP_GET_STATUS64, &info) < 0)
			continue; // free, or somebody else's
		if (!loop_has_file(&info, &st) || info.lo_offset || info.lo_sizelimit ||
			!(info.lo_flags & LO_FLAGS_AUTOCLEAR))
			continue;
		struct stat loop;
		bool here = false;
		int rc = fstat(fd, &loop) < 0 ? -errno : device_is_mounted(loop.st_rdev, &here);
		if (rc < 0)
			return err_errno(e, rc, "mounts of %s", ret_path);
		if (here)
			return err_set(
				e, ERR_CONFLICT, "%s is mounted elsewhere (%s)", image, ret_path);
		*ret_fd = TAKE_FD(fd);
		return 0;
	}
	return 0;
}

// Attaches the image to a free loop device. The caller keeps *ret_fd open until something else
// holds the device: the last close detaches it.
static int loop_attach(
	int image_fd, const char *image, char ret_path[32], int *ret_fd, struct err *e)
{
	enum { TRIES = 64 };
	_cleanup_close_ int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return err_errno(
			e, errno, "/dev/loop-control: no loop devices here (modprobe loop)");
	for (int i = 0; i < TRIES; i++) {
		int n = ioctl(control, LOOP_CTL_GET_FREE);
		if (n < 0)
			return err_errno(e, errno, "find a free loop device");
		snprintf(ret_path, 32, "/dev/loop%d", n);
		_cleanup_close_ int fd = open(ret_path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			return err_errno(e, errno, "open %s", ret_path);
		struct loop_config c = {
			.fd = (uint32_t)image_fd,
			.block_size = SECTOR_SIZE,
			.info = {.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO},
		};
		snprintf((char *)c.info.lo_file_name, sizeof c.info.lo_file_name, "%s", image);
		if (ioctl(fd, LOOP_CONFIGURE, &c) == 0) {
			// A discard (fstrim) would punch holes into the image, and the host could
			// run full under it after all.
			char limit[80];
			snprintf(limit, sizeof limit, "/sys/block/%s/queue/discard_max_bytes",
				ret_path + strlen("/dev/"));
			int rc = file_write_existing(AT_FDCWD, limit, "0");
			if (rc < 0)
				return err_errno(e, rc, "switch discard off for %s", ret_path);
			*ret_fd = TAKE_FD(fd);
			return 0;
		}
		if (errno != EBUSY) // EBUSY: somebody else was faster
			return err_errno(e, errno, "attach %s to %s", image, ret_path);
	}
	return err_errno(e, EBUSY, "find a free loop device for %s", image);
}

static int dir_is_empty(const char *path)
{
	_cleanup_closedir_ DIR *d = opendir(path);
	if (!d)
		return -errno;
	errno = 0;
	for (struct dirent *de; (de = readdir(d));)
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
			return false;
	return errno ? -errno : true;
}

int volume_mount(const char *image, const char *data_dir, struct err *e)
{
	enum mounted what;
	dev_t dev;
	bool ours;
	_cleanup_close_ int fd = open(image, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "data volume %s", image);
	if (RETRY_EINTR(flock(fd, LOCK_EX)) < 0)
		return err_errno(e, errno, "lock %s", image);
	int rc = dir_mounted(data_dir, &what, &dev, e);
	if (rc < 0)
		return rc;
	if (what == MOUNTED_LOOP) {
		rc = loop_is_backed_by(dev, image, &ours);
		if (rc < 0)
			return err_errno(e, rc, "look at what is mounted at %s", data_dir);
		if (ours)
			return 0;
	}
	if (what != MOUNTED_NOTHING)
		return err_set(e, ERR_CONFLICT, "something other than %s is mounted at %s", image,
			data_dir);
	rc = file_mkdir_p(AT_FDCWD, data_dir, DATA_DIR_MODE);
	if (rc < 0)
		return err_errno(e, rc, "make %s", data_dir);
	rc = dir_is_empty(data_dir);
	if (rc < 0)
		return err_errno(e, rc, "read %s", data_dir);
	if (!rc)
		return err_set(e, ERR_CONFLICT,
			"%s is not empty: mounting the data volume would hide its files", data_dir);
	char loop[32];
	_cleanup_close_ int loop_fd = -1;
	// The loop device keeps the open file it is given, and the lock is a property of the open
	// file: given ours, it would hold the lock for as long as it is attached.
	_cleanup_close_ int backing = open(image, O_RDWR | O_CLOEXEC);
	if (backing < 0)
		return err_errno(e, errno, "data volume %s", image);
	rc = loop_find(image, loop, &loop_fd, e);
	if (rc == 0 && loop_fd < 0)
		rc = loop_attach(backing, image, loop, &loop_fd, e);
	if (rc < 0)
		return rc;
	if (mount(loop, data_dir, "xfs", MS_NOATIME | MS_NODEV | MS_NOSUID, NULL) < 0)
		return err_errno(e, errno,
			"mount %s at %s (is it mounted elsewhere, or damaged? see the kernel's "
			"log)",
			image, data_dir);
	struct volume_info info;
	rc = volume_open(data_dir, &info, e);
	if (rc < 0)
		umount2(data_dir, UMOUNT_NOFOLLOW);
	return rc;
}

// --- unmounting

// Does a link below /proc/<pid> lead into the file system dev?
static bool proc_link_in(int pid_dir, const char *link, dev_t dev)
{
	struct stat st;
	return fstatat(pid_dir, link, &st, 0) == 0 && st.st_dev == dev;
}

static bool proc_uses(int pid_dir, dev_t dev)
{
	if (proc_link_in(pid_dir, "cwd", dev) || proc_link_in(pid_dir, "root", dev) ||
		proc_link_in(pid_dir, "exe", dev))
		return true;
	int fd = openat(pid_dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		safe_close(fd);
	for (struct dirent *de; d && (de = readdir(d));)
		if (de->d_name[0] != '.' && proc_link_in(dirfd(d), de->d_name, dev))
			return true;
	return false;
}

// "process 12 (qemu-system-x86)" of one that has the file system in use; empty when none is found.
static void find_user(dev_t dev, char *out, size_t size)
{
	_cleanup_closedir_ DIR *proc = opendir("/proc");
	uint64_t pid;
	out[0] = '\0';
	for (struct dirent *de; proc && (de = readdir(proc));) {
		if (str_to_u64(de->d_name, INT32_MAX, &pid) < 0)
			continue;
		_cleanup_close_ int dir =
			openat(dirfd(proc), de->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0 || !proc_uses(dir, dev))
			continue;
		_cleanup_free_ char *name = NULL;
		file_read_line(dir, "comm", &name);
		snprintf(out, size, " by process %s (%s)", de->d_name, name ? name : "?");
		return;
	}
}

int volume_unmount(const char *data_dir, struct err *e)
{
	enum mounted what;
	dev_t dev;
	char user[128];
	int rc = dir_mounted(data_dir, &what, &dev, e);
	if (rc < 0 || what == MOUNTED_NOTHING)
		return rc;
	if (what == MOUNTED_OTHER)
		return err_set(e, ERR_CONFLICT, "what is mounted at %s is no data volume of ours",
			data_dir);
	if (umount2(data_dir, UMOUNT_NOFOLLOW) == 0)
		return 0;
	rc = -errno;
	if (rc != -EBUSY)
		return err_errno(e, rc, "unmount %s", data_dir);
	find_user(dev, user, sizeof user);
	return err_errno(e, rc, "unmount %s: in use%s", data_dir, user);
}

int volume_remove(const char *image, const char *data_dir, struct err *e)
{
	enum mounted what;
	dev_t dev;
	bool ours = false;
	int rc = dir_mounted(data_dir, &what, &dev, e);
	if (rc < 0)
		return rc;
	if (what == MOUNTED_LOOP && file_exists(AT_FDCWD, image)) {
		rc = loop_is_backed_by(dev, image, &ours);
		if (rc < 0)
			return err_errno(e, rc, "look at what is mounted at %s", data_dir);
	}
	if (what != MOUNTED_NOTHING && !ours)
		return err_set(e, ERR_CONFLICT, "something other than %s is mounted at %s", image,
			data_dir);
	rc = volume_unmount(data_dir, e);
	if (rc < 0)
		return rc;
	if (unlink(image) < 0 && errno != ENOENT)
		return err_errno(e, errno, "remove %s", image);
	return 0;
}

// --- the marker

int volume_init_dir(const char *data_dir, struct err *e)
{
	char uuid[UUID_SIZE];
	struct volume_info info;
	int rc = file_mkdir_p(AT_FDCWD, data_dir, DATA_DIR_MODE);
	if (rc < 0)
		return err_errno(e, rc, "make %s", data_dir);
	_cleanup_close_ int dir = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_errno(e, errno, "open %s", data_dir);
	if (file_exists(dir, VOLUME_MARKER))
		return volume_open(data_dir, &info, e);
	id_new_uuid(uuid);
	_cleanup_free_ char *text = marker_text(uuid, 0, "");
	rc = text ? file_write_atomic(dir, VOLUME_MARKER, text, strlen(text), 0644) : -ENOMEM;
	return rc < 0 ? err_errno(e, rc, "write %s/%s", data_dir, VOLUME_MARKER) : 0;
}

int volume_set_epoch(
	int data_fd, struct volume_info *info, uint64_t epoch, const char *journal, struct err *e)
{
	_cleanup_free_ char *text = marker_text(info->uuid, epoch, journal);
	int rc = text ? file_write_atomic(data_fd, VOLUME_MARKER, text, strlen(text), 0644)
		      : -ENOMEM;
	if (rc < 0)
		return err_errno(e, rc, "write %s", VOLUME_MARKER);
	info->epoch = epoch;
	snprintf(info->journal, sizeof info->journal, "%s", journal);
	return 0;
}

int volume_open(const char *data_dir, struct volume_info *ret, struct err *e)
{
	struct volume_info info = {0};
	struct stat st;
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_json_ json_t *json = NULL;
	const char *uuid = "", *journal = "";
	uint64_t version = 0;
	const struct json_field fields[] = {
		{"epoch", JF_U64, &info.epoch},
		{"journal", JF_STRING, &journal, .max = sizeof info.journal - 1},
		{"uuid", JF_STRING, &uuid, .required = true},
		{"format_version", JF_U64, &version, .required = true, .min = 1, .max = UINT32_MAX},
	};
	_cleanup_close_ int dir = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = dir < 0 ? -errno : file_read(dir, VOLUME_MARKER, 4096, &text);
	if (rc == -ENOENT)
		return err_set(e, ERR_UNAVAILABLE,
			"%s has no %s: the data volume is not mounted, or was never made (run "
			"`stasis setup`)",
			data_dir, VOLUME_MARKER);
	if (rc < 0 || fstat(dir, &st) < 0)
		return err_errno(e, rc < 0 ? rc : errno, "read %s/%s", data_dir, VOLUME_MARKER);
	rc = json_parse_object(text.data, strlen(text.data), &json, e);
	if (rc == 0) // a newer format may have more fields
		rc = json_read_fields(json, fields, ARRAY_SIZE(fields), true, e);
	if (rc == 0 && version > VOLUME_FORMAT_VERSION)
		rc = err_set(e, ERR_INVALID,
			"format version %" PRIu64 " was made by a newer Stasis (this one knows %d)",
			version, VOLUME_FORMAT_VERSION);
	if (rc == 0 && !id_is_uuid(uuid))
		rc = err_set(e, ERR_INVALID, "uuid: is none");
	if (rc < 0)
		return err_prefix(e, rc, "%s/%s", data_dir, VOLUME_MARKER);
	snprintf(info.uuid, sizeof info.uuid, "%s", uuid);
	snprintf(info.journal, sizeof info.journal, "%s", journal);
	info.format_version = (unsigned)version;
	info.loop = major(st.st_dev) == LOOP_MAJOR;
	if (info.loop && (rc = loop_path(st.st_dev, info.loop_device)) < 0)
		return err_errno(e, rc, "loop device of %s", data_dir);
	*ret = info;
	return 0;
}
