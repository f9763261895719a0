// SPDX-License-Identifier: Apache-2.0
#include "cli/command/figures.h"
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/utsname.h>
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/output.h"

const char *const figure_names[F_MAX] = {
	[F_CREATE] = "create",
	[F_CREATE_EXEC] = "create to exec",
	[F_EXEC] = "exec",
	[F_PAUSE] = "pause",
	[F_RESUME] = "resume",
	[F_RESUME_EXEC] = "resume to exec",
	[F_FORK_FIRST] = "fork, first child",
	[F_FORK] = "fork",
	[F_SNAPSHOT] = "snapshot",
	[F_SPAWN] = "spawn",
};

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static json_t *figure_json(struct figures *x, enum figure f)
{
	json_t *samples = json_array();
	size_t n = x->n[f];
	for (size_t i = 0; i < n; i++)
		json_array_append_new(samples, json_integer((json_int_t)x->samples[f][i]));
	qsort(x->samples[f], n, sizeof *x->samples[f], by_value);
	const uint64_t *s = x->samples[f];
	uint64_t median = n % 2 ? s[n / 2] : (s[n / 2 - 1] + s[n / 2]) / 2;
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:O}", "name", figure_names[f],
		"unit", "us", "median", (json_int_t)median, "p90",
		(json_int_t)s[(n * 9 + 9) / 10 - 1], "min", (json_int_t)s[0], "max",
		(json_int_t)s[n - 1], "samples", samples, "phases", x->phases[f]);
}

static void cpu_model(char out[128])
{
	_cleanup_strbuf_ struct strbuf text = {0};
	snprintf(out, 128, "unknown");
	if (file_read(AT_FDCWD, "/proc/cpuinfo", 1u << 20, &text) < 0 || !text.len)
		return;
	const char *name = strstr(text.data, "model name");
	const char *colon = name ? strchr(name, ':') : NULL;
	if (colon)
		snprintf(out, 128, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
}

int figures_machine(struct cli *c, json_t **ret, struct err *e)
{
	struct utsname u;
	char cpu[128];
	int rc = api_call(c, "GET", "/v1/host", NULL, ret, e);
	if (rc < 0)
		return rc;
	uname(&u);
	cpu_model(cpu);
	json_object_set_new(*ret, "client_kernel", json_string(u.release));
	json_object_set_new(*ret, "client_cpu", json_string(cpu));
	json_object_set_new(*ret, "url", json_string(c->base_url));
	return 0;
}

static const char *text_of(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));
	return s ? s : "-";
}

static int print_table(const struct figures *x, const json_t *report)
{
	static const char *const columns[] = {"median", "p90", "min", "max"};
	const json_t *machine = json_object_get(report, "machine"), *figure;
	size_t i;
	printf("stasis %s, %s, isolation %s\n%lld CPUs, %lld MiB; %s, Linux %s\n"
	       "template %s, %" PRIu64 " children a fork, %" PRIu64
	       " MiB written before a pause\n\n",
		text_of(machine, "version"), text_of(machine, "vmm"), text_of(machine, "isolation"),
		(long long)json_integer_value(json_object_get(machine, "cpus")),
		(long long)json_integer_value(json_object_get(machine, "memory_mb")),
		text_of(machine, "client_cpu"), text_of(machine, "client_kernel"),
		x->template ? x->template : "base", x->children, x->dirty_mib);
	_cleanup_table_ struct table t;
	table_init(
		&t, (const char *const[]){"FIGURE", "RUNS", "MEDIAN", "P90", "MIN", "MAX", NULL});
	json_array_foreach (json_object_get(report, "figures"), i, figure) {
		table_cell(&t, "%s", text_of(figure, "name"));
		table_cell(&t, "%zu", json_array_size(json_object_get(figure, "samples")));
		for (size_t k = 0; k < ARRAY_SIZE(columns); k++) {
			char ms[24];
			human_ms((uint64_t)json_integer_value(json_object_get(figure, columns[k])),
				ms);
			table_cell(&t, "%s", ms);
		}
	}
	return table_print(&t, stdout);
}

int figures_print(const struct cli *c, struct figures *x, json_t *machine)
{
	_cleanup_json_ json_t *figures = json_array();
	for (int f = 0; f < F_MAX; f++)
		if (x->n[f])
			json_array_append_new(figures, figure_json(x, (enum figure)f));
	_cleanup_json_ json_t *report = json_pack("{s:O, s:I, s:I, s:I, s:s, s:O}", "machine",
		machine, "runs", (json_int_t)x->runs, "children", (json_int_t)x->children,
		"dirty_mib", (json_int_t)x->dirty_mib, "template",
		x->template ? x->template : "base", "figures", figures);
	if (!report)
		return -ENOMEM;
	return c->json ? output_json(report) : print_table(x, report);
}
