// SPDX-License-Identifier: Apache-2.0
// Creating, reading and deleting a sandbox. A row (what was asked for) is written before the host
// is told, and a sandbox is shown as row and host's report together.
#pragma once
#include "http/server.h"

void sandboxes_create(struct http_request *r, void *ctx);
void sandboxes_get(struct http_request *r, void *ctx);
void sandboxes_delete(struct http_request *r, void *ctx);
