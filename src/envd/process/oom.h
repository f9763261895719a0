// SPDX-License-Identifier: Apache-2.0
// Processes that the guest's kernel killed for lack of memory, of the whole guest or of a cgroup in
// it.
//
// The number is the kernel's own count (oom_kill in /proc/vmstat), which has all of them. Who was
// killed is read from the kernel's log, by a thread that sleeps until there is something: records
// can be lost where thousands come at once, and the guest's root can have the kernel log much. So
// they are hints.
#pragma once
#include "base/oomlog.h"

#define OOM_KEPT 8	 // kills that are told of by name; further ones are counted only
#define OOM_ANCESTORS 32 // of a killed process, with itself

struct oom_watch;

// NULL when there is nothing to watch (no /dev/kmsg, or not for us): all calls below take that.
struct oom_watch *oom_watch_new(void);
struct oom_watch *oom_watch_free(struct oom_watch *w);
DEFINE_CLEANUP(struct oom_watch *, oom_watch_free)
// Number of the newest kill. To be taken before a process is started.
uint64_t oom_watch_seq(struct oom_watch *w);
// Of a process that has ended: how many of the kills after that number were of it or of what it
// started, as far as they are still known, and the last of them. as_killed: it ended as if killed,
// and nobody is known to have asked for that: then also one that was gone before it could be looked
// at.
unsigned oom_watch_blame(
	struct oom_watch *w, pid_t pid, uint64_t after, bool as_killed, struct oom_kill *ret);

uint64_t oom_memory_bytes(void); // of the guest

// What was not told yet.
struct oom_report {
	uint64_t total;			 // kills since the guest was booted
	uint64_t untold;		 // of those
	uint64_t memory_bytes;		 // of the guest
	struct oom_kill kills[OOM_KEPT]; // the newest of those that are known by name, oldest first
	size_t n;
	uint64_t seq; // of the newest record
};
void oom_watch_report(struct oom_watch *w, struct oom_report *ret);
// What that report said has arrived.
void oom_watch_told(struct oom_watch *w, uint64_t total, uint64_t seq);
uint64_t oom_watch_told_total(struct oom_watch *w); // kills of which the host knows
// The watch of an earlier agent knew that: the others are still to be told.
void oom_watch_take(struct oom_watch *w, uint64_t told_total);
// All until now is another sandbox's: this guest is a copy.
void oom_watch_forget(struct oom_watch *w);
