// SPDX-License-Identifier: Apache-2.0
// Files that hold disks: the data volume, copy-on-write copies.
#pragma once
#include <sys/types.h>
#include "base/err.h"

enum disk_clone_method {
	DISK_CLONE_REFLINK, // FICLONE: shares blocks, time independent of size
	DISK_CLONE_SPARSE,  // copy of the data extents (copy_file_range): the last resort
};

// Makes dst (0600, must not exist) a private copy of src; grows it to size bytes when size is
// larger (never shrinks). Not yet fsynced. On error dst is removed. Both paths relative to dirfd.
int disk_clone(int dirfd, const char *src, const char *dst, uint64_t size,
	enum disk_clone_method *ret, struct err *e);
// Takes a file out of a directory in which a jail writes: makes <to> a file of the caller's own,
// with that mode and the bytes that <from> has now. A writer that still holds <from> changes only
// that; it stays where it is, and no name, owner or mode of it matters. Refused are links, all that
// is not a regular file (ERR_INVALID), and more than max bytes (ERR_TOO_LARGE). An older <to> is
// replaced; on error it is untouched. <to> is a name in to_dir, which the jail cannot reach, on the
// same file system. Not yet fsynced. Shares blocks; without reflink it copies the data extents.
#define DISK_TAKE_SUFFIX ".take" // of <to>, while it is made
int disk_take(int from_dir, const char *from, int to_dir, const char *to, mode_t mode, uint64_t max,
	struct err *e);
// Does the file system of dirfd support reflink, and holes of 4 KiB? By trying, in an unlinked
// file.
int disk_probe(int dirfd, bool *ret_reflink, bool *ret_holes, struct err *e);
// Blocks in use, in bytes (st_blocks * 512).
int disk_usage(int dirfd, const char *path, uint64_t *ret);
// Grows the ext4 file system inside the image to its file's size (resize2fs -f, no mount); does
// nothing when it already fills it.
int disk_grow_ext4(const char *path, struct err *e);

// --- the data volume
//
// An XFS (reflink=1) file system in a fully allocated loop file "<image>", mounted at the data
// directory. Loop: direct I/O, autoclear. In-process (LOOP_CTL_GET_FREE, LOOP_CONFIGURE, mount(2));
// only mkfs.xfs is a program. The marker "stasis.volume" (JSON: uuid, format_version, epoch,
// journal) is written inside.
struct volume_info {
	char uuid[37];
	unsigned format_version;
	// Of the database that belongs to this volume (host.db), as it was when the marker was
	// written last; 0 and "" in markers of older versions.
	uint64_t epoch;
	char journal[40];
	bool loop;	      // in a loop file of ours
	char loop_device[32]; // "/dev/loop3"; empty when not mounted through a loop
};
#define VOLUME_FORMAT_VERSION 1
#define VOLUME_MARKER "stasis.volume"

typedef void (*disk_progress_fn)(void *ctx, const char *what, uint64_t done, uint64_t total);
// Makes the image file (fallocate: full size now, so that the host can't run full later) and its
// XFS and marker. Refuses an existing image or a size below 1 GiB. Undone on error.
int volume_create(
	const char *image, uint64_t size, disk_progress_fn progress, void *ctx, struct err *e);
// Mounts image at data_dir (made when missing, must be empty otherwise); success when it already
// is.
int volume_mount(const char *image, const char *data_dir, struct err *e);
// Makes the mounted volume larger, to size bytes, while it is in use. Refuses (nothing is changed)
// what is not mounted, a size below what the image has, and more than its disk has free. Cut short,
// also by a lost power, it is called again: it goes on from there.
int volume_grow(const char *image, const char *data_dir, uint64_t size, disk_progress_fn progress,
	void *ctx, struct err *e);
// Unmounts (-EBUSY with the reason when in use); the loop device goes by autoclear. Success when
// not mounted.
int volume_unmount(const char *data_dir, struct err *e);
// Unmounts and deletes the image.
int volume_remove(const char *image, const char *data_dir, struct err *e);
// Makes a plain directory (that has a file system of its own choice) a data directory: writes the
// marker.
int volume_init_dir(const char *data_dir, struct err *e);
// Replaces the marker, durably; *info is what volume_open read, and has both then.
int volume_set_epoch(
	int data_fd, struct volume_info *info, uint64_t epoch, const char *journal, struct err *e);
// Reads the marker; ERR_UNAVAILABLE when absent ("run stasis setup" ...), ERR_INVALID for a newer
// format.
int volume_open(const char *data_dir, struct volume_info *ret, struct err *e);
