// SPDX-License-Identifier: Apache-2.0
// What a machine is made of.
#pragma once
#include "base/fault.h"
#include "sandbox/machine/source.h"

struct machine_plan {
	const char *operation;	      // "create", "resume": prefix of the fault points
	const struct image_info *img; // to boot; NULL: load src
	const struct source *src;     // NULL: the disk is the image's
	const char *token;
	bool replaces_dns; // also where the user of a snapshot has written /etc/resolv.conf
	json_t *env;	   // may be NULL
	// Set where the memory of src is what failed: damaged, or not taken by the VMM. NULL: not
	// asked.
	bool *ret_refused;
};

// A fault point behind a step that operations share: "create.after_slot", "resume.after_slot".
static inline int plan_fault(const struct machine_plan *p, const char *step, struct err *e)
{
	char name[64];
	snprintf(name, sizeof name, "%s.%s", p->operation, step);
	return fault_hit(name, e);
}
