// SPDX-License-Identifier: Apache-2.0
// What of owner, mode, times and extended attributes an archive may set, by its options. path is a
// name in the directory fd, a link itself; NULL: fd. 0 or -errno; what this file system or user
// cannot have is no error.
#pragma once
#include "archive/unpack_options.h"

int attributes_set_owner(
	const struct unpack_options *o, int fd, const char *path, uid_t uid, gid_t gid);
int attributes_set_times(
	const struct unpack_options *o, int fd, const char *path, struct timespec mtime);
void attributes_set_xattrs(
	const struct unpack_options *o, int fd, const struct archive_entry *entry);
mode_t attributes_mode(const struct unpack_options *o, mode_t mode);
