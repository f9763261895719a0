// SPDX-License-Identifier: Apache-2.0
// What uses the space of the host's volume, and what is there and unknown to it.
#pragma once
#include "http/server.h"

void usage_get(struct http_request *r, void *ctx);
void usage_get_unknown(struct http_request *r, void *ctx);
void usage_remove_unknown(struct http_request *r, void *ctx);
