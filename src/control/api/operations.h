// SPDX-License-Identifier: Apache-2.0
// The journal of changes.
#pragma once
#include "control/state/operations.h"
#include "http/server.h"

// As the API shows it; owned by the caller.
json_t *operations_json(const struct operation *op);
void operations_list_get(struct http_request *r, void *ctx);
void operations_get_one(struct http_request *r, void *ctx);
