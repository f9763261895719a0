// SPDX-License-Identifier: Apache-2.0
// du, gc.
#include "base/json.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/command/all.h"

static uint64_t number(const json_t *j, const char *object, const char *key)
{
	const json_t *o = object ? json_object_get(j, object) : j;
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

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

static int print_usage(const json_t *j)
{
	_cleanup_table_ struct table t;
	table_init(&t, (const char *const[]){"WHAT", "COUNT", "SIZE", NULL});
	add_row(&t, "disks of running sandboxes", j, "sandboxes", "bytes", true);
	add_row(&t, "snapshots, but their memory", j, "snapshots", "bytes", true);
	add_row(&t, "memory of one", j, "layers", "own_bytes", false);
	add_row(&t, "memory of several", j, "layers", "shared_bytes", false);
	add_row(&t, "images", j, "images", "bytes", false);
	add_row(&t, "unknown", j, "unknown", "bytes", true);
	add_row(&t, "free", j, NULL, "free_bytes", false);
	add_row(&t, "volume", j, NULL, "total_bytes", false);
	return table_print(&t, stdout);
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

int cmd_du(struct cli *c, struct err *e)
{
	bool unknown = false;
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {
		{0, "unknown", NULL, "list what is there and the host does not know", OPT_FLAG,
			&unknown},
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	rc = api_call_slow(c, "GET", unknown ? "/v1/host/unknown" : "/v1/host/usage", NULL,
		"looking at all files", &answer, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(answer);
	return unknown ? print_unknown(answer) : print_usage(answer);
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
