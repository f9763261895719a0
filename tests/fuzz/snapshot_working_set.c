// SPDX-License-Identifier: Apache-2.0
// working_set_decode on any bytes: what it takes, working_set_encode writes again.
// Without libFuzzer a plain main replays the files named on its command line.
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "snapshot/format.h"
#include "snapshot/working_set.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// The length and the checksum are made right, or no input would come past them.
static uint8_t *seal(const uint8_t *data, size_t size)
{
	uint8_t *p = malloc(size ? size : 1);
	if (!p)
		abort();
	memcpy(p, data, size);
	if (size >= 32) {
		put_le64(p + 16, size);
		put_le64(p + size - 8, format_xxh3(p, size - 8));
	}
	return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ uint8_t *p = seal(data, size);
	_cleanup_strbuf_ struct strbuf again = {0};
	struct working_set w;
	struct err e;
	if (working_set_decode(p, size, &w, &e) < 0)
		return 0;
	if (working_set_encode(&w, &again) < 0 || again.len != size ||
		memcmp(again.data, p, size) != 0)
		abort();
	for (size_t i = 0; i < w.n; i++)
		if (w.ranges[i].offset + (uint64_t)w.ranges[i].blocks * SNAPSHOT_BLOCK > w.size)
			abort();
	working_set_done(&w);
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
