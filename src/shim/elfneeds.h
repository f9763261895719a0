// SPDX-License-Identifier: Apache-2.0
// Which other files an ELF file needs to run. Nothing else of it is looked at.
#pragma once
#include "base/macro.h"

struct elf_needs {
	char *interp;  // PT_INTERP, NULL for a shared object or a static program
	char *runpath; // DT_RUNPATH, else DT_RPATH; NULL: none
	char **needed; // DT_NEEDED
	size_t n_needed;
};

// For a 64-bit little-endian x86-64 file of len bytes. -ENOEXEC: not one. -EBADMSG: one, but its
// tables point outside of it or are unreasonably many.
int elf_read_needs(const void *file, size_t len, struct elf_needs *ret);
void elf_needs_done(struct elf_needs *n);
