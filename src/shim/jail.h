// SPDX-License-Identifier: Apache-2.0
// The jail of one sandbox and the giving up of rights. For the program stasis-shim only: these
// calls change the calling process for good.
#pragma once
#include "shim/shim.h"

// New mount, IPC and UTS namespaces, a root made for the spec, pivot_root into it; the working
// directory is "/" of the jail. <dir>/root and <dir>/run must exist. Descriptors stay as they are.
int jail_enter(const struct shim_spec *s, struct err *e);

// Nothing started from here on can gain a right: bounding, inheritable and ambient sets emptied,
// securebits locked, no_new_privs. The process itself keeps the capabilities of the mask (bit =
// CAP_*) and loses the others.
int jail_seal(uint64_t keep_caps, struct err *e);
// Gives up all but these; they must be among those held.
int jail_limit_caps(uint64_t keep_caps, struct err *e);
// In a child about to become the VMM: the sandbox's uid and gid, no groups, no capability, resource
// limits. Async-signal-safe.
int jail_become(uint32_t uid, uint32_t gid, uint64_t fsize_max);
