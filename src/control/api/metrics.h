// SPDX-License-Identifier: Apache-2.0
// What is counted: of all, as Prometheus text, and of one sandbox.
#pragma once
#include "http/server.h"

void metrics_get_all(struct http_request *r, void *ctx);
void metrics_get_one(struct http_request *r, void *ctx);
