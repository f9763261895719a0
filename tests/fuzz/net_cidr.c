// SPDX-License-Identifier: Apache-2.0
// cidr_parse on any text: what it takes it writes back in a form that it takes again.
// Without libFuzzer a plain main replays the files named on its command line.
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/str.h"
#include "net/cidr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[256], out[CIDR_TEXT_SIZE];
	struct cidr c, again;
	struct err e;
	if (size >= sizeof text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (cidr_parse(text, &c, &e) < 0)
		return 0;
	cidr_format(&c, out);
	if (cidr_parse(out, &again, &e) < 0 || again.addr != c.addr || again.prefix != c.prefix)
		abort();
	return 0;
}

#ifndef FUZZER
int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		if (file_read(AT_FDCWD, argv[i], 1 << 20, &b) < 0)
			return 1;
		LLVMFuzzerTestOneInput((const uint8_t *)b.data, b.len);
	}
	return argc > 1 ? 0 : 1;
}
#endif
