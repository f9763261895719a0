// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <stdint.h>

// write pages full of value, read, drop (DONTNEED), page out; the answer is an int, 1 for done.
struct vm_command {
	char op; // 'w', 'r', 'd', 'o'
	uint8_t value;
	uint32_t page, count;
};
