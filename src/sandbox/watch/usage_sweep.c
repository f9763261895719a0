// SPDX-License-Identifier: Apache-2.0
// One pass over the edges by place. Each step is O(1) however many owners have a block: an owner's
// bytes are counted from where it comes in to where it goes out, the unique ones while the number
// of owners inside is one; the sum of their indices is that one's index then.
#include "sandbox/watch/usage_sweep.h"
#include <stdlib.h>

static int by_place(const void *a, const void *b)
{
	const struct usage_edge *x = a, *y = b;
	return x->where < y->where ? -1 : x->where > y->where;
}

uint64_t usage_sweep(struct usage_edge *edges, size_t n, struct usage_owner *owners,
	size_t n_owners, size_t target)
{
	uint64_t at = 0, once = 0, with_target = 0, inside = 0, sum = 0;
	qsort(edges, n, sizeof *edges, by_place);
	for (size_t i = 0; i < n; i++) {
		const struct usage_edge *x = &edges[i];
		struct usage_owner *o = &owners[x->owner];
		uint64_t len = x->where - at;
		at = x->where;
		if (inside)
			once += len;
		if (inside == 1)
			owners[sum].unique += len;
		if (target < n_owners && owners[target].active)
			with_target += len;
		if (x->begins > 0 && o->active++ == 0) {
			inside++;
			sum += x->owner;
			o->since = at;
			o->common_since = with_target;
		} else if (x->begins < 0 && --o->active == 0) {
			inside--;
			sum -= x->owner;
			o->bytes += at - o->since;
			o->common += with_target - o->common_since;
		}
	}
	return once;
}
