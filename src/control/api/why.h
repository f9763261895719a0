// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "http/server.h"

// GET /v1/sandboxes/{id}/why: in one answer what is known of an end, or of the last failure.
void why_get(struct http_request *r, void *ctx);
