// SPDX-License-Identifier: Apache-2.0
// What nginx asks: where a request goes, and how one is refused.
#pragma once
#include "http/server.h"

void route_auth(struct http_request *r, void *ctx);
void route_refuse(struct http_request *r, void *ctx);
int route_drop_body(struct http_request *r, void *ctx, const void *data, size_t len);
