// SPDX-License-Identifier: Apache-2.0
// region_parse on any text: the regions it takes cover the memory exactly.
// Without libFuzzer a plain main replays the files named on its command line.
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "pager/region.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint64_t memory = 1 << 20;
	struct region_map m;
	struct err e;
	uint64_t sum = 0;
	if (region_parse((const char *)data, size, memory, &m, &e) < 0)
		return 0;
	for (size_t i = 0; i < m.n; i++) {
		const struct region *r = &m.regions[i];
		sum += r->size;
		if (region_at(&m, r->base) != r || region_at(&m, r->base + r->size - 1) != r ||
			region_of_offset(&m, r->offset) != r || r->offset + r->size > memory)
			abort();
	}
	if (sum != memory)
		abort();
	return 0;
}

#ifndef FUZZER
int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		if (file_read(AT_FDCWD, argv[i], 1 << 20, &b) < 0) {
			perror(argv[i]);
			return 1;
		}
		LLVMFuzzerTestOneInput((const uint8_t *)b.data, b.len);
	}
	return argc > 1 ? 0 : 1;
}
#endif
