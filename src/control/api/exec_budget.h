// SPDX-License-Identifier: Apache-2.0
// Memory for output of commands.
#pragma once
#include <stdatomic.h>
#include <stdint.h>

// What all answers under way may hold beyond EXEC_FREE_BYTES each.
struct exec_budget {
	uint64_t limit;
	_Atomic uint64_t used;
};
