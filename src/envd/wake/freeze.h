// SPDX-License-Identifier: Apache-2.0
// What a snapshot needs of the guest: its processes stand still, its disks are synced.
#pragma once
#include "http/server.h"

#define FREEZE_LIMIT_NS (10 * 1000000000ull)

// One line of /proc/self/mountinfo: true when it is a file system on a device, writable, and not
// served by a process (which may be frozen). *ret_device is then major << 32 | minor, *ret_path its
// mount point, unescaped, cut out of the line in place.
bool freeze_mount_needs_sync(char *line, uint64_t *ret_device, char **ret_path);
// Writes back all file systems of our mount namespace that are on devices, each once, the ones
// mounted last first: they may lie in files of the others.
int freeze_sync_disks(struct err *e);

// The calls; ctx is the struct agent. What was frozen stays so until a thaw, a failure leaves
// nothing frozen.
void freeze_post(struct http_request *req, void *ctx);
void thaw_post(struct http_request *req, void *ctx);
