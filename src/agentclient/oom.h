// SPDX-License-Identifier: Apache-2.0
// What the agent says of kills for lack of memory. All of it is the guest's word: texts are made
// printable here, numbers kept within reason.
#pragma once
#include <jansson.h>
#include "base/macro.h"

// A process that the guest's kernel killed for lack of memory.
struct envd_oom {
	char process[64]; // its name; "" when not known
	char cgroup[128]; // whose limit it was, "" for the guest's memory
	char at[32];	  // RFC 3339
	uint64_t pid, uid, rss_bytes;
	uint64_t memory_bytes; // of the guest, what its kernel leaves for programs
	uint64_t count;	       // kills; the others are about the last one
};
// {"process", "pid", "uid", "rss_bytes", "memory_bytes", "cgroup", "count", "at"}. Owned by the
// caller.
json_t *envd_oom_json(const struct envd_oom *o);

// What the guest has not told yet.
#define ENVD_OOM_KILLS 8
struct envd_oom_report {
	uint64_t total, untold;		       // kills since the guest was booted; of those
	uint64_t seq;			       // for envd_call_oom
	uint64_t memory_bytes;		       // of the guest
	struct envd_oom kills[ENVD_OOM_KILLS]; // known by name, oldest first
	size_t n;
};

#define OOM_MAX_COUNT 1000000u // kills in one report

// The agent's object for a kill, {"process", "pid", ...} (envd/api/oom.h); count 0 where j is none.
void oom_read(const json_t *j, struct envd_oom *ret);
void oom_read_report(const json_t *j, struct envd_oom_report *ret);
