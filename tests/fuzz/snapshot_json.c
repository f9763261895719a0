// SPDX-License-Identifier: Apache-2.0
// snapshot_decode on any text: what it takes is what snapshot_encode writes.
// Without libFuzzer a plain main replays the files named on its command line.
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "snapshot/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_strbuf_ struct strbuf again = {0};
	struct snapshot_info s;
	struct err e;
	if (snapshot_decode((const char *)data, size, &s, &e) < 0)
		return 0;
	if (snapshot_encode(&s, &again) < 0 || again.len != size ||
		memcmp(again.data, data, size) != 0)
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
