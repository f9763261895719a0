// SPDX-License-Identifier: Apache-2.0
// Who asks, and what that key may do. The hook before the handlers looks: at the scope of the key
// by the call's flags, and whose the sandbox of the path is. What is in a body or a query the
// handlers compare themselves (caller_sees).
#pragma once
#include "control/api/context.h"

// Flags of routes. Without one: GET is for every key, other methods are for those that may change
// sandboxes; a path's {id} is a sandbox of the key's owner.
#define ROUTE_PUBLIC 1u	  // needs no key
#define ROUTE_EDGE 2u	  // for nginx alone: needs the edge's key, not in the OpenAPI description
#define ROUTE_ADMIN 4u	  // for admins
#define ROUTE_OVERVIEW 8u // for admins, and for readers without an owner
#define ROUTE_QUIET 16u	  // changes nothing, though its method says so

// The key that a request came with, in whatever header and scheme; NULL: none. The text belongs to
// the request.
const char *login_key(struct http_request *r);
// The hook before the handlers: the key, what it may do, and the names of the query.
bool login_before(struct http_request *r, const struct http_route *route, void *ctx);
// --- credentials, as clients send them

// The token of an Authorization header of the scheme Bearer, in any case; NULL: another one.
const char *login_bearer(const char *authorization);
// Whether a header's value has a key of this server in it, or what looks like one: bare, as a
// bearer's token, as user or password of Basic.
bool login_has_key(struct control *c, const char *value);
