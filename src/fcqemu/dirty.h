// SPDX-License-Identifier: Apache-2.0
// Which pages of a guest, in another process's memory, a snapshot has to hold. The guest is
// stopped.
#pragma once
#include <sys/types.h>
#include "base/err.h"

#define DIRTY_PAGE 4096u

struct dirty_source {
	pid_t pid;
	uint64_t base, size;	   // of guest memory, in that process
	bool tracking;		   // write-protect tracking is armed (userfaultfd, asynchronous)
	bool file_backed;	   // a private mapping of a memory file
	_Atomic uint64_t *removed; // a bit per page thrown away since the last reset; NULL: none
};

struct dirty_range {
	uint64_t offset, length; // from the begin of guest memory
	bool zero;		 // thrown away and not touched since: zeros, must not be read there
};

struct dirty_list {
	struct dirty_range *v; // sorted, apart
	size_t n, cap;
	uint64_t bytes;
	bool exact; // what was written, as the kernel noted it; else all that was touched
};

void dirty_list_done(struct dirty_list *l);
// In ascending order. Joins with the last range where that touches and is of the same kind.
// -ENOMEM.
int dirty_list_add(struct dirty_list *l, uint64_t offset, uint64_t length, bool zero);
// Pages changed since the last reset, the boot or the load. Nothing missing; without tracking, or
// PAGEMAP_SCAN, everything the guest ever touched. STASIS_NO_PAGEMAP_SCAN=1 in the environment
// forces that.
int dirty_scan(const struct dirty_source *s, struct dirty_list *ret, struct err *e);
// Pages that hold anything of their own: the others are zeros, or the memory file's.
int dirty_scan_touched(const struct dirty_source *s, struct dirty_list *ret, struct err *e);
// From here on dirty_scan begins anew. A failure leaves some pages as dirty as they were.
int dirty_reset(const struct dirty_source *s, struct err *e);
