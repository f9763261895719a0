// SPDX-License-Identifier: Apache-2.0
// All calls: the table that the server is started with.
#pragma once
#include "http/server.h"

extern const struct http_route control_routes[];
extern const size_t control_n_routes;
// The first so many are the edge's own questions, on a socket of their own.
#define CONTROL_N_EDGE_ROUTES 3u
