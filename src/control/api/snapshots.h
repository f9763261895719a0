// SPDX-License-Identifier: Apache-2.0
// Snapshots have an id, chosen here and known to the host, and a name, known here alone. A deletion
// takes the name away first, so that nobody starts from what is about to go, and is done for the
// client then: the host is asked until it has followed.
#pragma once
#include "http/server.h"

void snapshots_create(struct http_request *r, void *ctx);
void snapshots_list(struct http_request *r, void *ctx);
void snapshots_get(struct http_request *r, void *ctx);
void snapshots_check(struct http_request *r, void *ctx);
void snapshots_rewarm(struct http_request *r, void *ctx);
void snapshots_update(struct http_request *r, void *ctx);
void snapshots_delete(struct http_request *r, void *ctx);
