// SPDX-License-Identifier: Apache-2.0
// What is asked of a host after an operation that met with a fault.
#pragma once
#include "played/acts.h"

// Of this case.
extern const struct act *act;
extern struct run *run;

// The host is as after the operation, or (others) as before it or halfway.
void judge_one_of(struct host *h, bool after, bool others, const char *when);
// Asked again the operation has an answer, and another one like it works.
void judge_again(struct host *h);
// The subject can still be used.
void judge_use(struct host *h);
