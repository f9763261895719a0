// SPDX-License-Identifier: Apache-2.0
// What sandboxes were promised, against what the machine has. Disks and memory are given out as
// they are written, and processors are shared, so more is promised than there is: up to a factor.
#pragma once
#include "sandbox/table/table.h"

struct promise {
	uint64_t disk_mb, memory_mb, vcpus;
};

// What may be promised in all, by the factors of the host: UINT64_MAX for no limit.
struct promise_limits {
	struct promise all, has; // has: the machine's own
};

// Looks at the volume and the machine; host.lock is not held.
void promise_limits(struct host *h, struct promise_limits *ret);
// Of n times one sandbox more, which needs new disks only where it is new. Counted from the table,
// with host.lock held: paused ones have their disk alone. ERR_INVALID when one alone is more than
// could ever be, ERR_NO_SPACE for the sum of disks, ERR_LIMIT for the rest.
int promise_check(const struct host *h, const struct promise_limits *l,
	const struct host_sandbox *one, size_t n, bool new_disk, struct err *e);
// With host.lock held.
struct promise promise_sum(const struct host *h);
