// SPDX-License-Identifier: Apache-2.0
// Roll back: a sandbox becomes one that is paused at an earlier snapshot of its own, in one
// transaction; from there it is a resume like any other. Whatever happens it is paused at either
// the old or the new one.
#pragma once
#include "sandbox/table/table.h"

// The sandbox is claimed, running or paused. A copy of the snapshot becomes the one that it is
// paused at; its machine is freed.
int roll_back(struct host *h, const struct host_resume *req, struct sandbox *s, struct err *e);
