// SPDX-License-Identifier: Apache-2.0
// Requests in two pieces, cut where the first byte says, through the parser and the strict reading
// of bodies. Without libFuzzer a plain main replays the files named on its command line.
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "fcqemu/body.h"
#include "fcqemu/http1.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct target {
	char *text;
	bool flag;
	uint64_t number;
};

static const struct body_field fields[] = {
	{"text", BODY_STRING, .nullable = true, BODY_FIELD(struct target, text)},
	{"flag", BODY_BOOL, BODY_FIELD(struct target, flag)},
	{"number", BODY_UINT, .max = 255, BODY_FIELD(struct target, number)},
	{"only", BODY_STRING, .only = "x", .why = "fuzzing"},
};
static const struct body_shape shape = BODY_SHAPE("a target", fields);

static void take_all(struct http1_parser *p)
{
	struct http1_request r = {0};
	while (http1_next(p, &r) == 1) {
		struct target t = {0};
		struct err e;
		if (r.path[0] != '/' || strlen(r.path) >= HTTP1_LINE_MAX ||
			r.body.len > HTTP1_BODY_MAX)
			abort();
		body_read(r.body.data, r.body.len, &shape, &t, &e);
		if (t.number > 255)
			abort();
		body_done(&shape, &t);
		http1_request_done(&r);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct http1_parser p = {0};
	if (size == 0)
		return 0;
	size_t cut = MIN((size_t)data[0], size - 1);
	http1_feed(&p, data + 1, cut);
	take_all(&p);
	http1_feed(&p, data + 1 + cut, size - 1 - cut);
	take_all(&p);
	http1_done(&p);
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
	return argc > 1 ? 0 : 77;
}
#endif
