// SPDX-License-Identifier: Apache-2.0
// Another access token for a sandbox.
#pragma once
#include "http/server.h"

void token_rotate(struct http_request *r, void *ctx);
