// SPDX-License-Identifier: Apache-2.0
// The answer to Start and Connect: a stream of what the process does.
#pragma once
#include "envd/process/process.h"
#include "http/server.h"

// Replies with the events of sub, which it takes over: start, output, signs of life, end. is_start:
// the request's time-out is the process's own, not the stream's.
void process_stream_reply(struct http_request *req, struct process_sub *sub, bool is_start);
