// SPDX-License-Identifier: Apache-2.0
// What the pager counts, and its JSON: read by the server for /metrics.
#pragma once
#include "base/str.h"

#define STATS_BUCKETS 16 // bucket i counts less than 2^i microseconds, the last one all the rest

struct pager_stats {
	uint64_t faults;	 // messages that asked for a page
	uint64_t copied_pages;	 // faults answered from a layer
	uint64_t zero_pages;	 // faults answered with zeros
	uint64_t eexist, eagain; // the page was there already; an unread remove stood in the way
	uint64_t removes, removed_pages;
	uint64_t reads, waits;	 // system calls made for them
	uint64_t prefetch_pages; // loaded ahead; prefetch_zero_pages of them zeros
	uint64_t prefetch_zero_pages;
	uint64_t prefetch_hits; // faults that found their page loaded ahead since they were raised
	uint64_t prefetch_ns;	// from the first chunk to the last, faults in between included
	uint64_t busy_ns, max_ns; // of faults, from the read of the message to the answer
	uint64_t latency[STATS_BUCKETS];
};

void stats_add_latency(struct pager_stats *s, uint64_t ns);
// One JSON object and a newline. note is NULL or a reason why something was left out.
void stats_write(const struct pager_stats *s, const char *note, struct strbuf *out);
