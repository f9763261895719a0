// SPDX-License-Identifier: Apache-2.0
// Pause and resume. Which of two calls at once wins is the host's decision; here only the plain
// cases are refused, with a clearer text.
#pragma once
#include "http/server.h"

void power_pause(struct http_request *r, void *ctx);
void power_resume(struct http_request *r, void *ctx);
