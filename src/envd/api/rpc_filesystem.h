// SPDX-License-Identifier: Apache-2.0
// The calls of filesystem.Filesystem. ctx is the struct agent.
#pragma once
#include "http/server.h"

void rpc_filesystem_unary(struct http_request *req, void *ctx);
