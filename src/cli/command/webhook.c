// SPDX-License-Identifier: Apache-2.0
// webhook create, ls, set, rm, deliveries, test.
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/each.h"
#include "cli/command/all.h"
#include "cli/command/list.h"

static int webhook_path(const char *id, const char *suffix, char **ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	strbuf_adds(&path, "/v1/webhooks/");
	str_percent_encode(&path, id);
	strbuf_adds(&path, suffix);
	*ret = strbuf_steal(&path);
	return *ret ? 0 : err_errno(e, ENOMEM, "%s", id);
}

// The first line of a file, "-": of standard input. A secret on a command line is everybody's to
// see.
static int read_secret(const char *file, char **ret, struct err *e)
{
	int rc = file_read_line(AT_FDCWD, str_eq(file, "-") ? "/dev/stdin" : file, ret);
	return rc < 0 ? err_errno(e, rc, "read %s", file) : 0;
}

static json_t *split(const char *list)
{
	json_t *out = json_array();
	for (const char *p = list; *p;) {
		size_t len = strcspn(p, ",");
		if (len)
			json_array_append_new(out, json_stringn(p, len));
		p += len + (p[len] == ',');
	}
	return out;
}

struct asked {
	const char *secret_file, *kinds;
	bool has_kinds, disabled, enabled;
};

static int make_body(const struct asked *a, const char *url, json_t **ret, struct err *e)
{
	_cleanup_free_ char *secret = NULL;
	_cleanup_json_ json_t *body = json_object();
	int rc = a->secret_file ? read_secret(a->secret_file, &secret, e) : 0;
	if (rc < 0)
		return rc;
	if (url && json_object_set_new(body, "url", json_string(url)) < 0)
		return err_set(e, ERR_INVALID, "the URL is not UTF-8");
	if (secret)
		json_object_set_new(body, "secret", json_string(secret));
	if (a->has_kinds)
		json_object_set_new(body, "kinds", split(a->kinds));
	if (a->disabled || a->enabled)
		json_object_set_new(body, "enabled", json_boolean(a->enabled));
	*ret = TAKE_PTR(body);
	return 0;
}

int cmd_webhook_create(struct cli *c, struct err *e)
{
	struct asked a = {0};
	_cleanup_json_ json_t *body = NULL, *made = NULL;
	const struct cli_option options[] = {
		{0, "kinds", "LIST", "of events that it is told of (default: all)", OPT_STRING,
			&a.kinds, .present = &a.has_kinds},
		{0, "secret-file", "FILE",
			"has the secret that signs in its first line; '-': standard input "
			"(default: one is made)",
			OPT_STRING, &a.secret_file},
		{0, "disabled", NULL, "tell it nothing yet", OPT_FLAG, &a.disabled},
		{0},
	};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc == 0)
		rc = make_body(&a, c->argv[0], &body, e);
	if (rc == 0)
		rc = api_call(c, "POST", "/v1/webhooks", body, &made, e);
	if (rc != 0)
		return rc;
	if (c->json)
		return output_json(made);
	_cleanup_free_ char *id = output_value(json_object_get(made, "id")),
			    *secret = output_value(json_object_get(made, "secret"));
	printf("%s\n", id ? id : "-");
	if (!a.secret_file)
		printf("secret %s\n", secret ? secret : "-");
	return 0;
}

int cmd_webhook_set(struct cli *c, struct err *e)
{
	struct asked a = {0};
	const char *url = NULL;
	_cleanup_json_ json_t *body = NULL, *now = NULL;
	_cleanup_free_ char *path = NULL;
	const struct cli_option options[] = {
		{0, "url", "URL", "where it is told", OPT_STRING, &url},
		{0, "kinds", "LIST", "of events that it is told of; '': all", OPT_STRING, &a.kinds,
			.present = &a.has_kinds},
		{0, "secret-file", "FILE", "has the secret that signs; '-': standard input",
			OPT_STRING, &a.secret_file},
		{0, "enable", NULL, "tell it what happened since, and go on", OPT_FLAG, &a.enabled},
		{0, "disable", NULL, "tell it nothing for now", OPT_FLAG, &a.disabled},
		{0},
	};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc == 0 && a.enabled && a.disabled)
		rc = err_set(e, ERR_INVALID, "--enable and --disable: give one of the two");
	if (rc == 0)
		rc = make_body(&a, url, &body, e);
	if (rc == 0)
		rc = webhook_path(c->argv[0], "", &path, e);
	if (rc == 0)
		rc = api_call(c, "PATCH", path, body, &now, e);
	return rc == 0 && c->json ? output_json(now) : rc;
}

