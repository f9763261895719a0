// SPDX-License-Identifier: Apache-2.0
// Roll back: a sandbox, running or paused, is taken to an earlier snapshot of its own. This is the
// first half of a resume with "from"; the second half is a resume like any other. The rules:
//
// * The snapshot stays as it is. A copy of it, of the kind pause, becomes what the sandbox is
//   paused at. So one can go back to it any number of times.
// * One transaction changes all: the copy gets its row, the sandbox is paused at it, and the pause
//   that it had is dropped. Before the commit the sandbox is what it was, running or paused; after
//   it, it is paused at the copy. There is no third state, whatever fails and whenever the server
//   is killed.
// * The machine that ran is ended only after the commit, and its end is none of the sandbox's: the
//   monitor does not watch it from the steps on. If it is slow to die the sandbox is paused all the
//   same, and the resume is refused until it is free.
// * The journal names the copy before it is made. A start that finds the operation open removes it.
#pragma once
#include "sandbox/table/table.h"

// The sandbox is claimed, running or paused. A copy of the snapshot becomes the one that it is
// paused at; its machine is freed.
int roll_back(struct host *h, const struct host_resume *req, struct sandbox *s, struct err *e);
