// SPDX-License-Identifier: Apache-2.0
// A tap made by someone else (root, in this network namespace) and owned by our uid.
#pragma once
#include "base/err.h"

// The descriptor, ready for QEMU's -netdev tap,fd=; or -errno.
int tap_open(const char *name, struct err *e);
