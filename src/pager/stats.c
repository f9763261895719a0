// SPDX-License-Identifier: Apache-2.0
#include "pager/stats.h"
#include <inttypes.h>
#include <jansson.h>

void stats_add_latency(struct pager_stats *s, uint64_t ns)
{
	uint64_t us = ns / 1000;
	int bucket = us ? 64 - __builtin_clzll(us) : 0;
	s->latency[MIN(bucket, STATS_BUCKETS - 1)]++;
	s->busy_ns += ns;
	s->max_ns = MAX(s->max_ns, ns);
}

void stats_write(const struct pager_stats *s, const char *note, struct strbuf *out)
{
	const struct {
		const char *name;
		uint64_t value;
	} fields[] = {
		{"faults", s->faults},
		{"copied_pages", s->copied_pages},
		{"zero_pages", s->zero_pages},
		{"bytes", (s->copied_pages + s->prefetch_pages - s->prefetch_zero_pages) * 4096},
		{"eexist", s->eexist},
		{"eagain", s->eagain},
		{"removes", s->removes},
		{"removed_pages", s->removed_pages},
		{"reads", s->reads},
		{"waits", s->waits},
		{"prefetch_pages", s->prefetch_pages},
		{"prefetch_zero_pages", s->prefetch_zero_pages},
		{"prefetch_hits", s->prefetch_hits},
		{"prefetch_us", s->prefetch_ns / 1000},
		{"busy_us", s->busy_ns / 1000},
		{"max_us", s->max_ns / 1000},
	};
	strbuf_adds(out, "{");
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		strbuf_addf(out, "\"%s\":%" PRIu64 ",", fields[i].name, fields[i].value);
	// Counts of faults answered in less than 1, 2, 4, ... microseconds; the last: longer.
	strbuf_adds(out, "\"latency_us\":[");
	for (int i = 0; i < STATS_BUCKETS; i++)
		strbuf_addf(out, "%s%" PRIu64, i ? "," : "", s->latency[i]);
	strbuf_adds(out, "],\"note\":");
	json_t *j = json_string(note ? note : "");
	char *quoted = j ? json_dumps(j, JSON_ENCODE_ANY) : NULL;
	strbuf_adds(out, quoted ? quoted : "\"\"");
	free(quoted);
	json_decref(j);
	strbuf_adds(out, "}\n");
}
