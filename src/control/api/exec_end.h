// SPDX-License-Identifier: Apache-2.0
// Why a command's connection broke off, told in the sandbox's words.
#pragma once
#include "control/api/context.h"
#include "control/api/exec_answer.h"

// e is how the connection ended, and becomes what happened to the sandbox since began_ns
// (CLOCK_REALTIME): paused, rolled back or ended is ERR_CONFLICT, with x->fate. It waits for a
// moment, since the connection may break before that is written down. Where nothing happened to the
// sandbox, e says so. Returns what goes with e.
int exec_explain(struct control *c, struct http_request *r, struct sandbox_row *row,
	uint64_t began_ns, struct exec_result *x, struct err *e);
