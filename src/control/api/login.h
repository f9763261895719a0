// SPDX-License-Identifier: Apache-2.0
// Who asks, and whether that call may be made.
#pragma once
#include "control/api/context.h"

// Flags of routes.
#define ROUTE_PUBLIC 1u // needs no key
#define ROUTE_EDGE 2u	// for nginx alone: needs the edge's key, not in the OpenAPI description

// The key that a request came with; NULL: none.
const char *login_key(const struct http_request *r);
// The token of an Authorization header of the scheme Bearer; NULL: another one.
const char *login_bearer(const char *authorization);
// The id of the request's key.
int login_key_id(struct control *c, struct http_request *r, char ret_id[UUID_SIZE], struct err *e);
// The hook before the handlers: the key, and the names of the query.
bool login_before(struct http_request *r, const struct http_route *route, void *ctx);
