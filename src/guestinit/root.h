// SPDX-License-Identifier: Apache-2.0
// From the initramfs into the root file system. What fails here ends the machine (init_die).
#pragma once
#include "guestinit/cmdline.h"

#define ENVD_PATH "/run/stasis/envd"

void root_mount_or_die(const char *type, const char *at, unsigned long flags, const char *data);
// The modules of the initramfs, in the order of /modules/order.
void root_load_modules(void);
// Waits for the root device and mounts it.
void root_mount(const struct cmdline *c);
// Puts /envd of the initramfs to ENVD_PATH of the root, and moves into it.
void root_enter(void);
