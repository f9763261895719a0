// SPDX-License-Identifier: Apache-2.0
// The server and its host: health, capacity, counters, the description of the API.
#pragma once
#include "http/server.h"

void status_health(struct http_request *r, void *ctx);
void status_host(struct http_request *r, void *ctx);
void status_openapi(struct http_request *r, void *ctx);
