// SPDX-License-Identifier: Apache-2.0
// Errors with a reason. Fallible functions return 0 or a negative errno; where the reason matters
// their last parameter is a struct err on the caller's stack (may be NULL). Context is prepended on
// the way up. The code comes from one closed list; err_info() maps it to HTTP status, Connect code
// and CLI exit code: the one table of the product.
#pragma once
#include <stdbool.h>
#include "base/macro.h"

enum err_code {
	ERR_NONE = 0,
	ERR_INVALID,	     // the request is wrong: 400
	ERR_UNAUTHENTICATED, // no or wrong key: 401
	ERR_FORBIDDEN,	     // known, but not allowed: 403
	ERR_NOT_FOUND,	     // 404
	ERR_CONFLICT,	     // wrong state or name taken: 409
	ERR_GONE,	     // was there, and is not to be had any more: 410
	ERR_TOO_LARGE,	     // body over its limit: 413
	ERR_LIMIT,	     // a quota or the host's capacity: 429
	ERR_CANCELED,	     // the client went away: 499
	ERR_INTERNAL,	     // a bug or a failed system call: 500
	ERR_UNIMPLEMENTED,   // 501
	ERR_BAD_GATEWAY,     // the guest or its port did not answer: 502
	ERR_UNAVAILABLE,     // volume not mounted, shutting down: 503
	ERR_TIMEOUT,	     // 504
	ERR_NO_SPACE,	     // disk full: 507
	// A snapshot that was taken without its guest's agent, for what only another is good for:
	// 409
	ERR_NOT_QUIESCED,
	ERR_CODE_MAX,
};

// Finer than the code, where a client does something else for it: "reason" in the errors of REST
// and of the agent.
enum err_reason {
	ERR_REASON_NONE = 0,
	ERR_REASON_NO_PROGRAM, // "no_program": not there; exit code 127, as of a shell
	ERR_REASON_CANNOT_RUN, // "cannot_run": there, but not to be executed; exit code 126
	ERR_REASON_MAX,
};

struct err {
	enum err_code code;
	enum err_reason reason;
	int errnum; // positive errno, 0 when none
	char text[1000];
	// Of what has ended, where that is the reason: how ("" otherwise), and when
	// (CLOCK_REALTIME).
	char cause[64];
	unsigned long long ended_ns;
};

struct err_info {
	const char *name;    // in REST bodies: "not_found"
	int http_status;     //
	const char *connect; // Connect protocol code
	int exit_code;	     // of the command line
};

// Never NULL; unknown codes give ERR_INTERNAL's row.
const struct err_info *err_info(enum err_code code);
// The code with that REST name, ERR_INTERNAL when unknown.
enum err_code err_code_from_name(const char *name);
// Best code for an errno: ENOENT not_found, ENOSPC no_space, ETIMEDOUT timeout, ...
enum err_code err_code_from_errno(int errnum);

// NULL for none and what is unknown; none for what is unknown, or NULL.
const char *err_reason_name(enum err_reason reason);
enum err_reason err_reason_from_name(const char *name);
// Of the command line: the reason's where there is one, else the code's.
int err_exit_code(const struct err *e);

// Sets code and text; returns the negative errno that goes with the code (for "return
// err_set(...)").
int err_set(struct err *e, enum err_code code, const char *fmt, ...) _printf_(3, 4);
// For a failed call: errnum positive or negative; text gets ": <strerror>" appended. Returns
// -errnum.
int err_errno(struct err *e, int errnum, const char *fmt, ...) _printf_(3, 4);
// "what: " is put before the text (which is kept, cut at its end if need be). Returns rc unchanged.
int err_prefix(struct err *e, int rc, const char *fmt, ...) _printf_(3, 4);
// "text" or, where nothing was set, strerror(-rc).
const char *err_text(const struct err *e, int rc);
static inline bool err_is_set(const struct err *e)
{
	return e && e->code != ERR_NONE;
}
