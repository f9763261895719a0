// SPDX-License-Identifier: Apache-2.0
// Buffered exec: runs a program by the guest's agent, straight over the sandbox's address, and
// replies when it has ended.
#pragma once
#include "http/server.h"

void exec_run(struct http_request *r, void *ctx);
