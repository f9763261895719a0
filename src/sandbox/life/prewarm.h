// SPDX-License-Identifier: Apache-2.0
// A base image's machine is booted once and kept as a snapshot, from which creates are loaded. It
// is called "frozen" in the database and in the API, and host_freeze in host.h.
#pragma once
#include "disk/image.h"
#include "sandbox/table/table.h"

// Makes the frozen machine of a base image where it is missing, and drops those of other images of
// that name.
int prewarm_image(struct host *h, const struct image_info *img, struct err *e);
