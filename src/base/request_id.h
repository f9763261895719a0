// SPDX-License-Identifier: Apache-2.0
// The id of the request that a thread works for, for its log lines and for what it writes down.
//
// It hangs on the thread and not on a context: it belongs to what a line of the log is about, not
// to what a function does, and every function that logs would have to pass it on. An HTTP server
// sets it around its callbacks, a pool of threads around a job.
#pragma once
#include <pthread.h>
#include "base/macro.h"

#define REQUEST_ID_MAX 128
#define REQUEST_ID_SIZE (REQUEST_ID_MAX + 1)

// What an X-Request-Id may be: 1 to 128 of A-Z a-z 0-9 . _ : + / = @ -. Such an id needs no escape
// in a log line, a header, JSON or a shell's word. nginx.conf.in has the same rule.
bool request_id_is_valid(const char *s); // NULL: no
// 32 hexadecimal digits, as nginx makes them.
void request_id_make(char out[REQUEST_ID_SIZE]);
// "" where the thread works for none.
const char *request_id_current(void);
// From now on, until the next call. NULL and "": for none. What is no valid id counts as none.
void request_id_set(const char *id);
// pthread_create(3) of a thread that works for the same request. 0 or an errno, as that one.
int request_id_thread(pthread_t *ret, void *(*f)(void *ctx), void *ctx);
