// SPDX-License-Identifier: Apache-2.0
// What a guest needs after its memory came back from a snapshot, beyond what every /init does.
#pragma once
#include "base/err.h"

#define RESUME_HOOKS "/etc/stasis/resume.d"
#define RESUME_HOOKS_LIMIT_NS (5 * 1000000000ull) // for all of them together

// How adjtimex is to be told: *ret_tick in microseconds per 1/100 s (10000 is even), the rest as
// *ret_freq in 2^-16 ppm, at most 50 ppm. ppm: see envd_init.clock_ppm. -ERANGE beyond the tick's
// 10 %.
int clock_rate_plan(int ppm, long *ret_tick, long *ret_freq);
int clock_rate_set(int ppm, struct err *e);

// Ends all TCP connections of our network namespace whose peer is not on loopback, but for the one
// of keep_fd (-1: none). Programs see ECONNABORTED at once; the peers, who are not there any more,
// may be sent a reset. Where the kernel cannot, only those of this process are ended (-EOPNOTSUPP).
int resume_end_connections(int keep_fd);

// Runs the programs of directory in the order of their names, as ourselves, outside the users'
// cgroup, without input or output. What fails or takes too long is logged, and killed with all that
// it started. Costs one system call when there is no such directory.
void resume_run_hooks(const char *directory, char *const *env);
