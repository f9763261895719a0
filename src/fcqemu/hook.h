// SPDX-License-Identifier: Apache-2.0
// Client of the thread that ramhook.so runs inside QEMU (fcqemu/ramhook.h).
#pragma once
#include "base/err.h"
#include "fcqemu/dirty.h"

// Writes the ranges to file, each at its own offset; those of zeros as zeros (dense). skip_zeros:
// pages of zeros in the others are left out. timeout_ms is for each 4 MiB: a page server that died
// blocks the thread, and QEMU is lost then.
int hook_write(int control_fd, uint64_t *last_id, int file, const struct dirty_range *ranges,
	size_t n, bool skip_zeros, int timeout_ms, struct err *e);
