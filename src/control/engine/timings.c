// SPDX-License-Identifier: Apache-2.0
#include "control/engine/timings.h"
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include "base/clock.h"
#include "base/lock.h"

#define NAME_SIZE 32
// One more for exec, which is no operation of the journal.
#define KINDS (OPERATION_KIND_MAX + 1)
#define EXEC OPERATION_KIND_MAX

// Upper bounds in microseconds; the last bucket has the rest.
static const uint64_t bounds_us[] = {1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000,
	1000000, 2500000, 5000000, 10000000, 30000000, 60000000, 300000000};
#define BUCKETS (ARRAY_SIZE(bounds_us) + 1)

struct histogram {
	uint64_t n[BUCKETS], sum_us, count;
};

struct phase {
	char name[NAME_SIZE];
	struct histogram h;
};

struct timings {
	pthread_mutex_t lock;
	struct histogram whole[KINDS][2]; // [1]: failed
	struct phase *phases[KINDS];	  // NULL until there is one
	size_t n_phases[KINDS];
};

struct timings *timings_new(void)
{
	struct timings *t = calloc(1, sizeof *t);
	if (t)
		pthread_mutex_init(&t->lock, NULL);
	return t;
}

struct timings *timings_free(struct timings *t)
{
	if (!t)
		return NULL;
	for (size_t k = 0; k < KINDS; k++)
		free(t->phases[k]);
	pthread_mutex_destroy(&t->lock);
	free(t);
	return NULL;
}

static void count(struct histogram *h, uint64_t us)
{
	size_t i = 0;
	while (i < ARRAY_SIZE(bounds_us) && us > bounds_us[i])
		i++;
	h->n[i]++;
	h->sum_us += us;
	h->count++;
}

// Names are the host's: what could be no value of a label is passed over.
static bool is_name(const char *s)
{
	size_t n = s ? strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_.-") : 0;
	return n >= 1 && n < NAME_SIZE && !s[n];
}

static struct histogram *find_phase(struct timings *t, size_t kind, const char *name)
{
	struct phase *list = t->phases[kind];
	for (size_t i = 0; i < t->n_phases[kind]; i++)
		if (str_eq(list[i].name, name))
			return &list[i].h;
	if (!list)
		list = t->phases[kind] = calloc(TIMINGS_PHASES, sizeof *list);
	if (!list || t->n_phases[kind] == TIMINGS_PHASES)
		return NULL;
	struct phase *p = &list[t->n_phases[kind]++];
	snprintf(p->name, sizeof p->name, "%s", name);
	return &p->h;
}

// With the lock held.
static void add_phases(struct timings *t, enum operation_kind kind, const json_t *phases)
{
	size_t i;
	json_t *p;
	json_array_foreach (phases, i, p) {
		const char *name = json_string_value(json_object_get(p, "name"));
		json_int_t us = json_integer_value(json_object_get(p, "us"));
		struct histogram *h = is_name(name) ? find_phase(t, kind, name) : NULL;
		if (h)
			count(h, us > 0 ? (uint64_t)us : 0);
	}
}

void timings_add_phases(struct timings *t, enum operation_kind kind, const json_t *phases)
{
	if (!t)
		return;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	add_phases(t, kind, phases);
}

void timings_add(struct timings *t, const struct operation *op)
{
	if (!t)
		return;
	uint64_t ns = op->ended_ns > op->created_ns ? op->ended_ns - op->created_ns : 0;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	count(&t->whole[op->kind][op->state == OPERATION_FAILED], ns / 1000);
	add_phases(t, op->kind, op->phases);
}

void timings_add_exec(struct timings *t, uint64_t ns, bool failed)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	count(&t->whole[EXEC][failed], ns / 1000);
}

static void print(
	const struct histogram *h, const char *name, const char *labels, struct strbuf *out)
{
	uint64_t below = 0;
	for (size_t i = 0; i < BUCKETS; i++) {
		below += h->n[i];
		strbuf_addf(out, "%s_bucket{%s,le=\"", name, labels);
		if (i < ARRAY_SIZE(bounds_us))
			strbuf_addf(out, "%g", (double)bounds_us[i] / 1e6);
		else
			strbuf_adds(out, "+Inf");
		strbuf_addf(out, "\"} %" PRIu64 "\n", below);
	}
	strbuf_addf(out, "%s_sum{%s} %.6f\n%s_count{%s} %" PRIu64 "\n", name, labels,
		(double)h->sum_us / 1e6, name, labels, h->count);
}

static const char *kind_name(size_t kind)
{
	return kind == EXEC ? "exec" : operation_kind_name((enum operation_kind)kind);
}

void timings_print(struct timings *t, struct strbuf *out)
{
	static const char *const outcomes[] = {"done", "failed"};
	char labels[128];
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&t->lock);
	strbuf_adds(out,
		"# HELP stasis_operation_seconds From the request to the end of the operation.\n"
		"# TYPE stasis_operation_seconds histogram\n");
	for (size_t k = 0; k < KINDS; k++)
		for (size_t f = 0; f < 2; f++) {
			snprintf(labels, sizeof labels, "operation=\"%s\",outcome=\"%s\"",
				kind_name(k), outcomes[f]);
			// One without an error is shown as 0, so that a first one is an increase.
			if (t->whole[k][f].count || f == 0)
				print(&t->whole[k][f], "stasis_operation_seconds", labels, out);
		}
	strbuf_adds(out, "# HELP stasis_operation_phase_seconds Phases of operations, as the host "
			 "took them.\n"
			 "# TYPE stasis_operation_phase_seconds histogram\n");
	for (size_t k = 0; k < KINDS; k++)
		for (size_t i = 0; i < t->n_phases[k]; i++) {
			snprintf(labels, sizeof labels, "operation=\"%s\",phase=\"%s\"",
				kind_name(k), t->phases[k][i].name);
			print(&t->phases[k][i].h, "stasis_operation_phase_seconds", labels, out);
		}
}
