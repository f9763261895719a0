// SPDX-License-Identifier: Apache-2.0
// POST /files: one file, or several in a form, streamed. ctx is the struct agent.
#pragma once
#include "http/server.h"

void files_post(struct http_request *req, void *ctx);
int files_post_body(struct http_request *req, void *ctx, const void *data, size_t len);
