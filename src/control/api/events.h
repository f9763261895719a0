// SPDX-License-Identifier: Apache-2.0
// What happened, as the host told it (feed.h): as pages, or followed line by line.
#pragma once
#include "http/server.h"

void events_list(struct http_request *r, void *ctx);
