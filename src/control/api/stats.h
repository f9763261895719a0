// SPDX-License-Identifier: Apache-2.0
// Counters of requests by route and status, as Prometheus text.
#pragma once
#include "base/str.h"
#include "http/server.h"

struct stats;

// The routes are borrowed and must outlive it.
struct stats *stats_new(const struct http_route *routes, size_t n);
struct stats *stats_free(struct stats *s);
void stats_count(struct stats *s, const struct http_route *route, int status, uint64_t duration_ns);
void stats_print(struct stats *s, struct strbuf *out);
