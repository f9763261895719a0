// SPDX-License-Identifier: Apache-2.0
// Whether an accelerator can really run a guest here: that /dev/kvm opens proves nothing.
#pragma once
#include "base/err.h"

// Runs a tiny guest that switches to 64-bit mode, computes, and tells its result by QEMU's exit
// status. 0, or -errno with the reason. Takes 2 s at most.
int probe_accel(const char *qemu, const char *accel, struct err *e);
// "7.2.22".
int probe_qemu_version(const char *qemu, char *out, size_t size, struct err *e);

// The guest's ROM, 64 KiB.
extern const unsigned char probe_rom[65536];
