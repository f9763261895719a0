// SPDX-License-Identifier: Apache-2.0
// The gate before every start of a process, and the freezer behind it.
//
// How a freeze goes: the gate closes, so that no start passes any more, and it waits until none is
// under way; the kernel is asked to freeze the cgroup, with all below it; its cgroup.events is
// watched until it says "frozen 1"; then the caller does the rest of his work (he syncs the file
// systems) and says how it went. A child that was born into a frozen cgroup by vfork would hold its
// parent, a thread of ours, until the thaw: hence the gate before the freezer.
#pragma once
#include "base/err.h"

struct gate;

// cgroup_fd: where the processes are, -1: nowhere of their own, they cannot be frozen. Borrowed.
// What was frozen before (by an agent that died) stays so: who froze them also lets them go.
struct gate *gate_new(int cgroup_fd);
struct gate *gate_free(struct gate *g);
// Nobody passes any more; who waits is sent away.
void gate_close(struct gate *g);

// Before a start: waits while the gate is closed. 0: gate_leave must follow. ERR_CONFLICT at
// until_ns; ERR_CANCELED when the gate was closed for ever, or the connection client_fd (over 0)
// has ended.
int gate_enter(struct gate *g, uint64_t until_ns, int client_fd, struct err *e);
void gate_leave(struct gate *g);

// Nobody passes until gate_release, and who waits is sent away. -ETIMEDOUT when a start is under
// way until then: it is released again.
int gate_hold(struct gate *g, uint64_t until_ns);
void gate_release(struct gate *g);

// Stops all processes of the cgroup; starts wait until the thaw. 0 when all stand still, and also
// when they did so before. ERR_UNAVAILABLE without a cgroup, ERR_TIMEOUT, ERR_CONFLICT when it was
// thawed meanwhile; nothing is frozen then. *ret_epoch is for gate_freeze_end, which must follow
// once the rest of the work was done: it thaws again unless ok, and tells (ERR_CONFLICT) when
// somebody else has thawed since.
int gate_freeze(struct gate *g, uint64_t timeout_ns, uint64_t *ret_epoch, struct err *e);
int gate_freeze_end(struct gate *g, uint64_t epoch, bool ok, struct err *e);
// Harmless when nothing is frozen. Also ends a freeze that is under way, with an error for it.
int gate_thaw(struct gate *g, struct err *e);
