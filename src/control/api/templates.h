// SPDX-License-Identifier: Apache-2.0
// What sandboxes are made from: images and snapshots.
#pragma once
#include "http/server.h"

void templates_list_all(struct http_request *r, void *ctx);
