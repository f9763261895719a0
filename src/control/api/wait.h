// SPDX-License-Identifier: Apache-2.0
// GET /v1/sandboxes/{id}/wait.
#pragma once
#include "http/server.h"

void sandboxes_wait(struct http_request *r, void *ctx);
