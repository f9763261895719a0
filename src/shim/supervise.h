// SPDX-License-Identifier: Apache-2.0
// What PID 1 of a sandbox does: see the top of main.c.
#pragma once
#include "shim/shim.h"

struct supervise {
	const struct shim_spec *spec;
	int report_fd; // to the starter; -1: none
	int lock_fd;   // of shim.lock, held; PID 1's number is written there
};

// Runs the sandbox to its end; the exit status of the program. Must be called in the first process
// of a new PID namespace, with /proc and the files of the host still there.
int supervise_run(const struct supervise *s);
// One message to the starter: an error, or success where e is NULL.
void supervise_report(int report_fd, const struct err *e);
