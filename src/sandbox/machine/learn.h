// SPDX-License-Identifier: Apache-2.0
// Which agent runs in a guest that an older server has started, and did not ask.
#pragma once
#include "sandbox/table/host.h"

// It runs, and its agent's version is not known: learn_ask is to be called, by a thread that may
// wait. True a few times only.
bool learn_wanted(struct host *h, const char *id);
void learn_ask(struct host *h, const char *id);
