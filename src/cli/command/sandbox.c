// SPDX-License-Identifier: Apache-2.0
// ls, get, rm, timeout, port.
#include <string.h>
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/each.h"
#include "cli/base/value.h"
#include "cli/command/all.h"
#include "cli/command/list.h"

static const char *text_of(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));
	return s ? s : "-";
}

static json_int_t int_of(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

// All pages of the list as one answer of the API's shape. query starts with '&' or is empty.
static int list_all(struct cli *c, const char *query, uint64_t limit, json_t **ret, struct err *e)
{
	_cleanup_json_ json_t *all = json_object(), *list = json_array();
	_cleanup_free_ char *cursor = NULL;
	do {
		_cleanup_json_ json_t *page = NULL;
		_cleanup_strbuf_ struct strbuf path = {0};
		uint64_t left = limit ? limit - json_array_size(list) : 100;
		strbuf_addf(&path, "/v1/sandboxes?limit=%u%s", (unsigned)MIN(left, 100u), query);
		if (cursor) {
			strbuf_adds(&path, "&cursor=");
			str_percent_encode(&path, cursor);
		}
		if (strbuf_check(&path) < 0)
			return err_errno(e, ENOMEM, "list");
		int rc = api_call(c, "GET", path.data, NULL, &page, e);
		if (rc < 0)
			return rc;
		json_array_extend(list, json_object_get(page, "sandboxes"));
		const char *next = json_string_value(json_object_get(page, "next_cursor"));
		free(cursor);
		cursor = next ? strdup(next) : NULL;
	} while (cursor && (!limit || json_array_size(list) < limit));
	json_object_set(all, "sandboxes", list);
	json_object_set_new(all, "next_cursor", cursor ? json_string(cursor) : json_null());
	*ret = TAKE_PTR(all);
	return 0;
}

static void add_row(struct table *t, const json_t *s)
{
	char disk[24], memory[24], created[32], ends[32];
	_cleanup_strbuf_ struct strbuf labels = {0};
	const char *key;
	json_t *value;
	json_object_foreach (json_object_get(s, "metadata"), key, value)
		strbuf_addf(&labels, "%s%s=%s", labels.len ? " " : "", key,
			json_string_value(value) ? json_string_value(value) : "");
	human_size((uint64_t)int_of(s, "memory_mb") << 20, memory);
	human_size((uint64_t)int_of(s, "disk_used_bytes"), disk);
	human_when(json_object_get(s, "created_at"), created);
	// What has ended still has the time at which it would have.
	bool ended = str_eq(text_of(s, "state"), "stopped");
	human_when(ended ? NULL : json_object_get(s, "ends_at"), ends);
	table_cell(t, "%s", text_of(s, "id"));
	table_cell(t, "%s", text_of(s, "name"));
	table_cell(t, "%s", text_of(s, "template"));
	table_cell(t, "%s%s%s", text_of(s, "state"),
		json_is_string(json_object_get(s, "cause")) ? ": " : "",
		json_is_string(json_object_get(s, "cause")) ? text_of(s, "cause") : "");
	table_cell(t, "%d", (int)int_of(s, "vcpus"));
	table_cell(t, "%s", memory);
	table_cell(t, "%s", disk);
	table_cell(t, "%s", created);
	table_cell(t, "%s", ends);
	table_cell(t, "%s", labels.len ? labels.data : "-");
}

static const struct list_kind listed = {.array = "sandboxes",
	.name = "id",
	.titles = (const char *const[]){"ID", "NAME", "TEMPLATE", "STATE", "VCPUS", "MEMORY",
		"DISK", "CREATED", "ENDS", "METADATA", NULL},
	.states = 3,
	.row = add_row};

int cmd_ls(struct cli *c, struct err *e)
{
	bool all = false;
	struct list how = {0};
	const char *state = NULL, *template = NULL, *name = NULL;
	uint64_t limit = 0;
	_cleanup_json_ json_t *metadata = NULL, *answer = NULL;
	const struct cli_option options[] = {
		{'a', "all", NULL, "in every state, stopped ones too", OPT_FLAG, &all},
		{0, "state", "STATE[,STATE]", "only in these states", OPT_STRING, &state},
		{0, "template", "TEMPLATE", "only of this template", OPT_STRING, &template},
		{0, "name", "NAME", "only of this name, whichever key gave it", OPT_STRING, &name},
		{0, "metadata", "K=V", "only with this label; repeatable", OPT_MAP, &metadata},
		{'n', "limit", "N", "at most so many", OPT_U64, &limit, 1},
		LIST_OPTIONS(how, "ids"),
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	if (all && state)
		return err_set(e, ERR_INVALID, "--all and --state exclude each other");
	if ((rc = list_check(c, &how, e)) < 0)
		return rc;
	_cleanup_strbuf_ struct strbuf query = {0}, labels = {0};
	const char *key;
	json_t *value;
	// The filter is a query string of its own inside one parameter: encoded twice.
	json_object_foreach (metadata, key, value) {
		strbuf_adds(&labels, labels.len ? "&" : "");
		str_percent_encode(&labels, key);
		strbuf_addc(&labels, '=');
		str_percent_encode(&labels, json_string_value(value));
	}
	strbuf_adds(&query, all ? "&state=all" : state ? "&state=" : "");
	if (state)
		str_percent_encode(&query, state);
	if (template) {
		strbuf_adds(&query, "&template=");
		str_percent_encode(&query, template);
	}
	if (name) {
		strbuf_adds(&query, "&name=");
		str_percent_encode(&query, name);
	}
	if (labels.len) {
		strbuf_adds(&query, "&metadata=");
		str_percent_encode(&query, labels.data);
	}
	if (query.failed || labels.failed)
		return err_errno(e, ENOMEM, "list");
	rc = list_all(c, query.data ? query.data : "", limit, &answer, e);
	return rc < 0 ? rc : list_print(c, &how, &listed, answer, e);
}

int cmd_get(struct cli *c, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_t *s = NULL;
	int rc = cli_parse(c, NULL, 1, 1, e);
	if (rc == 0)
		rc = api_sandbox_path(c->argv[0], "", &path, e);
	else
		return rc;
	if (rc == 0)
		rc = api_call(c, "GET", path, NULL, &s, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(s);
	static const char *const shown[] = {"id", "name", "template", "state", "cause", "detail",
		"vcpus", "memory_mb", "disk_mb", "disk_used_bytes", "backend", "generation", "url",
		"public", "created_at", "started_at", "ends_at", "stopped_at", "on_timeout", "dns",
		"agent_version", "agent_weaknesses", "metadata", NULL};
	return output_fields(s, shown);
}

static int remove_one(struct cli *c, const char *id, const void *ctx, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	int rc = api_sandbox_path(id, "", &path, e);
	return rc == 0 ? api_call(c, "DELETE", path, NULL, NULL, e) : rc;
}

int cmd_rm(struct cli *c, struct err *e)
{
	bool force = false;
	const struct cli_option options[] = {
		{'f', "force", NULL, "do not mind those that are not there", OPT_FLAG, &force},
		{0},
	};
	int rc = cli_parse(c, options, 1, -1, e);
	return rc == 0 ? each_operand(c, force, remove_one, NULL, e) : rc;
}

int cmd_timeout(struct cli *c, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_t *s = NULL;
	uint64_t seconds;
	int rc = cli_parse(c, NULL, 2, 2, e);
	if (rc != 0)
		return rc;
	if (cli_parse_seconds(c->argv[1], &seconds) < 0)
		return err_set(e, ERR_INVALID, "'%s' is not a time such as 90s, 5m, 2h or 'none'",
			c->argv[1]);
	rc = api_sandbox_path(c->argv[0], "/timeout", &path, e);
	_cleanup_json_ json_t *body = json_pack("{s:I}", "timeout_sec", (json_int_t)seconds);
	if (rc == 0)
		rc = api_call(c, "POST", path, body, &s, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(s);
	printf("%s\n", json_is_string(json_object_get(s, "ends_at")) ? text_of(s, "ends_at")
								     : "never ends by itself");
	return 0;
}

static int make_link(struct cli *c, uint64_t port, uint64_t ttl, const char *to, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_t *link = NULL,
			      *body = json_pack("{s:I, s:I, s:s}", "port", (json_int_t)port,
				      "ttl_sec", (json_int_t)ttl, "path", to);
	if (!body)
		return err_set(e, ERR_INVALID, "the path is not UTF-8");
	int rc = api_sandbox_path(c->argv[0], "/links", &path, e);
	if (rc == 0)
		rc = api_call(c, "POST", path, body, &link, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(link);
	puts(text_of(link, "url"));
	return 0;
}

int cmd_port(struct cli *c, struct err *e)
{
	static const char place[] = "{port}";
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_t *s = NULL;
	bool link = false, has_ttl = false;
	const char *to = NULL;
	uint64_t port, ttl = 300;
	const struct cli_option options[] = {
		{0, "link", NULL, "a one-time link to it, for a browser", OPT_FLAG, &link},
		{0, "ttl", "TIME", "how long the link waits (default: 5m)", OPT_SECONDS, &ttl, 1,
			86400, &has_ttl},
		{0, "path", "PATH", "where the link leads (default: /)", OPT_STRING, &to},
		{0},
	};
	int rc = cli_parse(c, options, 2, 2, e);
	if (rc != 0)
		return rc;
	if (str_to_u64(c->argv[1], 65535, &port) < 0 || port == 0)
		return err_set(
			e, ERR_INVALID, "'%s' is not a port: it is in 1 to 65535", c->argv[1]);
	if (!link && (has_ttl || to))
		return err_set(e, ERR_INVALID, "--ttl and --path go with --link");
	if (link)
		return make_link(c, port, ttl, to ? to : "/", e);
	rc = api_sandbox_path(c->argv[0], "", &path, e);
	if (rc == 0)
		rc = api_call(c, "GET", path, NULL, &s, e);
	if (rc < 0)
		return rc;
	const char *url = json_string_value(json_object_get(s, "url"));
	const char *at = url ? strstr(url, place) : NULL;
	if (!at)
		return err_set(
			e, ERR_UNAVAILABLE, "the server does not say where ports are reached");
	_cleanup_free_ char *here = str_printf(
		"%.*s%llu%s", (int)(at - url), url, (unsigned long long)port, at + strlen(place));
	if (!here)
		return err_errno(e, ENOMEM, "port");
	if (c->json) {
		_cleanup_json_ json_t *j = json_pack("{s:s}", "url", here);
		return output_json(j);
	}
	puts(here);
	return 0;
}
