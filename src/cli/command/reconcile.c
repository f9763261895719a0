// SPDX-License-Identifier: Apache-2.0
// reconcile, operations.
#include "base/str.h"
#include "base/json.h"
#include "cli/base/api.h"
#include "cli/command/all.h"
#include "cli/command/list.h"

static const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));
	return s ? s : "-";
}

int cmd_reconcile(struct cli *c, struct err *e)
{
	bool dry = false;
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {
		{0, "dry-run", NULL, "explain each decision, and do nothing", OPT_FLAG, &dry},
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	_cleanup_json_ json_t *body = json_pack("{s:b}", "dry_run", dry);
	if (!body)
		return err_errno(e, ENOMEM, "reconcile");
	rc = api_call(c, "POST", "/v1/reconcile", body, &answer, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(answer);
	const json_t *a;
	size_t i;
	_cleanup_table_ struct table t;
	table_init(&t, (const char *const[]){"ACTION", "ID", "REASON", NULL});
	json_array_foreach (json_object_get(answer, "actions"), i, a) {
		table_cell(&t, "%s", text(a, "action"));
		table_cell(&t, "%s", text(a, "id"));
		table_cell(&t, "%s", text(a, "reason"));
	}
	return table_print(&t, stdout);
}

static void add_row(struct table *t, const json_t *o)
{
	static const char *const names[] = {"id", "kind", "state", "sandbox_id", "created_at"};
	for (size_t n = 0; n < ARRAY_SIZE(names); n++)
		table_cell(t, "%s", text(o, names[n]));
	table_cell(t, "%s", text(json_object_get(o, "error"), "message"));
}

static const struct list_kind listed = {.array = "operations",
	.name = "id",
	.titles = (const char *const[]){"ID", "KIND", "STATE", "SANDBOX", "CREATED", "ERROR", NULL},
	.states = 2,
	.row = add_row};

int cmd_operations(struct cli *c, struct err *e)
{
	struct list how = {0};
	const char *sandbox = NULL;
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {
		{0, "sandbox", "ID", "only on this sandbox", OPT_STRING, &sandbox},
		LIST_OPTIONS(how, "ids"),
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc == 0)
		rc = list_check(c, &how, e);
	if (rc != 0)
		return rc;
	_cleanup_strbuf_ struct strbuf path = {0};
	strbuf_adds(&path, "/v1/operations");
	if (sandbox) {
		strbuf_adds(&path, "?sandbox=");
		str_percent_encode(&path, sandbox);
	}
	if (strbuf_check(&path) < 0)
		return err_errno(e, ENOMEM, "operations");
	rc = api_call(c, "GET", path.data, NULL, &answer, e);
	return rc < 0 ? rc : list_print(c, &how, &listed, answer, e);
}
