// SPDX-License-Identifier: Apache-2.0
// The build id that the linker gives a program (note NT_GNU_BUILD_ID, ld(1) --build-id): its first
// 8 bytes, as text.
#pragma once
#include "base/macro.h"

#define BUILD_ID_SIZE 17

// Of the running program; "0000000000000000" when it was linked without one.
void build_id_own(char out[BUILD_ID_SIZE]);
// Of a 64-bit ELF file in memory. -ENOEXEC when it is none of this machine, -ENODATA without a
// note.
int build_id_of(const void *elf, size_t len, char out[BUILD_ID_SIZE]);
