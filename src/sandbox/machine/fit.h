// SPDX-License-Identifier: Apache-2.0
// Whether this host can load the memory of a snapshot: asked before anything is started.
#pragma once
#include "sandbox/machine/vmm_choice.h"
#include "snapshot/info.h"

#define FIT_WHY_SIZE 300

// "kvm", "tcg": what guests run on here.
const char *fit_accel(const struct vmm_choice *v);
// What the snapshot does not say is taken to fit. False: *ret_why is the reason, half a sentence
// without a full stop.
bool fit_memory(
	const struct vmm_choice *v, const struct snapshot_info *i, char ret_why[FIT_WHY_SIZE]);
