// SPDX-License-Identifier: Apache-2.0
// A call that changes something is an operation. What is refused before it is begun (a bad body, an
// unknown sandbox) leaves no trace, and its key stays free.
#pragma once
#include "control/api/context.h"
#include "control/engine/task.h"

// Reads the Idempotency-Key. 1: the request was answered as an earlier one with that key was (or
// refused), and the caller is done. body may be NULL.
int work_key(struct control *c, struct http_request *r, json_t *body, struct task *t);
// The same for calls that cannot take one: their answer is not kept.
int work_refuse_key(struct http_request *r, const char *why);
// Begins; 1 when it was answered, as above.
int work_begin(struct control *c, struct http_request *r, struct task *t, const struct row_new *new,
	size_t n, struct err *e);
void work_reply(struct http_request *r, struct task *t);
// Begins, asks, finishes, answers; new as in work_begin.
void work_run(struct control *c, struct http_request *r, struct task *t, const struct row_new *new,
	size_t n);
