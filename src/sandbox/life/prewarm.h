// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "disk/image.h"
#include "sandbox/table/table.h"

// Makes the frozen machine of a base image where it is missing, and drops those of other images of
// that name.
int prewarm_image(struct host *h, const struct image_info *img, struct err *e);
