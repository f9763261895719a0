// SPDX-License-Identifier: Apache-2.0
// API keys.
#pragma once
#include "http/server.h"

void keys_create(struct http_request *r, void *ctx);
void keys_list_get(struct http_request *r, void *ctx);
void keys_get_one(struct http_request *r, void *ctx);
void keys_change(struct http_request *r, void *ctx);
void keys_delete(struct http_request *r, void *ctx);
