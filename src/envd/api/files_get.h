// SPDX-License-Identifier: Apache-2.0
// GET /files: a file, streamed. ctx is the struct agent.
#pragma once
#include "http/server.h"

void files_get(struct http_request *req, void *ctx);
