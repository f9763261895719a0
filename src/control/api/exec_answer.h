// SPDX-License-Identifier: Apache-2.0
// What a command has come to, as the answer tells it: when it has ended, and beside an error as far
// as it came.
#pragma once
#include "agentclient/client.h"
#include "control/api/exec_budget.h"
#include "http/server.h"

#define EXEC_OUTPUT_MAX (8u << 20) // per stream
#define EXEC_FREE_BYTES                                                                            \
	(64u << 10) // of an answer that cost nothing, so that small ones always pass

// What is known of the command where the answer is an error: "process" there.
enum exec_fate { EXEC_UNKNOWN, EXEC_RUNNING, EXEC_KILLED, EXEC_GONE };

struct exec_output {
	struct strbuf text;
	bool truncated;
};

struct exec_result {
	uint32_t pid; // 0: it never started
	bool ended;   // exit is set
	struct envd_exit exit;
	enum exec_fate fate;
	struct exec_output out, err;
	bool base64;		    // for all output
	struct exec_budget *budget; // NULL: no limit
	size_t charged;		    // to it
};

// Takes what the stream gave (1: stdout, 2: stderr), up to its limit. 0, -ENOMEM, or -EAGAIN when
// the budget is used up.
int exec_result_add(struct exec_result *x, int stream, const void *data, size_t len);
void exec_result_done(struct exec_result *x);
// 200 with the answer. Output is text, or base64 where it is no UTF-8 or its escapes would be
// longer. Takes what x has.
void exec_answer(struct http_request *r, struct exec_result *x);
// The error, with "details" where the command had started.
void exec_answer_error(struct http_request *r, struct exec_result *x, const struct err *e);
