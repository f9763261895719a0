// SPDX-License-Identifier: Apache-2.0
// Connect protocol framing with the JSON codec (https://connectrpc.com/docs/protocol): one flag
// byte, four bytes of big-endian length, payload. Flag 2 ends a stream: {} or
// {"error":{"code","message"}}.
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "base/str.h"

#define CONNECT_FLAG_COMPRESSED 1u
#define CONNECT_FLAG_END 2u
#define CONNECT_MAX_MESSAGE (16u << 20)

// Appends one envelope.
void connect_envelope_add(struct strbuf *out, unsigned flags, const void *payload, size_t len);
void connect_envelope_add_json(
	struct strbuf *out, unsigned flags, json_t *message); // borrows message
// End of stream; e NULL or unset: success.
void connect_envelope_add_end(struct strbuf *out, const struct err *e);

// Takes the next whole envelope out of in. 1: *ret_flags and *ret_payload (owned by the caller's
// strbuf, reset first) are set; 0: more bytes are needed; -EMSGSIZE, -EBADMSG for a broken stream.
int connect_envelope_next(struct strbuf *in, unsigned *ret_flags, struct strbuf *ret_payload);

// Parses the payload of an end-of-stream envelope, or the body of a unary error, into *e. 0 when it
// says success.
int connect_parse_error(const char *payload, size_t len, int http_status, struct err *e);
// Unary error body {"code": "not_found", "message": "..."}; owned by the caller.
json_t *connect_error_json(const struct err *e);
