// SPDX-License-Identifier: Apache-2.0
// A log file that cannot fill the disk: when it would grow above its limit, the older half is cut
// off. Works on an open descriptor alone, so that it goes on in a jail without the file's path.
#pragma once
#include "base/macro.h"

struct boundlog {
	int fd; // owned; -1: all is dropped
	uint64_t size, max;
};

// Opens or makes the file (0600); what it has is kept, within the limit. 0 or -errno.
int boundlog_open(struct boundlog *l, int dirfd, const char *path, uint64_t max);
// Never fails to its caller: a full disk must not stop what is being logged. What cannot be written
// is dropped.
void boundlog_add(struct boundlog *l, const void *data, size_t len);
void boundlog_done(struct boundlog *l);
