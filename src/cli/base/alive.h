// SPDX-License-Identifier: Apache-2.0
// No command waits for ever. Nothing tells how long a call may take (a start waits for its turn, a
// stream is silent for hours); so a call in which no byte moves is followed by a question on a
// connection of its own, GET /v1/health of the server or GET /health of a sandbox's agent. While
// that is answered the call goes on. Else it is given up: no sign of life for the time that
// --client-timeout names.
#pragma once
#include "cli/base/command.h"
#include "http/client.h"

struct alive {
	char *base_url, *id;	// id: of the sandbox whose agent is asked, NULL: the server
	int silence_ms, ask_ms; // 0: it is never asked
};
// Of the command line's, the environment's or the default time; id may be NULL.
int alive_init(struct alive *a, const struct cli *c, const char *id, struct err *e);
void alive_done(struct alive *a);
// http_call.alive; ctx is the struct alive.
int alive_ask(void *ctx, struct err *e);
// http_call.alive: NULL where it is never asked.
static inline int (*alive_of(const struct alive *a))(void *ctx, struct err *e)
{
	return a->silence_ms ? alive_ask : NULL;
}
