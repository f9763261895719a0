// SPDX-License-Identifier: Apache-2.0
// retention add, ls, rm, keep, release, run.
#include <string.h>
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/each.h"
#include "cli/command/all.h"
#include "cli/command/list.h"

// What was kept or released, a line each: a sandbox and a snapshot may have the same name.
static int print_each(const struct cli *c, const json_t *answer, const char *array)
{
	size_t i;
	json_t *v;
	if (c->json)
		return output_json(answer);
	json_array_foreach (json_object_get(answer, array), i, v) {
		_cleanup_free_ char *kind = output_value(json_object_get(v, "kind")),
				    *id = output_value(json_object_get(v, "id"));
		printf("%s %s %s\n", array, kind ? kind : "-", id ? id : "-");
	}
	return 0;
}

struct asked {
	const char *method, *below;
	const char *array; // of the answer, "" where there is none
};

static int call_one(struct cli *c, const char *operand, const void *ctx, struct err *e)
{
	const struct asked *a = ctx;
	_cleanup_strbuf_ struct strbuf path = {0};
	_cleanup_json_ json_t *answer = NULL;
	strbuf_addf(&path, "/v1/retention/%s/", a->below);
	str_percent_encode(&path, operand);
	if (strbuf_check(&path) < 0)
		return err_errno(e, ENOMEM, "%s", operand);
	int rc = api_call(c, a->method, path.data, NULL, &answer, e);
	return rc == 0 && *a->array ? print_each(c, answer, a->array) : rc;
}

static int call_each(
	struct cli *c, const char *method, const char *below, const char *array, struct err *e)
{
	const struct asked asked = {method, below, array};
	int rc = cli_parse(c, NULL, 1, -1, e);
	return rc == 0 ? each_operand(c, false, call_one, &asked, e) : rc;
}

int cmd_retention_rm(struct cli *c, struct err *e)
{
	return call_each(c, "DELETE", "rules", "", e);
}

int cmd_retention_keep(struct cli *c, struct err *e)
{
	return call_each(c, "PUT", "kept", "kept", e);
}

int cmd_retention_release(struct cli *c, struct err *e)
{
	return call_each(c, "DELETE", "kept", "released", e);
}

struct rule {
	const char *of, *key, *template, *per;
	uint64_t age, newest, size, grace;
	bool has_age, has_newest, has_size, has_grace;
};

static json_t *rule_body(const struct rule *r)
{
	json_t *b = json_pack("{s:s}", "what", r->of);
	const struct {
		const char *key;
		bool has;
		uint64_t n;
	} numbers[] = {{"max_age_sec", r->has_age, r->age},
		{"keep_newest", r->has_newest, r->newest}, {"max_bytes", r->has_size, r->size},
		{"grace_sec", r->has_grace, r->grace}};
	const struct {
		const char *key, *text;
	} texts[] = {{"key", r->key}, {"template", r->template}, {"per", r->per}};
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		if (numbers[i].has)
			json_object_set_new(
				b, numbers[i].key, json_integer((json_int_t)numbers[i].n));
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if (texts[i].text)
			json_object_set_new(b, texts[i].key, json_string(texts[i].text));
	return b;
}

