// SPDX-License-Identifier: Apache-2.0
// Space that was freed in a file system goes back to the host: FITRIM (fs/ext4/mballoc.c) before a
// snapshot, in which the disk is kept or copied.
//
// How much was freed is not known to anybody: a file that is written and deleted between two looks
// leaves no trace in the count of free blocks, and all of its blocks on the host. So it is bounded
// from above: bytes written to the device, plus what the free space has grown by. Too high a bound
// costs little: the kernel remembers the block groups in which nothing was freed since, and leaves
// them out.
#pragma once
#include "base/err.h"

#define TRIM_WORTH (64ull << 20)  // less than that waits
#define TRIM_EXTENT (1ull << 20)  // smaller holes make the copy of a disk slow
#define TRIM_CHUNK (128ull << 20) // at a time: a block group of ext4, which it remembers as a whole
#define TRIM_LIMIT_NS (200 * 1000000ull)

// All in bytes.
struct trim_counts {
	uint64_t written; // to the device, ever
	uint64_t free;	  // in the file system
	uint64_t size;	  // of the device
};

struct trim_plan {
	struct trim_counts since; // as it was when the last pass began
	uint64_t next;		  // of the pass under way: where it goes on
	bool under_way;
};

// Is there something to do? A pass that was not finished goes on; a new one begins when enough may
// have been freed since the last one began.
bool trim_plan_begin(struct trim_plan *p, const struct trim_counts *now);
// The next piece of the pass over so many bytes. False: the pass is over.
bool trim_plan_next(struct trim_plan *p, uint64_t size, uint64_t *ret_start, uint64_t *ret_length);

struct trim;

// path: any directory of the file system, on which the caller's threads never block. What was freed
// before is not known. NULL without memory.
struct trim *trim_new(const char *path);
// Waits a second for a thread that may still be in the kernel; if that does not come back it is
// left alone, with t.
struct trim *trim_free(struct trim *t);
// Gives back what can be in limit_ns, and goes on there the next time. It returns by then also when
// the file system does not answer, and says how long it took; 0: there was nothing to do. Call it
// after a sync: what was freed counts as free from then. t may be NULL.
uint64_t trim_run(struct trim *t, uint64_t limit_ns);
