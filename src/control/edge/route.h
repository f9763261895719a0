// SPDX-License-Identifier: Apache-2.0
// What nginx asks: where a request goes, and what to say of a port that does not answer.
#pragma once
#include "http/server.h"

void route_auth(struct http_request *r, void *ctx);
void route_closed(struct http_request *r, void *ctx);
// 204 for a key of the API, 401 for any other: asked before a large body is taken.
void route_key(struct http_request *r, void *ctx);
