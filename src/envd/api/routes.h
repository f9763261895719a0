// SPDX-License-Identifier: Apache-2.0
// All calls of the agent, for the HTTP server's configuration; ctx is the struct agent.
#pragma once
#include "envd/wake/agent.h"
#include "http/server.h"

#define ROUTE_PUBLIC 1u // no token needed
#define ROUTE_OWN 2u	// the handler checks the token: /init, which sets it
#define ROUTE_HOST 4u	// for the host alone, see struct agent_host
#define ROUTE_ANY 8u	// what no other route takes

extern const struct http_route agent_routes[];
extern const size_t agent_n_routes;
// Before each handler: may the caller call this?
bool routes_before(struct http_request *req, const struct http_route *route, void *ctx);
// Errors in the form of the protocol that was spoken.
void routes_format_error(
	struct http_request *req, int status, const struct err *e, struct strbuf *out);
