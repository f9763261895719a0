// SPDX-License-Identifier: Apache-2.0
// What a kernel's log (/dev/kmsg) says of processes that it killed for lack of memory.
#pragma once
#include <sys/types.h>
#include "base/macro.h"

struct oom_kill {
	pid_t pid;
	uint32_t uid;
	uint64_t rss_bytes; // what it had in memory: anonymous, of files, shared
	uint64_t at_ns;	    // CLOCK_REALTIME; not from the record
	bool in_cgroup;	    // the memory of a cgroup was over, not the machine's
	char comm[48];	    // its name, printable
	char cgroup[128];   // whose limit it was, printable; "" when not known
	uint64_t seq;	    // number of the record
};

// What /dev/kmsg says, a record at a time. The kernel's record of a kill may follow one that says
// which cgroup it is about: *summary has that, and begins as {0}. true: *ret is a kill. Records
// that a program wrote there are none (their facility is not the kernel's, 0).
struct oom_summary {
	pid_t pid; // 0: none
	char cgroup[128];
};
bool oom_parse(const char *record, size_t len, struct oom_summary *summary, struct oom_kill *ret);
// Any record's number.
bool oom_record_number(const char *record, size_t len, uint64_t *ret);
// The number behind a key in a text; false where there is none, or one above max.
bool oom_number_after(const char *text, const char *key, uint64_t max, uint64_t *ret);
