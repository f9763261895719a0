// SPDX-License-Identifier: Apache-2.0
// GET and POST /files: download and upload. ctx is the struct agent.
#pragma once
#include "http/server.h"

void files_get(struct http_request *req, void *ctx);
void files_post(struct http_request *req, void *ctx);
int files_post_body(struct http_request *req, void *ctx, const void *data, size_t len);
