// SPDX-License-Identifier: Apache-2.0
// du, gc.
#include <string.h>
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/command/all.h"

static uint64_t number(const json_t *j, const char *object, const char *key)
{
	const json_t *o = object ? json_object_get(j, object) : j;
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

// --- the sum: its lines add up to what is used

static void add_row(struct table *t, const char *what, const json_t *j, const char *object,
	const char *bytes, bool counted)
{
	char size[24];
	human_size(number(j, object, bytes), size);
	table_cell(t, "%s", what);
	if (counted)
		table_cell(t, "%llu", (unsigned long long)number(j, object, "count"));
	else
		table_cell(t, "-");
	table_cell(t, "%s", size);
}

static int print_sum(const json_t *j)
{
	_cleanup_table_ struct table t;
	table_init(&t, (const char *const[]){"WHAT", "COUNT", "SIZE", NULL});
	add_row(&t, "sandboxes", j, "sandboxes", "bytes", true);
	add_row(&t, "snapshots", j, "snapshots", "bytes", true);
	add_row(&t, "images", j, "images", "bytes", true);
	add_row(&t, "shared by several", j, "shared", "bytes", false);
	add_row(&t, "kernels and VMMs", j, "programs", "bytes", false);
	add_row(&t, "databases", j, "databases", "bytes", false);
	add_row(&t, "being made or removed", j, "pending", "bytes", false);
	add_row(&t, "unknown", j, "unknown", "bytes", true);
	add_row(&t, "file system and others", j, "other", "bytes", false);
	add_row(&t, "used", j, NULL, "used_bytes", false);
	add_row(&t, "free", j, NULL, "free_bytes", false);
	add_row(&t, "volume", j, NULL, "total_bytes", false);
	return table_print(&t, stdout);
}

// --- the items

static const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));
	return s ? s : "-";
}

static void add_size(struct table *t, const json_t *j, const char *key)
{
	char size[24];
	human_size(number(j, NULL, key), size);
	table_cell(t, "%s", size);
}

static int by_name(const void *a, const void *b)
{
	const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
	int c = strcmp(text(x, "kind"), text(y, "kind"));
	c = c ? c : strcmp(text(x, "name"), text(y, "name"));
	return c ? c : strcmp(text(x, "id"), text(y, "id"));
}

static int by_number(const void *a, const void *b, const char *key)
{
	const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
	uint64_t n = number(x, NULL, key), m = number(y, NULL, key);
	return n < m ? 1 : n > m ? -1 : by_name(a, b);
}

static int by_size(const void *a, const void *b)
{
	return by_number(a, b, "bytes");
}

static int by_frees(const void *a, const void *b)
{
	return by_number(a, b, "frees_bytes");
}

typedef int (*order_fn)(const void *a, const void *b);
static const struct {
	const char *name;
	order_fn f;
} orders[] = {{"frees", by_frees}, {"size", by_size}, {"name", by_name}};

static int print_items(const json_t *items, bool layers, order_fn order)
{
	size_t n = json_array_size(items), shown = 0;
	_cleanup_free_ json_t **list = calloc(n + 1, sizeof *list);
	_cleanup_table_ struct table t;
	table_init(&t, (const char *const[]){"KIND", "ID", "NAME", "STATE", "SIZE", "MEMORY",
			       "UNIQUE", "SHARED", "FREES", "LAYERS", NULL});
	for (size_t i = 0; list && i < n; i++) {
		json_t *x = json_array_get(items, i);
		if (layers || !str_eq(text(x, "kind"), "layer"))
			list[shown++] = x;
	}
	if (list)
		qsort(list, shown, sizeof *list, order);
	for (size_t i = 0; i < shown; i++) {
		static const char *const words[] = {"kind", "id", "name", "state"};
		static const char *const sizes[] = {
			"bytes", "memory_bytes", "unique_bytes", "shared_bytes", "frees_bytes"};
		for (size_t k = 0; k < ARRAY_SIZE(words); k++)
			table_cell(&t, "%s", text(list[i], words[k]));
		for (size_t k = 0; k < ARRAY_SIZE(sizes); k++)
			add_size(&t, list[i], sizes[k]);
		table_cell(&t, "%llu", (unsigned long long)number(list[i], NULL, "layers"));
	}
	return list ? table_print(&t, stdout) : -ENOMEM;
}

