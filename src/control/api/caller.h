// SPDX-License-Identifier: Apache-2.0
// Whose key a request came with, and what follows for its answer. The hook before the handlers
// (login.h) has put it there.
#pragma once
#include "control/api/context.h"

// Whose key it is; NULL on public routes and the edge's.
const struct key_info *caller_key(const struct http_request *r);
// The owner whose things the request may see; NULL: everybody's.
const char *caller_owner(const struct http_request *r);
bool caller_sees(const struct http_request *r, const char *owner);
// Takes the tokens out of what a reader is shown: a sandbox, or an object with a list of them.
void caller_hide(const struct http_request *r, json_t *body);
// Creates of a key in a minute: ERR_LIMIT, with Retry-After set, when n more are too many.
int caller_take_creates(struct control *c, struct http_request *r, uint64_t n, struct err *e);
