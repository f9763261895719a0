// SPDX-License-Identifier: Apache-2.0
// The host's kept VMMs.
#pragma once
#include "http/server.h"
#include <jansson.h>

struct control;

void runtimes_list_get(struct http_request *r, void *ctx);
void runtimes_deny(struct http_request *r, void *ctx);
void runtimes_allow(struct http_request *r, void *ctx);
// Those besides the one that new sandboxes start on, as an array; null where the host does not say.
json_t *runtimes_kept_json(struct control *c);
