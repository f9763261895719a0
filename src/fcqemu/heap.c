// SPDX-License-Identifier: GPL-2.0-or-later
// How this works. A QEMU that loads a small guest takes 7,400 page faults until that has run a
// command, a third of them for its heap: it grows by 132 KiB, in an arena for each thread, page by
// page, and QEMU's RCU thread has it trimmed whenever it is idle, so that the same pages come anew.
// Where fresh memory is dear (a virtual machine whose host gives it page by page) that was 60 of
// 450 ms of a create. So the heap is one, is extended by what a load needs, in huge pages, and not
// trimmed: 2 to 4 MiB more for each QEMU. glibc's own tunable for this (glibc.malloc.hugetlb) reads
// /sys, which the jail does not have.
#include "fcqemu/heap.h"
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HUGE_PAGE ((uintptr_t)2 << 20)
#define HEAP_BYTES ((uintptr_t)12 << 20) // what a QEMU has allocated at the end of a load
#define OWN_MAPPING_BYTES (16 << 20)	 // only what is larger gets one
#define KEPT_FREE_BYTES (64 << 20)

void heap_widen(void)
{
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_BYTES);
	mallopt(M_TRIM_THRESHOLD, KEPT_FREE_BYTES);
	mallopt(M_TOP_PAD, HEAP_BYTES);
	// More than the heap has by now, so that it is extended. Volatile: or the compiler would
	// leave the pair out.
	void *volatile more = malloc(HUGE_PAGE / 2);
	free(more);
	uintptr_t end = (uintptr_t)sbrk(0), begin = (end - HEAP_BYTES) & -HUGE_PAGE;
	// Not by name: that is ours, and keeps huge pages off the guest's memory. Failure is none.
	syscall(SYS_madvise, begin, end - begin, MADV_HUGEPAGE);
	mallopt(M_TOP_PAD, HUGE_PAGE);
}

// Called by QEMU only.
int malloc_trim(size_t pad)
{
	(void)pad;
	return 0;
}
