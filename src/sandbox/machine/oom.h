// SPDX-License-Identifier: Apache-2.0
// What guests' kernels have killed for lack of memory, as events. The agent of a guest is asked for
// it when the guest's console has word of a kill: an idle guest is never woken, and nobody holds a
// connection to it. What is on the console and what the agent says is the guest's word: a guest
// that tells of kills without end is asked ever more rarely, and each time is one event.
#pragma once
#include "sandbox/table/host.h"

// Whether there is something to ask a running sandbox for, and its turn to be asked has come.
bool oom_listen(struct host *h, const char *id);
// Asks it, and writes the event "oom" where it has news. For any thread; the sandbox need not be
// claimed.
void oom_ask(struct host *h, const char *id);
// Before its processes are frozen: what it has to tell is told before a snapshot is taken, whose
// copies would tell of it as theirs. The caller has claimed it.
void oom_settle(struct host *h, const struct sandbox *s);
