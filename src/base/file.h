// SPDX-License-Identifier: Apache-2.0
// Files: whole reads with a limit, durable replacement, trees. dirfd may be AT_FDCWD.
#pragma once
#include "base/err.h"
#include "base/str.h"

// Reads to the end (pseudo-files too). -EFBIG above max. The content is NUL-terminated.
int file_read(int dirfd, const char *path, size_t max, struct strbuf *ret);
// A one-line file without its newline; NULL in *ret on error.
int file_read_line(int dirfd, const char *path, char **ret);
// Plain write of a small existing file (/proc, /sys, cgroup): open O_WRONLY, one write.
int file_write_existing(int dirfd, const char *path, const char *text);
// Durable: temporary name beside it, write, fsync, rename, fsync of the directory.
int file_write_atomic(int dirfd, const char *path, const void *data, size_t len, mode_t mode);
int file_fsync_dir(int dirfd, const char *path); // path "." for dirfd itself
// Makes all missing parents too; an existing directory is fine.
int file_mkdir_p(int dirfd, const char *path, mode_t mode);
// A directory that others than its owner may not look into: made if missing (its parents too), and
// one that is there loses all of its mode but what keep has (0700, or 0710 where a group may pass
// through it).
int file_private_dir(int dirfd, const char *path, mode_t keep);
// The same for all directories in path, which stay what they are otherwise; not for what is below.
int file_private_children(int dirfd, const char *path);
// Lets a group pass through a directory of ours, to what in it is the group's; not list it.
int file_let_group_pass(int dirfd, const char *path, gid_t group);
// Removes a file or a whole tree without following links; a missing path is success. Mount points
// are left as they are, with all in them: -EBUSY. What cannot be removed stays with the directories
// above it, everything else goes, and the first error is returned. However deep and wide the tree
// is, it takes about ten descriptors, at most 400 KiB of heap, and little stack (rmtree.c).
int file_rm_rf(int dirfd, const char *path);
// Whether path is there, a link that leads nowhere too: 1, 0 (nothing of that name, or a file where
// a directory would be), or the -errno that keeps it from being known.
int file_there(int dirfd, const char *path);
// For advice only: false also when it cannot be known. Where something is removed, kept or made
// because of the answer, ask file_there.
bool file_exists(int dirfd, const char *path);
// Exclusive lock of a lock file, made if missing; the lock lives as long as the descriptor. -EBUSY
// when another process has it, the pid of the holder (0 unknown) in *ret_holder.
int file_lock(int dirfd, const char *path, int *ret_fd, pid_t *ret_holder);
// read and write until all is done or the end; the count, or -errno.
ssize_t file_read_full(int fd, void *buf, size_t len);
int file_write_full(int fd, const void *buf, size_t len);
// Opens path below dirfd; ".." and absolute links cannot leave it (openat2 RESOLVE_BENEATH).
int file_open_beneath(int dirfd, const char *path, int flags, mode_t mode);
