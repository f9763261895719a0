// SPDX-License-Identifier: Apache-2.0
// The decoder of state files: the input as it is, and as a description whose sums are right (else
// nothing would ever come past them). Without libFuzzer a plain main replays the files named on its
// command line.
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "fcqemu/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// What was taken can be written, and reads the same.
static void decode(const void *data, size_t size)
{
	struct state s;
	struct err e = {0};
	if (state_decode(data, size, &s, &e) < 0) {
		if (!e.text[0])
			abort();
		return;
	}
	_cleanup_strbuf_ struct strbuf once = {0};
	if (s.stream_offset + s.stream_length != size || s.config.n_drives > CONFIG_DRIVES_MAX ||
		s.config.n_nics > CONFIG_NICS_MAX || state_encode_description(&s, &once) < 0)
		abort();
	state_done(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_strbuf_ struct strbuf text = {0}, file = {0};
	uint8_t head[STATE_HEAD_SIZE];
	decode(data, size);
	strbuf_add(&text, data, size);
	strbuf_addc(&text, '\0');
	text.len = size;
	state_encode_head(&text, "stream", 6, head);
	strbuf_add(&file, head, sizeof head);
	strbuf_add(&file, data, size);
	strbuf_adds(&file, "stream");
	decode(file.data, file.len);
	return 0;
}

#ifndef FUZZER
int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		if (file_read(AT_FDCWD, argv[i], 1 << 20, &b) < 0) {
			fprintf(stderr, "cannot read %s\n", argv[i]);
			return 1;
		}
		LLVMFuzzerTestOneInput((const uint8_t *)b.data, b.len);
	}
	return 0;
}
#endif
