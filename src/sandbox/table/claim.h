// SPDX-License-Identifier: Apache-2.0
// Claims: one operation at a time has a sandbox, and an operation is done once.
#pragma once
#include "sandbox/table/table.h"

// 1: the operation was done before; 0: not; its own error where it failed. Waits for it where it is
// under way. ERR_CONFLICT: the id was used for another sandbox. ERR_UNAVAILABLE: a start has not
// settled it yet.
int operation_told(struct host *h, const char *op_id, const char *id, struct err *e);
// What the job of life/silent.h claims a sandbox for. It lets go as soon as s->wanted is set.
#define SILENT_OPERATION "ask_agent"

// Claims a sandbox for an operation when it is in one of the states (bits 1 << state). It waits for
// what is short: the host's own upkeep of it, and the rest of an operation whose end its state
// tells already. ERR_CONFLICT says what else it is doing. 1: the operation was done before (*ret is
// filled).
int sandbox_claim(struct host *h, const char *op_id, const char *id, const char *operation,
	unsigned states, struct sandbox **ret_s, struct host_sandbox *ret, struct err *e);
