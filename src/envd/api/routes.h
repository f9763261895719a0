// SPDX-License-Identifier: Apache-2.0
// All calls of the agent, for the HTTP server's configuration; ctx is the struct agent.
#pragma once
#include "envd/wake/agent.h"
#include "http/server.h"

extern const struct http_route agent_routes[];
extern const size_t agent_n_routes;
// Before each handler: may the caller call this?
bool routes_before(struct http_request *req, const struct http_route *route, void *ctx);
// Errors in the form of the protocol that was spoken.
void routes_format_error(
	struct http_request *req, int status, const struct err *e, struct strbuf *out);
