// SPDX-License-Identifier: Apache-2.0
// Whether the host's kernel killed processes of a sandbox for lack of memory: of the machine, or of
// the cgroup that the server runs in.
#pragma once
#include "base/oomlog.h"
#include "sandbox/table/host.h"

// Of a sandbox that has just ended; dir is its shim's directory. true: the kernel's log says so,
// and detail has who was killed. false also where that log cannot be read.
bool host_oom_find(const struct sandbox *s, const char *dir, char *detail, size_t size);
// Of a machine that is about to start: the number of the next record of the log, for struct
// shim_spec. 0: the log cannot be read.
uint64_t host_oom_mark(struct host *h);

// What is looked for in the log.
struct host_oom_look {
	uint32_t uid;  // of the sandbox's processes
	pid_t shim;    // on this host; 0: not known
	uint64_t from; // number of a record; 0: none fits
};
bool host_oom_fits(const struct host_oom_look *l, const struct oom_kill *k);
