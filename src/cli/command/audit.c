// SPDX-License-Identifier: Apache-2.0
// audit: who changed what.
#include <string.h>
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/command/all.h"

static const char *text_of(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));
	return s ? s : "-";
}

// One page: next is the cursor of the next one.
static int read_page(struct cli *c, const char *since, char next[24], json_t **ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	strbuf_adds(&path, "/v1/audit?limit=100");
	if (*next)
		strbuf_addf(&path, "&cursor=%s", next);
	else if (since) {
		strbuf_adds(&path, "&since=");
		str_percent_encode(&path, since);
	}
	if (strbuf_check(&path) < 0)
		return err_errno(e, ENOMEM, "audit");
	int rc = api_call(c, "GET", path.data, NULL, ret, e);
	if (rc == 0)
		snprintf(next, 24, "%s", text_of(*ret, "next_cursor"));
	return rc;
}

static void add_row(struct table *t, const json_t *line)
{
	const json_t *key = json_object_get(line, "key");
	table_cell(t, "%s", text_of(line, "at"));
	table_cell(t, "%s", text_of(key, "name"));
	table_cell(t, "%s", text_of(key, "owner"));
	table_cell(t, "%s", text_of(line, "from"));
	table_cell(t, "%s %s", text_of(line, "method"), text_of(line, "call"));
	table_cell(t, "%s", text_of(line, "target"));
	table_cell(t, "%d", (int)json_integer_value(json_object_get(line, "status")));
	table_cell(t, "%s", text_of(line, "outcome"));
}

int cmd_audit(struct cli *c, struct err *e)
{
	const char *since = NULL;
	const struct cli_option options[] = {
		{0, "since", "TIME", "RFC 3339, as 2026-11-24T03:00:00Z (default: all)", OPT_STRING,
			&since},
		{0},
	};
	_cleanup_json_ json_t *all = json_array();
	char next[24] = "";
	int rc = cli_parse(c, options, 0, 0, e);
	for (size_t n = 1; rc == 0 && n > 0;) {
		_cleanup_json_ json_t *page = NULL;
		rc = read_page(c, since, next, &page, e);
		n = json_array_size(json_object_get(page, "audit"));
		json_array_extend(all, json_object_get(page, "audit"));
	}
	if (rc != 0)
		return rc;
	if (c->json)
		return output_json(all);
	static const char *const titles[] = {
		"AT", "KEY", "OWNER", "FROM", "CALL", "TARGET", "STATUS", "OUTCOME", NULL};
	_cleanup_table_ struct table t;
	table_init(&t, titles);
	size_t i;
	json_t *line = NULL;
	json_array_foreach (all, i, line)
		add_row(&t, line);
	return table_print(&t, stdout);
}
