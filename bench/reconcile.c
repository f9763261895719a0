// SPDX-License-Identifier: Apache-2.0
// A look of the reconciler at many sandboxes that are as they should be, and a page of the list out
// of many rows: CPU time of this process, on a host that answers from memory.
//
//	bench-reconcile [sandboxes] [rows]	10000 and 100000 unless given
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/embed.h"
#include "control/api/context.h"
#include "control/api/sandbox_list.h"
#include "control/engine/catchup.h"
#include "control/engine/start.h"
#include "control/engine/upkeep.h"

extern const struct embed control_migrations[];

#define ROUNDS 21

static struct host_sandbox *boxes;
static size_t n_boxes;

static int host_list_(void *host, struct host_sandbox **ret, size_t *ret_n, struct err *e)
{
	*ret = malloc((n_boxes + 1) * sizeof **ret);
	memcpy(*ret, boxes, n_boxes * sizeof *boxes);
	*ret_n = n_boxes;
	return 0;
}

static int host_snapshots_(void *host, struct host_snapshot **ret, size_t *ret_n, struct err *e)
{
	*ret = calloc(1, sizeof **ret);
	*ret_n = 0;
	return 0;
}

static int host_info_(void *host, struct host_info *ret, struct err *e)
{
	*ret = (struct host_info){.volume_ok = true};
	return 0;
}

static uint64_t now_ns(void *ctx)
{
	return clock_realtime_ns();
}

static void new_uuid(void *ctx, char out[UUID_SIZE])
{
	id_new_uuid(out);
}

static void die(const struct err *e)
{
	fprintf(stderr, "%s\n", e->text);
	exit(1);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static double median_ms(uint64_t *list, size_t n)
{
	qsort(list, n, sizeof *list, by_value);
	return (double)list[n / 2] / 1e6;
}

static void fill(struct engine *en, size_t n, bool ended)
{
	struct err e = {0};
	json_t *none = json_object();
	const struct host_sandbox last = {
		.state = SANDBOX_STOPPED, .stopped_ns = clock_realtime_ns(), .cause = "timeout"};
	if (!boxes)
		boxes = calloc(n + 100, sizeof *boxes);
	for (size_t i = 0; i < n; i += 100) {
		struct row_new new[100];
		struct sandbox_row *rows[100];
		char ids[100][64];
		for (size_t k = 0; k < 100; k++) {
			id_new_sandbox(ids[k]);
			new[k] = (struct row_new){
				.id = ids[k], .template = "base", .metadata = none, .env = none};
		}
		if (rows_add(en->rows, new, 100, clock_realtime_ns(), NULL, rows, &e) < 0)
			die(&e);
		for (size_t k = 0; k < 100; k++) {
			if ((ended ? rows_end(en->rows, rows[k], &last, NULL, &e)
				   : rows_live(en->rows, rows[k], ROW_RUNNING, 1, false, NULL,
					     &e)) < 0)
				die(&e);
			row_unref(rows[k]);
			if (ended)
				continue;
			boxes[n_boxes] =
				(struct host_sandbox){.state = SANDBOX_RUNNING, .generation = 1};
			snprintf(boxes[n_boxes++].id, 64, "%s", ids[k]);
		}
	}
	json_decref(none);
}

static double measure_look(struct engine *en)
{
	uint64_t took[ROUNDS];
	struct err e = {0};
	for (int i = -1; i < ROUNDS; i++) {
		struct look *l;
		uint64_t t = cpu_ns();
		if (engine_look(en, false, &l, &e) < 0)
			die(&e);
		engine_apply(en, l);
		if (l->n_actions != 0) {
			fprintf(stderr, "%zu differences\n", l->n_actions);
			exit(1);
		}
		look_free(l);
		if (i >= 0)
			took[i] = cpu_ns() - t;
	}
	return median_ms(took, ROUNDS);
}

// As the list does it: the host's report sorted, then the newest 100 rows looked up in it.
static double measure_list(struct engine *en)
{
	uint64_t took[ROUNDS];
	struct control c = {.rows = en->rows, .host = en->host, .underway = en->underway};
	c.engine = *en;
	for (int i = -1; i < ROUNDS; i++) {
		struct err e = {0};
		uint64_t t = cpu_ns();
		json_t *j = sandboxes_page(&c, 100, &e);
		if (!j)
			die(&e);
		char *text = json_dumps(j, JSON_COMPACT);
		if (i >= 0)
			took[i] = cpu_ns() - t;
		if (json_array_size(j) != 100)
			exit(1);
		free(text);
		json_decref(j);
	}
	return median_ms(took, ROUNDS);
}

int main(int argc, char **argv)
{
	size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 10000;
	size_t rows = argc > 2 ? strtoul(argv[2], NULL, 10) : 100000;
	static const struct hostagent_ops ops = {
		.list = host_list_, .snapshots = host_snapshots_, .info = host_info_};
	struct engine en = {.host = {&ops, NULL}, .now_ns = now_ns, .new_uuid = new_uuid};
	struct err e = {0};
	log_setup("bench-reconcile", LOG_LEVEL_WARN);
	if (db_open(":memory:", control_migrations, &en.db, &e) < 0 ||
		rows_load(en.db, "k", 1, &en.rows, &e) < 0 ||
		underway_load(en.db, &en.underway, &e) < 0 || engine_init(&en, &e) < 0)
		die(&e);
	fill(&en, n, false);
	printf("reconcile of %zu without differences: %.1f ms CPU (median of %d)\n", n_boxes,
		measure_look(&en), ROUNDS);
	n_boxes = 200; // what a host has at most by default; the others are taken for ended
	fill(&en, rows > rows_count(en.rows) ? rows - rows_count(en.rows) : 0, true);
	printf("list of 100 among %zu rows: %.2f ms CPU (median of %d)\n", rows_count(en.rows),
		measure_list(&en), ROUNDS);
	return 0;
}
