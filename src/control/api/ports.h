// SPDX-License-Identifier: Apache-2.0
// The tokens and one-time links that open the ports of a private sandbox.
#pragma once
#include "http/server.h"

void ports_new_token(struct http_request *r, void *ctx);
void ports_new_link(struct http_request *r, void *ctx);
