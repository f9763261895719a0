// SPDX-License-Identifier: Apache-2.0
// The Connect protocol with the JSON codec, on the server's side.
#pragma once
#include "base/json.h"
#include "envd/wake/agent.h"
#include "http/connect.h"
#include "http/server.h"

// Connect knows more codes than err.h; handlers return one of these.
enum rpc_code {
	RPC_OK,
	RPC_FROM_ERR, // as the error's code says
	RPC_ALREADY_EXISTS,
	RPC_FAILED_PRECONDITION,
	RPC_UNKNOWN,
};

struct rpc_call {
	struct agent *agent;
	json_t *in;
	struct users users;
	struct user user;
	// The answer: out, or JSON text where there may be much of it; {} when both are empty.
	json_t *out;
	struct strbuf text;
};

typedef enum rpc_code (*rpc_fn)(struct rpc_call *c, struct err *e);

// Serves the request with the method of that name ("Stat" of /filesystem.Filesystem/Stat).
struct rpc_method {
	const char *name;
	rpc_fn fn;
};
void rpc_serve_unary(
	struct http_request *req, struct agent *a, const struct rpc_method *methods, size_t n);

// The one message of a server stream, with the caller's user. False: it has replied with an error.
bool rpc_begin_stream(struct http_request *req, struct agent *a, struct rpc_call *c);
void rpc_call_done(struct rpc_call *c);
// End of stream; e NULL or unset: success.
void rpc_add_end(struct strbuf *out, const struct err *e);
// Ends a stream that has not begun: HTTP 200 with the error in the end-of-stream envelope.
void rpc_reply_stream_error(struct http_request *req, const struct err *e);
#define RPC_STREAM_TYPE "application/connect+json"

// Unsigned number of up to 32 bits, which the protocol's JSON may also write as a string. Absent:
// *ret unchanged.
int rpc_read_u32(json_t *object, const char *name, uint32_t *ret, struct err *e);
// Milliseconds in a header as nanoseconds; 0 when absent or not a number.
uint64_t rpc_header_time(struct http_request *req, const char *name, uint64_t unit_ns);
