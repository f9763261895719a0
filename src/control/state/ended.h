// SPDX-License-Identifier: Apache-2.0
// The last report of a sandbox, as control.db keeps it: only what is shown of a stopped one.
#pragma once
#include "sandbox/types.h"

// JSON text, owned by the caller; NULL when out of memory.
char *ended_dump(const struct host_sandbox *s);
int ended_parse(const char *text, struct host_sandbox *ret);
