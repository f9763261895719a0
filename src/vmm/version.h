// SPDX-License-Identifier: Apache-2.0
// Versions of the VMM, and what each cannot do. What they can is read from Firecracker's own
// CHANGELOG.md and source.
#pragma once
#include "base/err.h"

struct vmm_version {
	unsigned major, minor, patch;
	bool fcqemu;
	bool before; // built on the way to that number ("-dev", "-rc1"), perhaps without its news
	char text[64];
};

// text: "1.16.1", with whatever follows ("1.17.0-dev"). false: it is no version.
bool vmm_version_parse(const char *text, struct vmm_version *ret);
bool vmm_at_least(const struct vmm_version *v, unsigned major, unsigned minor, unsigned patch);

// Does space that the guest discards become a hole in the disk's file (Firecracker's
// docs/api_requests/block-discard.md, from 1.17: writable drives, engine Sync)?
bool vmm_can_discard(const struct vmm_version *v);
// Is a Diff of a guest of this size right? Before 1.14.2 it was not, with more memory than fits
// below the hole of the devices at 3 GiB: the last page of a region was lost where it was clean.
bool vmm_diff_is_right(const struct vmm_version *v, uint64_t memory_mb);
// Do its guests get "pci=off" without being told (1.13 to now, unless started with --enable-pci)?
bool vmm_adds_pci_off(const struct vmm_version *v);

// Asks a Firecracker program for its version. -ENOENT, -EACCES, or the error says what is wrong
// with the file: it is no program that a jail can run, does not answer, is another program, or is
// older than VMM_OLDEST.
int vmm_program_version(const char *program, struct vmm_version *ret, struct err *e);
#define VMM_OLDEST "1.12"
