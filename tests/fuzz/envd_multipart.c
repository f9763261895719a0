// SPDX-License-Identifier: Apache-2.0
// multipart/form-data: what comes out must not depend on the pieces in which it comes in. The first
// byte is the size of the pieces, the first line the content type.
#include <string.h>
#include "base/str.h"
#include "envd/api/multipart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int on_part(void *ctx, const char *name, const char *filename, struct err *e)
{
	strbuf_addf(ctx, "[%s|%s]", name, filename ? filename : "-");
	return 0;
}

static int on_data(void *ctx, const void *data, size_t len, struct err *e)
{
	strbuf_add(ctx, data, len);
	return 0;
}

static int on_end(void *ctx, struct err *e)
{
	strbuf_addc(ctx, ';');
	return 0;
}

static int parse(
	const char *type, const uint8_t *body, size_t len, size_t piece, struct strbuf *out)
{
	static const struct multipart_events events = {on_part, on_data, on_end};
	_cleanup_(multipart_freep) struct multipart *m = NULL;
	int rc = multipart_new(type, &events, out, &m, NULL);
	for (size_t at = 0; rc == 0 && at < len; at += piece)
		rc = multipart_feed(m, body + at, MIN(piece, len - at), NULL);
	return rc < 0 ? rc : multipart_finish(m, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_strbuf_ struct strbuf type = {0}, whole = {0}, pieces = {0};
	if (len < 2)
		return 0;
	const uint8_t *line_end = memchr(data + 1, '\n', len - 1);
	if (!line_end)
		return 0;
	strbuf_add(&type, data + 1, (size_t)(line_end - data - 1));
	const uint8_t *body = line_end + 1;
	size_t body_len = (size_t)(data + len - body);
	int a = parse(type.data, body, body_len, body_len ? body_len : 1, &whole);
	int b = parse(type.data, body, body_len, data[0] ? data[0] : 1, &pieces);
	if ((a < 0) != (b < 0))
		abort();
	// A broken body may have been heard further in larger pieces; a good one may not differ.
	if (a == 0 && (whole.len != pieces.len ||
			      (whole.len && memcmp(whole.data, pieces.data, whole.len))))
		abort();
	return 0;
}
