// SPDX-License-Identifier: Apache-2.0
// GET and POST /files/tar: a file or a whole tree as one archive. Ours, not E2B's. ctx is the
// struct agent.
#pragma once
#include "http/server.h"

void files_tar_get(struct http_request *req, void *ctx);
void files_tar_post(struct http_request *req, void *ctx);
int files_tar_post_body(struct http_request *req, void *ctx, const void *data, size_t len);
