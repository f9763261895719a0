// SPDX-License-Identifier: Apache-2.0
#include "control/api/stats.h"
#include <inttypes.h>
#include <stdatomic.h>

// The last entry stands for all other ones.
static const int statuses[] = {
	200, 201, 204, 400, 401, 404, 405, 409, 413, 429, 500, 501, 502, 503, 504, 507, 0};

struct counter {
	_Atomic uint64_t by_status[ARRAY_SIZE(statuses)];
	_Atomic uint64_t sum_ns, count;
};

struct stats {
	const struct http_route *routes;
	size_t n;
	struct counter counters[]; // one a route, and one for requests that matched none
};

struct stats *stats_new(const struct http_route *routes, size_t n)
{
	struct stats *s = calloc(1, sizeof *s + (n + 1) * sizeof s->counters[0]);
	if (s) {
		s->routes = routes;
		s->n = n;
	}
	return s;
}

struct stats *stats_free(struct stats *s)
{
	free(s);
	return NULL;
}

void stats_count(struct stats *s, const struct http_route *route, int status, uint64_t duration_ns)
{
	struct counter *c = &s->counters[route ? (size_t)(route - s->routes) : s->n];
	size_t i = 0;
	while (statuses[i] && statuses[i] != status)
		i++;
	c->by_status[i]++;
	c->sum_ns += duration_ns;
	c->count++;
}

static void labels(struct stats *s, size_t i, struct strbuf *out)
{
	if (i == s->n)
		strbuf_adds(out, "method=\"\",route=\"unknown\"");
	else
		strbuf_addf(out, "method=\"%s\",route=\"%s\"", s->routes[i].method,
			s->routes[i].pattern);
}

void stats_print(struct stats *s, struct strbuf *out)
{
	strbuf_adds(out, "# HELP stasis_http_requests_total Requests answered by the API server.\n"
			 "# TYPE stasis_http_requests_total counter\n");
	for (size_t i = 0; i <= s->n; i++) {
		for (size_t k = 0; k < ARRAY_SIZE(statuses); k++) {
			uint64_t v = s->counters[i].by_status[k];
			if (!v)
				continue;
			strbuf_adds(out, "stasis_http_requests_total{");
			labels(s, i, out);
			if (statuses[k])
				strbuf_addf(out, ",status=\"%d\"} %" PRIu64 "\n", statuses[k], v);
			else
				strbuf_addf(out, ",status=\"other\"} %" PRIu64 "\n", v);
		}
	}
	strbuf_adds(out, "# HELP stasis_http_request_duration_seconds Until the reply was ready.\n"
			 "# TYPE stasis_http_request_duration_seconds summary\n");
	for (size_t i = 0; i <= s->n; i++) {
		uint64_t count = s->counters[i].count, sum = s->counters[i].sum_ns;
		if (!count)
			continue;
		strbuf_adds(out, "stasis_http_request_duration_seconds_sum{");
		labels(s, i, out);
		strbuf_addf(
			out, "} %" PRIu64 ".%09" PRIu64 "\n", sum / 1000000000, sum % 1000000000);
		strbuf_adds(out, "stasis_http_request_duration_seconds_count{");
		labels(s, i, out);
		strbuf_addf(out, "} %" PRIu64 "\n", count);
	}
}
