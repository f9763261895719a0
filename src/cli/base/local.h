// SPDX-License-Identifier: Apache-2.0
// This machine's data directory, and the volume it may be on.
#pragma once
#include "base/err.h"

// The data directory: flag, else STASIS_DATA, else the default.
const char *cli_data_dir(const char *flag);
// The data and run directories of a control plane that is a process of its own: the host's, with
// this added.
#define CLI_CONTROL_SUFFIX "-control"

// The loop volume's image of a data directory: "<data_dir>.img". Owned by the caller.
int local_volume_image(const char *data_dir, char **ret, struct err *e);
// Mounts the loop volume where its image is there; success when there is none, or it is mounted.
int local_mount_volume(const char *data_dir, struct err *e);
