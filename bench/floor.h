// SPDX-License-Identifier: Apache-2.0
// What the parts of bench/floor.c share.
#pragma once
#include <stdint.h>
#include <sys/types.h>

// Both end the program where they fail.
_Noreturn void die(const char *what);
char *job_get(const char *key);

uint64_t now(void); // nanoseconds
// fds[i] becomes descriptor 3 + i of the program where it is not negative. root: a directory that
// is the program's root, or NULL. It ends with this program.
pid_t start(const char *root, char **argv, char *const *env, const int *fds, int n);
// Connects as soon as somebody accepts there.
int connect_unix(const char *path);

// What is not measured: its root.
void firecracker_prepare(void);
// Each loads the job's snapshot into a new VMM and lets the guest run. Returns its process.
pid_t firecracker_load(void);
pid_t qemu_load(void);
