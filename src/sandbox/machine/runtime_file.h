// SPDX-License-Identifier: Apache-2.0
// runtime.json: what is known of a kept VMM's tree (shim.h), beside its usr/.
#pragma once
#include "sandbox/machine/vmm_choice.h"

struct runtime {
	struct vmm_choice vmm; // runtime is its id
	char package[128];     // that the program came from: "qemu-system-x86 1:7.2+dfsg-7", ""
	uint64_t first_ns, last_ns; // CLOCK_REALTIME of its first and last use
	// Of a server whose trees held our programs as well and said nothing of themselves.
	bool unnamed;
	struct runtime *next;
};

// Text of the file, the caller's; NULL when out of memory.
char *runtime_format(const struct runtime *r);
// name, upstream, state, sha256 and version of ret->vmm; the rest of it is left alone.
// ERR_INVALID: damaged. ERR_UNIMPLEMENTED: a newer server's.
int runtime_parse(const char *text, size_t len, struct runtime *ret, struct err *e);
// By dpkg; "" where there is none, or it does not know.
void runtime_package(const char *program, char *out, size_t size);
// What is in the tree dir that has no such file, or a damaged one. -ENOENT: no VMM.
int runtime_look(const char *dir, struct runtime *ret, struct err *e);
