// SPDX-License-Identifier: Apache-2.0
// Is the agent there yet?
#pragma once
#include "base/macro.h"

// One TCP connection attempt with GET /health, for readiness loops. 0 when it answered 204.
int envd_probe(const char *ip, uint16_t port, int timeout_ms);
// Is anything at the address, be it a kernel that refuses the connection? -ETIMEDOUT or
// -EHOSTUNREACH where nothing answers; other errors say nothing of the guest.
int envd_reach(const char *ip, uint16_t port, int timeout_ms);
