// SPDX-License-Identifier: Apache-2.0
#include "sandbox/machine/fit.h"
#include <stdio.h>

const char *fit_accel(const struct vmm_choice *v)
{
	return v->kvm ? "kvm" : "tcg";
}

// Readings of one rate differ by half of this (greet.c); of two kinds of processor by far more.
#define TSC_PPM 1000

// With KVM the guest has seen the host's own processor. An emulated one is QEMU's, and the same
// everywhere; that its clock runs at another rate is told to the guest (greet.c).
static bool fit_processor(
	const struct vmm_choice *v, const struct snapshot_info *i, char ret_why[FIT_WHY_SIZE])
{
	char missing[200];
	const struct cpu_info *there = &i->cpu, *here = &v->cpu;
	if (there->vendor[0] && here->vendor[0] && !str_eq(there->vendor, here->vendor)) {
		snprintf(ret_why, FIT_WHY_SIZE, "its processor's vendor was %s, here it is %s",
			there->vendor, here->vendor);
		return false;
	}
	if (there->features[0] && here->features[0] &&
		cpu_lacks(there->features, here->features, missing, sizeof missing)) {
		snprintf(ret_why, FIT_WHY_SIZE,
			"its processor (family %u, model %u) had what this one (family %u, model "
			"%u) has not: %s",
			there->family, there->model, here->family, here->model, missing);
		return false;
	}
	// The guest's rate is that of the host where it booted.
	uint64_t guest = i->tsc_khz ? i->tsc_khz : there->tsc_khz, now = here->tsc_khz;
	uint64_t off = guest > now ? guest - now : now - guest;
	if (v->tsc_fixed && guest && now && off * 1000000 > guest * TSC_PPM) {
		snprintf(ret_why, FIT_WHY_SIZE,
			"its time stamp counter ran at %lu kHz, this host's runs at %lu and cannot "
			"be scaled",
			(unsigned long)guest, (unsigned long)now);
		return false;
	}
	return true;
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
	return !v->kvm || fit_processor(v, i, ret_why);
}
