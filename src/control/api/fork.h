// SPDX-License-Identifier: Apache-2.0
// POST /v1/sandboxes/{id}/fork.
#pragma once
#include "http/server.h"

void fork_sandbox(struct http_request *r, void *ctx);
