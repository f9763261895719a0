// SPDX-License-Identifier: Apache-2.0
// runtime ls, deny, allow.
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/command/all.h"
#include "cli/command/list.h"

static const char *text_of(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));
	return s ? s : "-";
}

static void add_row(struct table *t, const json_t *r)
{
	char oldest[32], newest[32];
	const char *refused = json_string_value(json_object_get(r, "refused"));
	human_when(json_object_get(r, "oldest_snapshot_at"), oldest);
	human_when(json_object_get(r, "newest_snapshot_at"), newest);
	table_cell(t, "%s", text_of(r, "id"));
	table_cell(t, "%s %s", text_of(r, "program"), text_of(r, "version"));
	table_cell(t, "%s",
		refused					      ? "refused"
		: json_is_true(json_object_get(r, "current")) ? "current"
							      : "kept");
	table_cell(t, "%u", (unsigned)json_integer_value(json_object_get(r, "snapshots")));
	table_cell(t, "%s", oldest);
	table_cell(t, "%s", newest);
	table_cell(t, "%s", text_of(r, "package"));
}

static const struct list_kind listed = {.array = "runtimes",
	.name = "id",
	.titles = (const char *const[]){"RUNTIME", "VMM", "STATE", "SNAPSHOTS", "OLDEST", "NEWEST",
		"PACKAGE", NULL},
	.row = add_row};

int cmd_runtime_ls(struct cli *c, struct err *e)
{
	struct list how = {0};
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {LIST_OPTIONS(how, "ids"), {0}};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc == 0)
		rc = list_check(c, &how, e);
	if (rc == 0)
		rc = api_call(c, "GET", "/v1/runtimes", NULL, &answer, e);
	return rc != 0 ? rc : list_print(c, &how, &listed, answer, e);
}

static int set_denied(struct cli *c, const char *what, struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	_cleanup_json_ json_t *answer = NULL;
	int rc = cli_parse(c, NULL, 1, 1, e);
	if (rc != 0)
		return rc;
	if (!*c->argv[0])
		return err_set(
			e, ERR_INVALID, "a runtime's id is not empty: see 'stasis runtime ls'");
	strbuf_adds(&path, "/v1/runtimes/");
	str_percent_encode(&path, c->argv[0]);
	strbuf_addf(&path, "/%s", what);
	rc = strbuf_check(&path) < 0 ? err_errno(e, ENOMEM, "%s", c->argv[0])
				     : api_call(c, "POST", path.data, NULL, &answer, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(answer);
	uint64_t n = (uint64_t)json_integer_value(json_object_get(answer, "snapshots"));
	printf("%s %s", text_of(answer, "id"), str_eq(what, "deny") ? "denied" : "allowed");
	if (n && str_eq(what, "deny"))
		printf(": %u snapshots hold it", (unsigned)n);
	puts("");
	return 0;
}

int cmd_runtime_deny(struct cli *c, struct err *e)
{
	return set_denied(c, "deny", e);
}

int cmd_runtime_allow(struct cli *c, struct err *e)
{
	return set_denied(c, "allow", e);
}
