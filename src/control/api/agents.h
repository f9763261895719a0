// SPDX-License-Identifier: Apache-2.0
// Connections to guest agents that are kept for a moment: a new one costs the guest more than the
// command that it asks for. Safe to use from any thread.
#pragma once
#include "http/client.h"

struct agents;

struct agents *agents_new(void);
struct agents *agents_free(struct agents *a);
// A client for the sandbox's agent at that address, with a connection where one is left; the
// caller's until it gives it back or frees it.
int agents_take(struct agents *a, const char *sandbox, const char *base_url,
	struct http_client **ret, struct err *e);
// After a call that went well: one that was broken off must be freed.
void agents_give(
	struct agents *a, const char *sandbox, const char *base_url, struct http_client *client);
