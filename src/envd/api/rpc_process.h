// SPDX-License-Identifier: Apache-2.0
// The calls of process.Process. ctx is the struct agent.
#pragma once
#include "http/server.h"

void rpc_process_unary(struct http_request *req, void *ctx);
void rpc_process_start(struct http_request *req, void *ctx);
void rpc_process_connect(struct http_request *req, void *ctx);
