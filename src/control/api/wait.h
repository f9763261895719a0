// SPDX-License-Identifier: Apache-2.0
// GET /v1/sandboxes/{id}/wait.
#pragma once
#include "http/server.h"

#define WAIT_CALLS_MAX 512 // at once: half of the connections

void sandboxes_wait(struct http_request *r, void *ctx);
