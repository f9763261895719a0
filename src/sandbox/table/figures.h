// SPDX-License-Identifier: Apache-2.0
// What pagers count; the latency as in struct pager_stats.
#pragma once
#include "pager/stats.h"

enum {
	PAGER_FAULTS,
	PAGER_BYTES,
	PAGER_AHEAD,
	PAGER_HITS,
	PAGER_BUSY_US,
	PAGER_LATENCY,
	PAGER_FIGURES = PAGER_LATENCY + STATS_BUCKETS
};
struct pager_figures {
	uint64_t n[PAGER_FIGURES];
};
