// SPDX-License-Identifier: Apache-2.0
// A look at the host as a call.
#pragma once
#include "http/server.h"

void reconcile_now(struct http_request *r, void *ctx);
