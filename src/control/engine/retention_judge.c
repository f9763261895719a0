// SPDX-License-Identifier: Apache-2.0
#include "control/engine/retention_judge.h"
#include <string.h>
#include "base/macro.h"
#include "base/str.h"

static bool fits(const struct retention_rule *r, const struct retention_subject *s)
{
	return !s->kept && s->kind == r->kind &&
	       (!r->api_key[0] || str_eq(r->api_key, s->api_key)) &&
	       (!r->template[0] || str_eq(r->template, s->template));
}

static const char *group_of(const struct retention_rule *r, const struct retention_subject *s)
{
	return r->per == RETENTION_PER_KEY	  ? s->api_key
	       : r->per == RETENTION_PER_TEMPLATE ? s->template
						  : "";
}

// The newest first; of the same age in a fixed order.
static int by_age(const void *a, const void *b)
{
	const struct retention_subject *x = *(struct retention_subject *const *)a,
				       *y = *(struct retention_subject *const *)b;
	if (x->age_sec != y->age_sec)
		return x->age_sec < y->age_sec ? -1 : 1;
	return strcmp(x->id, y->id);
}

// The largest unit that is exact or leaves two of it at least: "90 s", "30 d".
static void span(uint64_t sec, char out[32])
{
	static const struct {
		uint64_t sec;
		const char *name;
	} units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
	size_t u = 0;
	while (units[u].sec > 1 && sec < 2 * units[u].sec && sec != units[u].sec)
		u++;
	snprintf(out, 32, "%llu %s", (unsigned long long)(sec / units[u].sec), units[u].name);
}

static void size(uint64_t bytes, char out[32])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	size_t u = 0;
	double v = (double)bytes;
	for (; v >= 1024 && u + 1 < ARRAY_SIZE(units); u++)
		v /= 1024;
	snprintf(out, 32, v < 10 && u ? "%.1f %s" : "%.0f %s", v, units[u]);
}

static void take_by_age(struct retention_subject *s, size_t rule, uint64_t max_sec)
{
	char is[32], than[32];
	span(s->age_sec, is);
	span(max_sec, than);
	s->rule = rule;
	snprintf(s->reason, sizeof s->reason, "not used for %s, the rule says %s", is, than);
}

static void take_by_size(struct retention_subject *s, size_t rule, uint64_t bytes, uint64_t max)
{
	char is[32], than[32];
	size(bytes, is);
	size(max, than);
	s->rule = rule;
	snprintf(s->reason, sizeof s->reason, "its group has %s alone, the rule says %s", is, than);
}

static void take_by_number(struct retention_subject *s, size_t rule, size_t newer, uint64_t keep)
{
	s->rule = rule;
	snprintf(s->reason, sizeof s->reason, "%zu newer ones, the rule keeps %llu", newer,
		(unsigned long long)keep);
}

// One group, the newest first.
static void judge_group(struct retention_subject **g, size_t n, const struct retention_rule *r,
	size_t rule, bool bytes_known)
{
	uint64_t keep = r->has_newest ? r->keep_newest : 0, bytes = 0;
	if (r->has_bytes)
		keep = MAX(keep, 1u);
	for (size_t i = 0; i < n; i++) // but what an earlier rule takes
		bytes += g[i]->rule == SIZE_MAX ? g[i]->unique_bytes : 0;
	for (size_t i = n; i-- > keep;) {
		struct retention_subject *s = g[i];
		if (s->rule != SIZE_MAX)
			continue;
		if (r->has_age && s->age_sec >= r->max_age_sec)
			take_by_age(s, rule, r->max_age_sec);
		else if (r->has_bytes && bytes_known && bytes > r->max_bytes)
			take_by_size(s, rule, bytes, r->max_bytes);
		else if (!r->has_age && !r->has_bytes)
			take_by_number(s, rule, i, r->keep_newest);
		if (s->rule != SIZE_MAX)
			bytes -= s->unique_bytes;
	}
}

int retention_judge(struct retention_subject *list, size_t n, const struct retention_rule *rules,
	size_t n_rules, bool bytes_known)
{
	_cleanup_free_ struct retention_subject **mine = calloc(n + 1, sizeof *mine),
						**group = calloc(n + 1, sizeof *group);
	if (!mine || !group)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		list[i].rule = SIZE_MAX;
		list[i].reason[0] = '\0';
	}
	for (size_t k = 0; k < n_rules; k++) {
		size_t m = 0;
		for (size_t i = 0; i < n; i++)
			if (fits(&rules[k], &list[i]))
				mine[m++] = &list[i];
		qsort(mine, m, sizeof *mine, by_age);
		for (size_t first = 0; first < m; first++) {
			if (!mine[first])
				continue;
			const char *name = group_of(&rules[k], mine[first]);
			size_t size = 0;
			for (size_t i = first; i < m; i++)
				if (mine[i] && str_eq(group_of(&rules[k], mine[i]), name)) {
					group[size++] = mine[i];
					if (i > first)
						mine[i] = NULL;
				}
			judge_group(group, size, &rules[k], k, bytes_known);
		}
	}
	return 0;
}
