// SPDX-License-Identifier: Apache-2.0
// Shared by image.c (reading, collecting) and image_build.c (building, installing).
#pragma once
#include <jansson.h>
#include "disk/image.h"

// Reads a file that must hold one JSON object; owned by the caller.
int image_read_json(int dir, const char *path, json_t **ret, struct err *e);
// Sets the fields that come from the kernel; checks that its files are there, sizes as recorded.
int image_load_kernel(int dir, const char *id, struct image_info *i, struct err *e);
// Waits for and takes the lock of all changes to templates and kernels; descriptor or -errno.
int image_lock(int data_fd, struct err *e);
// Removes all entries of the directory that keep() does not claim. A missing directory is empty.
int image_sweep(int dir, const char *path, bool (*keep)(void *ctx, const char *name), void *ctx,
	struct err *e);
