// SPDX-License-Identifier: Apache-2.0
// The guest's cgroups, as env.h of the agent names them.
#pragma once

// Mounts them and makes the guest's part. Says on the console what fails; the agent then has no
// more than the tree that the kernel gives.
void cgroups_set_up(void);