static void add_text(struct table *t, const json_t *j, const char *key)
{
	_cleanup_free_ char *text = output_value(json_object_get(j, key));
	table_cell(t, "%s", text && *text ? text : "-");
}

static void add_webhook(struct table *t, const json_t *j)
{
	_cleanup_strbuf_ struct strbuf kinds = {0};
	size_t i;
	json_t *v;
	char when[32];
	json_array_foreach (json_object_get(j, "kinds"), i, v)
		strbuf_addf(&kinds, "%s%s", i ? "," : "", json_string_value(v));
	add_text(t, j, "id");
	table_cell(t, "%s", json_is_true(json_object_get(j, "enabled")) ? "yes" : "no");
	table_cell(t, "%s", kinds.len ? kinds.data : "all");
	add_text(t, j, "last_event");
	add_text(t, j, "attempts");
	human_when(json_object_get(j, "next_attempt_at"), when);
	table_cell(t, "%s", when);
	add_text(t, j, "url");
}

static const struct list_kind webhooks = {.array = "webhooks",
	.name = "id",
	.titles = (const char *const[]){"ID", "ENABLED", "KINDS", "LAST EVENT", "TRIES", "NEXT TRY",
		"URL", NULL},
	.row = add_webhook};

int cmd_webhook_ls(struct cli *c, struct err *e)
{
	struct list how = {0};
	_cleanup_json_ json_t *answer = NULL;
	const struct cli_option options[] = {LIST_OPTIONS(how, "ids"), {0}};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc == 0)
		rc = list_check(c, &how, e);
	if (rc == 0)
		rc = api_call(c, "GET", "/v1/webhooks", NULL, &answer, e);
	return rc != 0 ? rc : list_print(c, &how, &webhooks, answer, e);
}

static void add_delivery(struct table *t, const json_t *j)
{
	static const char *const texts[] = {
		"event", "kind", "attempt", "outcome", "status", "duration_ms", "error"};
	char at[32];
	human_when(json_object_get(j, "at"), at);
	table_cell(t, "%s", at);
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		add_text(t, j, texts[i]);
}

static const struct list_kind deliveries = {.array = "deliveries",
	.name = "event",
	.titles = (const char *const[]){"AT", "EVENT", "KIND", "TRY", "OUTCOME", "STATUS", "MS",
		"ERROR", NULL},
	.row = add_delivery};

int cmd_webhook_deliveries(struct cli *c, struct err *e)
{
	struct list how = {0};
	_cleanup_json_ json_t *answer = NULL;
	_cleanup_free_ char *path = NULL;
	const struct cli_option options[] = {LIST_OPTIONS(how, "numbers of events"), {0}};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc == 0)
		rc = list_check(c, &how, e);
	if (rc == 0)
		rc = webhook_path(c->argv[0], "/deliveries", &path, e);
	if (rc == 0)
		rc = api_call(c, "GET", path, NULL, &answer, e);
	return rc != 0 ? rc : list_print(c, &how, &deliveries, answer, e);
}

int cmd_webhook_test(struct cli *c, struct err *e)
{
	_cleanup_json_ json_t *d = NULL;
	_cleanup_free_ char *path = NULL;
	int rc = cli_parse(c, NULL, 1, 1, e);
	if (rc == 0)
		rc = webhook_path(c->argv[0], "/test", &path, e);
	if (rc == 0)
		rc = api_call(c, "POST", path, NULL, &d, e);
	if (rc != 0)
		return rc;
	const char *outcome = json_string_value(json_object_get(d, "outcome"));
	if (c->json)
		rc = output_json(d);
	_cleanup_free_ char *error = output_value(json_object_get(d, "error"));
	if (rc == 0 && !str_eq(outcome, "delivered"))
		return err_set(e, ERR_BAD_GATEWAY, "not delivered: %s", error ? error : "-");
	if (rc == 0 && !c->json)
		puts("delivered");
	return rc;
}

static int remove_one(struct cli *c, const char *id, const void *ctx, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	int rc = webhook_path(id, "", &path, e);
	return rc == 0 ? api_call(c, "DELETE", path, NULL, NULL, e) : rc;
}

int cmd_webhook_rm(struct cli *c, struct err *e)
{
	int rc = cli_parse(c, NULL, 1, -1, e);
	return rc == 0 ? each_operand(c, false, remove_one, NULL, e) : rc;
}
