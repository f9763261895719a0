// SPDX-License-Identifier: Apache-2.0
// The journal of changes.
#pragma once
#include "http/server.h"

void operations_list_get(struct http_request *r, void *ctx);
void operations_get_one(struct http_request *r, void *ctx);
