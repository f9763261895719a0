// SPDX-License-Identifier: Apache-2.0
// What a new sandbox is made of.
//
// From a base image it is loaded from that image's frozen machine (prewarm.c); it boots where there
// is none yet, where another size is asked for, or when told to.
#pragma once
#include "sandbox/machine/source.h"

// Exactly one of the two is the machine's origin.
struct origin {
	bool boots;
	struct image_info img;
	struct source src;
};
// Checks the request; *ret_info is the new sandbox, pending. In use until origin_done.
int origin_find(struct host *h, const struct host_create *req, struct origin *o,
	struct host_sandbox *ret_info, struct err *e);
void origin_done(struct origin *o);
