// SPDX-License-Identifier: Apache-2.0
// key create, key ls, key rm.
#include "base/str.h"
#include "base/json.h"
#include "cli/base/api.h"
#include "cli/base/each.h"
#include "cli/command/all.h"
#include "cli/command/list.h"

int cmd_key_create(struct cli *c, struct err *e)
{
	_cleanup_json_ json_t *key = NULL;
	int rc = cli_parse(c, NULL, 1, 1, e);
	if (rc != 0)
		return rc;
	_cleanup_json_ json_t *body = json_pack("{s:s}", "name", c->argv[0]);
	if (!body)
		return err_set(e, ERR_INVALID, "the name is not UTF-8");
	rc = api_call(c, "POST", "/v1/keys", body, &key, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(key);
	const char *text = json_string_value(json_object_get(key, "key"));
	return text && puts(text) >= 0 ? 0 : err_set(e, ERR_BAD_GATEWAY, "the server gave no key");
}

static void add_row(struct table *t, const json_t *k)
{
	static const char *const names[] = {"id", "name", "prefix"};
	char created[32], used[32];
	for (size_t n = 0; n < ARRAY_SIZE(names); n++) {
		const char *s = json_string_value(json_object_get(k, names[n]));
		table_cell(t, "%s", s ? s : "-");
	}
	human_when(json_object_get(k, "created_at"), created);
	human_when(json_object_get(k, "last_used_at"), used);
	table_cell(t, "%s", created);
	table_cell(t, "%s", used);
}

static const struct list_kind listed = {.array = "keys",
	.name = "id",
	.titles = (const char *const[]){"ID", "NAME", "PREFIX", "CREATED", "LAST USED", NULL},
	.row = add_row};

int cmd_key_ls(struct cli *c, struct err *e)
{
	struct list how = {0};
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {LIST_OPTIONS(how, "ids"), {0}};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc == 0)
		rc = list_check(c, &how, e);
	if (rc == 0)
		rc = api_call(c, "GET", "/v1/keys", NULL, &answer, e);
	return rc != 0 ? rc : list_print(c, &how, &listed, answer, e);
}

static int remove_one(struct cli *c, const char *id, const void *ctx, struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	strbuf_adds(&path, "/v1/keys/");
	str_percent_encode(&path, id);
	if (strbuf_check(&path) < 0)
		return err_errno(e, ENOMEM, "%s", id);
	return api_call(c, "DELETE", path.data, NULL, NULL, e);
}

int cmd_key_rm(struct cli *c, struct err *e)
{
	int rc = cli_parse(c, NULL, 1, -1, e);
	return rc == 0 ? each_operand(c, false, remove_one, NULL, e) : rc;
}
