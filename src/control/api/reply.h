// SPDX-License-Identifier: Apache-2.0
// Answers.
#pragma once
#include "control/state/rows.h"
#include "http/server.h"

// As reply_error, and when to try again where that helps.
void reply_error(struct http_request *r, const struct err *e);
// Retry-After, of a status that has it.
void reply_retry_after(struct http_request *r, int status);
void reply_sandbox(struct http_request *r, int status, const struct sandbox_row *row,
	const struct host_sandbox *s);
