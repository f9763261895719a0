// SPDX-License-Identifier: Apache-2.0
// /v1/webhooks: who is told of events, and what became of it.
#pragma once
#include "http/server.h"

void webhooks_create(struct http_request *r, void *ctx);
void webhooks_list_get(struct http_request *r, void *ctx);
void webhooks_get_one(struct http_request *r, void *ctx);
void webhooks_update(struct http_request *r, void *ctx);
void webhooks_delete(struct http_request *r, void *ctx);
void webhooks_list_deliveries(struct http_request *r, void *ctx);
void webhooks_send_test(struct http_request *r, void *ctx);
