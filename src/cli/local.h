// SPDX-License-Identifier: Apache-2.0
// What the commands that work on this machine without a server share.
#pragma once
#include "cli/cli.h"

// The loop volume's image of a data directory: "<data_dir>.img". Owned by the caller.
int local_volume_image(const char *data_dir, char **ret, struct err *e);
// Mounts the loop volume where its image is there; success when there is none, or it is mounted.
int local_mount_volume(const char *data_dir, struct err *e);
