// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "http/server.h"

void retention_get(struct http_request *r, void *ctx);
void retention_set_rule(struct http_request *r, void *ctx);
void retention_delete_rule(struct http_request *r, void *ctx);
void retention_set_kept(struct http_request *r, void *ctx);
void retention_delete_kept(struct http_request *r, void *ctx);
void retention_run_now(struct http_request *r, void *ctx);
