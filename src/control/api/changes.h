// SPDX-License-Identifier: Apache-2.0
// Changing a sandbox that is there: its time-out; its name, metadata and on_timeout. Of several at
// once the last one counts.
#pragma once
#include "http/server.h"

void sandboxes_update(struct http_request *r, void *ctx);
void sandboxes_set_timeout(struct http_request *r, void *ctx);