int cmd_retention_add(struct cli *c, struct err *e)
{
	struct rule r = {.of = ""};
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {
		{0, "of", "paused|snapshots", "what it takes", OPT_STRING, &r.of},
		{0, "older-than", "TIME", "since it was paused, made or used last", OPT_SECONDS,
			&r.age, .min = 1, .present = &r.has_age},
		{0, "keep-newest", "N", "of each group these stay", OPT_U64, &r.newest, 0, 1000000,
			&r.has_newest},
		{0, "max-size", "SIZE", "of a group: the oldest go first", OPT_BYTES, &r.size,
			.present = &r.has_size},
		{0, "key", "KEY", "only what this key made (its id or name)", OPT_STRING, &r.key},
		{0, "template", "NAME", "only what was made from it", OPT_STRING, &r.template},
		{0, "per", "all|key|template", "what is a group (default: all)", OPT_STRING,
			&r.per},
		{0, "grace", "TIME", "between warning and removal (default: 24h)", OPT_SECONDS,
			&r.grace, .present = &r.has_grace},
		{0},
	};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc != 0)
		return rc;
	if (!str_eq(r.of, "paused") && !str_eq(r.of, "snapshots"))
		return err_set(e, ERR_INVALID, "--of: must be paused or snapshots");
	_cleanup_json_ json_t *body = rule_body(&r);
	_cleanup_strbuf_ struct strbuf path = {0};
	strbuf_adds(&path, "/v1/retention/rules/");
	str_percent_encode(&path, c->argv[0]);
	if (!body || strbuf_check(&path) < 0)
		return err_set(e, ERR_INVALID, "not UTF-8");
	rc = api_call(c, "PUT", path.data, body, &answer, e);
	return rc == 0 && c->json ? output_json(answer) : rc;
}

// --- lists

static void add_text(struct table *t, const json_t *j, const char *key)
{
	_cleanup_free_ char *text = output_value(json_object_get(j, key));
	table_cell(t, "%s", text ? text : "-");
}

static void add_span(struct table *t, const json_t *j, const char *key)
{
	char span[24] = "-";
	const json_t *v = json_object_get(j, key);
	if (json_is_integer(v))
		human_span((uint64_t)json_integer_value(v), span);
	table_cell(t, "%s", span);
}

static void add_size(struct table *t, const json_t *j, const char *key)
{
	char size[24] = "-";
	const json_t *v = json_object_get(j, key);
	if (json_is_integer(v))
		human_size((uint64_t)json_integer_value(v), size);
	table_cell(t, "%s", size);
}

static void add_rule(struct table *t, const json_t *j)
{
	add_text(t, j, "name");
	add_text(t, j, "what");
	add_span(t, j, "max_age_sec");
	add_text(t, j, "keep_newest");
	add_size(t, j, "max_bytes");
	add_text(t, j, "key");
	add_text(t, j, "template");
	add_text(t, j, "per");
	add_span(t, j, "grace_sec");
}

static const struct list_kind rules = {.array = "rules",
	.name = "name",
	.titles = (const char *const[]){"NAME", "OF", "OLDER THAN", "KEEP", "MAX SIZE", "KEY",
		"TEMPLATE", "PER", "GRACE", NULL},
	.row = add_rule};

int cmd_retention_ls(struct cli *c, struct err *e)
{
	struct list how = {0};
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {LIST_OPTIONS(how, "names"), {0}};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc == 0)
		rc = list_check(c, &how, e);
	if (rc == 0)
		rc = api_call(c, "GET", "/v1/retention", NULL, &answer, e);
	return rc != 0 ? rc : list_print(c, &how, &rules, answer, e);
}

static void add_item(struct table *t, const json_t *j)
{
	static const char *const texts[] = {"kind", "id", "name", "rule", "action"};
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		add_text(t, j, texts[i]);
	add_span(t, j, "age_sec");
	add_span(t, j, "left_sec");
	add_size(t, j, "frees_bytes");
	add_text(t, j, "reason");
}

static const struct list_kind due = {.array = "items",
	.name = "id",
	.titles = (const char *const[]){"KIND", "ID", "NAME", "RULE", "ACTION", "AGE", "LEFT",
		"FREES", "WHY", NULL},
	.row = add_item};

int cmd_retention_run(struct cli *c, struct err *e)
{
	bool dry_run = false;
	struct list how = {0};
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {
		{'n', "dry-run", NULL, "say what would be done, and do nothing", OPT_FLAG,
			&dry_run},
		LIST_OPTIONS(how, "ids"),
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc == 0)
		rc = list_check(c, &how, e);
	if (rc != 0)
		return rc;
	_cleanup_json_ json_t *body = json_pack("{s:b}", "dry_run", dry_run);
	rc = api_call_slow(
		c, "POST", "/v1/retention/run", body, "looking at all files", &answer, e);
	return rc < 0 ? rc : list_print(c, &how, &due, answer, e);
}
