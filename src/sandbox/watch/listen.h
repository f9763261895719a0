// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "sandbox/table/host.h"

// From now on the consoles of what runs are looked at for word of kills (machine/oom.h) and of a
// halt (machine/halt.h), by jobs of the pool, until that is stopped.
void listen_start(struct host *h);
