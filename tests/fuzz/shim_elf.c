// SPDX-License-Identifier: Apache-2.0
// The reader of programs and libraries that go into a jail's runtime.
#include <string.h>
#include "shim/elfneeds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct elf_needs n = {0};
	if (elf_read_needs(data, len, &n) == 0)
		for (size_t i = 0; i < n.n_needed; i++)
			if (strlen(n.needed[i]) >= len)
				__builtin_trap();
	elf_needs_done(&n);
	return 0;
}
