// SPDX-License-Identifier: Apache-2.0
// How a process ended.
#pragma once
#include "envd/process/oom.h"

struct process_end {
	int exit_code;	     // -1 when killed by a signal
	bool exited, killed; // killed: by SIGKILL, whoever sent it
	// The time was over while it ran (killed), or after it while others held its output (they
	// go on).
	bool timed_out;
	bool output_open; // others hold its output; what they write from now on is dropped
	char status[64];  // "exit status 1", "signal: killed"
	// It, or what it started, was killed for lack of memory: how often, and the last time.
	unsigned oom_kills;
	struct oom_kill oom; // valid where oom_kills is not 0
};
