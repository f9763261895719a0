// SPDX-License-Identifier: Apache-2.0
// header_decode on any bytes: what it takes, header_encode writes again, and every lookup is
// inside. Without libFuzzer a plain main replays the files named on its command line.
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "snapshot/format.h"
#include "snapshot/header.h"

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
	_cleanup_(header_freep) struct header *h = NULL;
	_cleanup_strbuf_ struct strbuf again = {0};
	struct err e;
	if (header_decode(p, size, &h, &e) < 0)
		return 0;
	if (header_encode(h, &again) < 0 || again.len != size || memcmp(again.data, p, size) != 0)
		abort();
	for (size_t i = 0; i < h->n_maps; i++)
		if (header_find(h, h->maps[i].offset) != &h->maps[i] ||
			header_find(h, header_map_end(&h->maps[i]) - 1) != &h->maps[i])
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
