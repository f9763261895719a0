// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "sandbox/table/host.h"

// Bytes of blocks that a sandbox's disk has on the volume; 0: it has none, or that is not known.
uint64_t disk_size(const struct host *h, const struct host_sandbox *s);