static int print_shares(const json_t *shares)
{
	size_t i;
	const json_t *x;
	_cleanup_table_ struct table t;
	table_init(&t, (const char *const[]){"SHARED WITH", "ID", "NAME", "SIZE", NULL});
	json_array_foreach (shares, i, x) {
		table_cell(&t, "%s", text(x, "kind"));
		table_cell(&t, "%s", text(x, "id"));
		table_cell(&t, "%s", text(x, "name"));
		add_size(&t, x, "bytes");
	}
	return table_print(&t, stdout);
}

static int print_usage(const json_t *j, bool layers, order_fn order)
{
	int rc = print_items(json_object_get(j, "items"), layers, order);
	const json_t *shares = json_object_get(j, "shared_with");
	printf("\n");
	if (rc == 0)
		rc = shares ? print_shares(shares) : print_sum(j);
	if (number(j, NULL, "left_out"))
		fprintf(stderr, "stasis: %llu more, which free less, are not shown\n",
			(unsigned long long)number(j, NULL, "left_out"));
	if (json_is_true(json_object_get(j, "estimated")))
		fprintf(stderr,
			"stasis: very many shared extents: what counts as shared may be unique\n");
	return rc;
}

static int print_unknown(const json_t *j)
{
	size_t i;
	const json_t *u;
	_cleanup_table_ struct table t;
	table_init(&t, (const char *const[]){"KIND", "ID", "SIZE", NULL});
	json_array_foreach (json_object_get(j, "unknown"), i, u) {
		char size[24];
		human_size(number(u, NULL, "bytes"), size);
		table_cell(&t, "%s", json_string_value(json_object_get(u, "kind")));
		table_cell(&t, "%s", json_string_value(json_object_get(u, "id")));
		table_cell(&t, "%s", size);
	}
	return table_print(&t, stdout);
}

// "/v1/host/usage?of=NAME". Owned by the caller; NULL when out of memory.
static char *usage_path(const struct cli *c, bool unknown)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	strbuf_adds(&b, unknown ? "/v1/host/unknown" : "/v1/host/usage");
	if (c->argc > 0) {
		strbuf_adds(&b, "?of=");
		str_percent_encode(&b, c->argv[0]);
	}
	return strbuf_check(&b) < 0 ? NULL : TAKE_PTR(b.data);
}

int cmd_du(struct cli *c, struct err *e)
{
	bool unknown = false, layers = false;
	const char *sort = "frees";
	order_fn order = NULL;
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {
		{0, "layers", NULL, "layers that several need, too", OPT_FLAG, &layers},
		{0, "sort", "KEY", "frees (the default), size or name", OPT_STRING, &sort},
		{0, "unknown", NULL, "list what is there and the host does not know", OPT_FLAG,
			&unknown},
		{0},
	};
	int rc = cli_parse(c, options, 0, 1, e);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < ARRAY_SIZE(orders); i++)
		if (str_eq(sort, orders[i].name))
			order = orders[i].f;
	if (!order)
		return err_set(e, ERR_INVALID, "--sort: must be frees, size or name");
	if (unknown && c->argc > 0)
		return err_set(e, ERR_INVALID, "--unknown: takes no name");
	_cleanup_free_ char *path = usage_path(c, unknown);
	if (!path)
		return err_errno(e, ENOMEM, "du");
	rc = api_call_slow(c, "GET", path, NULL, "looking at all files", &answer, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(answer);
	return unknown ? print_unknown(answer) : print_usage(answer, layers, order);
}

int cmd_gc(struct cli *c, struct err *e)
{
	bool unknown = false, yes = false;
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {
		{0, "unknown", NULL, "what the host does not know: see 'stasis du --unknown'",
			OPT_FLAG, &unknown},
		{'y', "yes", NULL, "it may be removed for good", OPT_FLAG, &yes},
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	if (!unknown || !yes)
		return err_set(e, ERR_INVALID,
			"what is spent goes by itself; 'stasis gc --unknown --yes' ends and "
			"removes, for good, what 'stasis du --unknown' lists");
	rc = api_call_slow(
		c, "DELETE", "/v1/host/unknown", NULL, "removing what is unknown", &answer, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(answer);
	fprintf(stderr, "stasis: removed %llu\n",
		(unsigned long long)number(answer, NULL, "removed"));
	return 0;
}
