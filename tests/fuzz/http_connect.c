// SPDX-License-Identifier: Apache-2.0
// Connect envelopes and error bodies from the other side. What is taken apart must come out the
// same however the bytes arrive.
#include <assert.h>
#include <string.h>
#include "http/connect.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int all(struct strbuf *in, struct strbuf *out)
{
	struct strbuf payload = {0};
	unsigned flags;
	int r;
	while ((r = connect_envelope_next(in, &flags, &payload)) == 1) {
		struct err e = {0};
		connect_parse_error(payload.data, payload.len, 0, &e);
		connect_parse_error(payload.data, payload.len, 500, &e);
		connect_envelope_add(out, flags, payload.data, payload.len);
	}
	strbuf_done(&payload);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct strbuf whole = {0}, pieces = {0}, out = {0}, out2 = {0};
	strbuf_add(&whole, data, len);
	int r = all(&whole, &out), r2 = 0;
	for (size_t i = 0; i < len && r2 == 0; i++) {
		strbuf_add(&pieces, data + i, 1);
		r2 = all(&pieces, &out2);
	}
	assert(r == r2 && out.len == out2.len);
	assert(out.len == 0 || memcmp(out.data, data, out.len) == 0);
	strbuf_done(&whole);
	strbuf_done(&pieces);
	strbuf_done(&out);
	strbuf_done(&out2);
	return 0;
}
