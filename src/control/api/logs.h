// SPDX-License-Identifier: Apache-2.0
// A sandbox's console.
#pragma once
#include "http/server.h"

void sandboxes_logs(struct http_request *r, void *ctx);
