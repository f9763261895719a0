// SPDX-License-Identifier: Apache-2.0
// The cgroup v2 freezer of one cgroup, and what else a snapshot needs of the guest.
//
// How a freeze goes (process_table_freeze holds the steps together): no start of a process passes
// any more and none is under way; the kernel is asked to freeze the cgroup, with all below it; its
// cgroup.events is watched until it says "frozen 1"; then the file systems are synced. A child that
// was born into a frozen cgroup by vfork would hold its parent, a thread of ours, until the thaw:
// hence the gate before the freezer.
#pragma once
#include "base/err.h"

#define FREEZE_LIMIT_NS (10 * 1000000000ull)

struct freezer {
	int freeze_fd, events_fd; // -1: there is none
};

// Never fails: without a cgroup (cgroup_fd -1) or its freezer, freezer_usable is false.
void freezer_init(struct freezer *f, int cgroup_fd);
void freezer_done(struct freezer *f);
static inline bool freezer_usable(const struct freezer *f)
{
	return f->events_fd >= 0;
}
// Asks for it; 0 or -errno.
int freezer_set(const struct freezer *f, bool on);
// It was asked for, by whoever.
bool freezer_is_on(const struct freezer *f);
// Returns when all stand still: 0; -ETIMEDOUT at until_ns (CLOCK_MONOTONIC), -ECANCELED when
// wake_fd is readable, another -errno.
int freezer_wait(const struct freezer *f, uint64_t until_ns, int wake_fd);

// One line of /proc/self/mountinfo: true when it is a file system on a device, writable, and not
// served by a process (which may be frozen). *ret_device is then major << 32 | minor, *ret_path its
// mount point, unescaped, cut out of the line in place.
bool freeze_mount_needs_sync(char *line, uint64_t *ret_device, char **ret_path);
// Writes back all file systems of our mount namespace that are on devices, each once, the ones
// mounted last first: they may lie in files of the others.
int freeze_sync_disks(struct err *e);
