// SPDX-License-Identifier: Apache-2.0
// The VMMs that are kept. What is foreign of a VMM (QEMU or Firecracker, with libraries, ROMs and
// modules) is a tree <data>/runtime/<id> (shim.h) that each snapshot names which was taken with it:
// it is collected as layers are, when no snapshot and nothing that runs needs it any more. Our own
// programs are always today's, and drive every kept VMM; they are in <data>/programs/<id>.
//
// A sandbox that boots gets this host's own VMM. One that is loaded gets that of its snapshot, and
// what is taken of it names the same.
#pragma once
#include "sandbox/machine/runtime_file.h"
#include "sandbox/machine/runtime_rules.h"
#include "snapshot/info.h"

#define RUNTIMES "runtime"
#define OWN_PROGRAMS "programs"

// After vmm_identify: makes the trees of this host's VMM and of our own programs, and finds those
// that are kept. Nothing of them is removed before runtimes_settled.
int runtimes_open(struct host *h, const char *floor, struct err *e);
void runtimes_close(struct host *h);
// All snapshots and sandboxes have named theirs.
void runtimes_settled(struct host *h);
// Removes those that nobody needs any more (upkeep).
void runtimes_collect(struct host *h);

// What the memory of this snapshot is to be loaded by; whether it can be is fit.h's to say.
const struct vmm_choice *runtime_for(const struct host *h, const struct snapshot_info *i);
// What the sandbox runs on; of one that does not run, what it would boot on.
const struct vmm_choice *runtime_of(const struct host *h, const struct sandbox *s);
// The sandbox's VMM from here on, until it is let go.
int runtime_take(struct host *h, struct sandbox *s, const struct vmm_choice *v, struct err *e);
void runtime_let_go(struct host *h, struct sandbox *s);
// False: nothing may start on it (runtime_rules.h).
bool runtime_allows(
	const struct host *h, const struct vmm_choice *v, char ret_why[RUNTIME_WHY_SIZE]);
// Of all that are kept, the current one first: the array is the caller's.
int runtimes_list(struct host *h, struct runtime **ret, size_t *ret_n);
struct runtime_rules *runtimes_rules(const struct host *h);
// Of one that has outlived its server.
int runtime_adopt(struct host *h, struct sandbox *s, struct err *e);
