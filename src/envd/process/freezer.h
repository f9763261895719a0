// SPDX-License-Identifier: Apache-2.0
// The cgroup v2 freezer of one cgroup.
#pragma once
#include "base/macro.h"

struct freezer {
	int freeze_fd, events_fd; // -1: there is none
};

// Never fails: without a cgroup (cgroup_fd -1) or its freezer, freezer_usable is false.
void freezer_init(struct freezer *f, int cgroup_fd);
void freezer_done(struct freezer *f);
static inline bool freezer_usable(const struct freezer *f)
{
	return f->events_fd >= 0;
}
// Asks for it; 0 or -errno.
int freezer_set(const struct freezer *f, bool on);
// It was asked for, by whoever.
bool freezer_is_on(const struct freezer *f);
// Returns when all stand still: 0; -ETIMEDOUT at until_ns (CLOCK_MONOTONIC), -ECANCELED when
// wake_fd is readable, another -errno.
int freezer_wait(const struct freezer *f, uint64_t until_ns, int wake_fd);
