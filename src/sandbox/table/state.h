// SPDX-License-Identifier: Apache-2.0
// The life cycle as a table (docs/architecture.md, section 6).
#pragma once
#include "sandbox/types.h"

bool sandbox_state_may(enum sandbox_state from, enum sandbox_state to);
// Every change of state goes through here: checked against the table (a wrong one is a bug and
// aborts), traced with what caused it.
void sandbox_move(struct host_sandbox *s, enum sandbox_state to, const char *why);
// Measures a step of an operation: from *since, CLOCK_MONOTONIC, to now, which *since becomes.
void sandbox_phase(struct host_sandbox *s, const char *name, uint64_t *since);
json_t *sandbox_phases_json(const struct host_sandbox *s); // [["slot", 120], ...]
// Stopped, for its create failed: it is about to be forgotten.
bool sandbox_is_no_create(const struct host_sandbox *s);
