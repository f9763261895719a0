// SPDX-License-Identifier: Apache-2.0
// snapshot create, ls, get, check, rm.
#include "base/str.h"
#include "base/json.h"
#include "cli/base/api.h"
#include "cli/base/each.h"
#include "cli/command/all.h"
#include "cli/command/list.h"

static const char *text_of(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));
	return s ? s : "-";
}

static uint64_t number_of(const json_t *object, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(object, name));
}

int cmd_snapshot_create(struct cli *c, struct err *e)
{
	bool overwrite = false, verbose = false;
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {
		{0, "overwrite", NULL, "replace a snapshot of that name", OPT_FLAG, &overwrite},
		{'v', "verbose", NULL, "show how long each step took", OPT_FLAG, &verbose},
		{0},
	};
	int rc = cli_parse(c, options, 2, 2, e);
	if (rc != 0)
		return rc;
	_cleanup_json_ json_t *body = json_pack("{s:s, s:s, s:b}", "sandbox_id", c->argv[0], "name",
		c->argv[1], "overwrite", overwrite);
	if (!body)
		return err_set(e, ERR_INVALID, "id or name is not UTF-8");
	rc = api_call_slow(c, "POST", "/v1/snapshots", body, "making the snapshot", &answer, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(answer);
	puts(text_of(answer, "name"));
	return verbose ? output_phases(json_object_get(answer, "phases"), stderr) : 0;
}

static void add_row(struct table *t, const json_t *s)
{
	char memory[24], disk[24], memory_data[24], disk_data[24], created[32];
	human_size(number_of(s, "memory_mb") << 20, memory);
	human_size(number_of(s, "disk_mb") << 20, disk);
	human_size(number_of(s, "memory_bytes"), memory_data);
	human_size(number_of(s, "disk_bytes"), disk_data);
	human_when(json_object_get(s, "created_at"), created);
	table_cell(t, "%s", text_of(s, "name"));
	table_cell(t, "%s", text_of(s, "sandbox_id"));
	table_cell(t, "%s", text_of(s, "parent"));
	table_cell(t, "%u", (unsigned)number_of(s, "vcpus"));
	table_cell(t, "%s", memory);
	table_cell(t, "%s", disk);
	table_cell(t, "%s", memory_data);
	table_cell(t, "%s", disk_data);
	table_cell(t, "%s", created);
}

static const struct list_kind listed = {.array = "snapshots",
	.name = "name",
	.titles = (const char *const[]){"NAME", "SANDBOX", "PARENT", "VCPUS", "MEMORY", "DISK",
		"MEMORY DATA", "DISK DATA", "CREATED", NULL},
	.row = add_row};

int cmd_snapshot_ls(struct cli *c, struct err *e)
{
	struct list how = {0};
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {LIST_OPTIONS(how, "names"), {0}};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc == 0)
		rc = list_check(c, &how, e);
	if (rc == 0)
		rc = api_call(c, "GET", "/v1/snapshots", NULL, &answer, e);
	return rc != 0 ? rc : list_print(c, &how, &listed, answer, e);
}

static int snapshot_path(const char *name, struct strbuf *ret, struct err *e)
{
	strbuf_adds(ret, "/v1/snapshots/");
	str_percent_encode(ret, name);
	if (!*name)
		return err_set(e, ERR_INVALID, "a snapshot's name is not empty");
	return strbuf_check(ret) < 0 ? err_errno(e, ENOMEM, "%s", name) : 0;
}

int cmd_snapshot_get(struct cli *c, struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	_cleanup_json_ json_t *s = NULL;
	int rc = cli_parse(c, NULL, 1, 1, e);
	if (rc != 0)
		return rc;
	rc = snapshot_path(c->argv[0], &path, e);
	if (rc == 0)
		rc = api_call(c, "GET", path.data, NULL, &s, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(s);
	return output_fields(s, NULL);
}

int cmd_snapshot_check(struct cli *c, struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	_cleanup_json_ json_t *answer = NULL;
	int rc = cli_parse(c, NULL, 1, 1, e);
	if (rc != 0)
		return rc;
	rc = snapshot_path(c->argv[0], &path, e);
	if (rc == 0) {
		strbuf_adds(&path, "/check");
		rc = api_call(c, "GET", path.data, NULL, &answer, e);
	}
	if (rc < 0)
		return rc;
	bool resumes = json_is_true(json_object_get(answer, "resumes"));
	if (!resumes)
		c->exit_code = err_info(ERR_UNAVAILABLE)->exit_code;
	if (c->json)
		return output_json(answer);
	if (resumes)
		puts("resumes here: yes");
	else
		printf("resumes here: no, because %s\n", text_of(answer, "reason"));
	printf("agent: %s\n", text_of(answer, "agent_version"));
	size_t i;
	const json_t *weakness;
	json_array_foreach (json_object_get(answer, "agent_weaknesses"), i, weakness)
		printf("  known weakness: %s\n", json_string_value(weakness));
	printf("runtime: %s, %s%s\n", text_of(answer, "runtime"), text_of(answer, "vmm"),
		json_is_true(json_object_get(answer, "current")) ? "" : ", kept");
	return 0;
}

static int remove_one(struct cli *c, const char *name, const void *ctx, struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	int rc = snapshot_path(name, &path, e);
	return rc == 0 ? api_call(c, "DELETE", path.data, NULL, NULL, e) : rc;
}

int cmd_snapshot_rewarm(struct cli *c, struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	_cleanup_json_ json_t *answer = NULL;
	int rc = cli_parse(c, NULL, 1, 1, e);
	if (rc != 0)
		return rc;
	rc = snapshot_path(c->argv[0], &path, e);
	if (rc == 0) {
		strbuf_adds(&path, "/rewarm");
		rc = api_call_slow(
			c, "POST", path.data, NULL, "taking the snapshot again", &answer, e);
	}
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(answer);
	puts(text_of(answer, "name"));
	return 0;
}

int cmd_snapshot_rm(struct cli *c, struct err *e)
{
	bool force = false;
	const struct cli_option options[] = {
		{'f', "force", NULL, "do not mind those that are not there", OPT_FLAG, &force},
		{0},
	};
	int rc = cli_parse(c, options, 1, -1, e);
	return rc == 0 ? each_operand(c, force, remove_one, NULL, e) : rc;
}

static int share_one(struct cli *c, const char *name, const void *ctx, struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	_cleanup_json_ json_t *body = json_pack("{s:b}", "public", *(const bool *)ctx);
	strbuf_adds(&path, "/v1/snapshots/");
	str_percent_encode(&path, name);
	if (strbuf_check(&path) < 0)
		return err_errno(e, ENOMEM, "%s", name);
	return api_call(c, "PATCH", path.data, body, NULL, e);
}

static int share(struct cli *c, bool public, struct err *e)
{
	int rc = cli_parse(c, NULL, 1, -1, e);
	return rc == 0 ? each_operand(c, false, share_one, &public, e) : rc;
}

int cmd_snapshot_share(struct cli *c, struct err *e)
{
	return share(c, true, e);
}

int cmd_snapshot_unshare(struct cli *c, struct err *e)
{
	return share(c, false, e);
}
