// SPDX-License-Identifier: Apache-2.0
#include "sandbox/machine/fit.h"
#include <stdio.h>

const char *fit_accel(const struct vmm_choice *v)
{
	return v->kvm ? "kvm" : "tcg";
}

bool fit_memory(
	const struct vmm_choice *v, const struct snapshot_info *i, char ret_why[FIT_WHY_SIZE])
{
	if (!str_eq(i->vmm_name, v->name) || !str_eq(i->vmm_state, v->state)) {
		snprintf(ret_why, FIT_WHY_SIZE, "it was written by %s (%s), this host runs %s (%s)",
			i->vmm_name, i->vmm_state, v->name, v->state);
		return false;
	}
	if (i->accel[0] && !str_eq(i->accel, fit_accel(v))) {
		snprintf(ret_why, FIT_WHY_SIZE, "its guest ran on %s, guests here run on %s",
			i->accel, fit_accel(v));
		return false;
	}
	return true;
}
