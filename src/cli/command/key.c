// SPDX-License-Identifier: Apache-2.0
// key create, ls, show, update, rm; token rotate.
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "base/json.h"
#include "cli/base/api.h"
#include "cli/base/each.h"
#include "cli/command/all.h"
#include "cli/command/key_offline.h"
#include "cli/command/list.h"

struct rights {
	const char *name, *scope, *owner;
	uint64_t expires;					// seconds from now; 0: never
	uint64_t sandboxes, vcpus, memory_mb, disk_mb, creates; // 0: no limit
	bool has_expires, has[5];
};

#define RIGHTS_OPTIONS(r)                                                                          \
	{0, "scope", "admin|sandboxes|read", "what it may do", OPT_STRING, &(r).scope},            \
		{0, "owner", "NAME", "whose sandboxes it sees and makes", OPT_STRING, &(r).owner}, \
		{0, "expires", "TIME", "from now; none: never", OPT_SECONDS, &(r).expires,         \
			.present = &(r).has_expires},                                              \
		{0, "quota-sandboxes", "N", "that its owner has at once; 0: any number", OPT_U64,  \
			&(r).sandboxes, .present = &(r).has[0]},                                   \
		{0, "quota-vcpus", "N", "of those that run; 0: any number", OPT_U64, &(r).vcpus,   \
			.present = &(r).has[1]},                                                   \
		{0, "quota-memory", "SIZE", "of those that run; 0: any size", OPT_MIB,             \
			&(r).memory_mb, .present = &(r).has[2]},                                   \
		{0, "quota-disk", "SIZE", "also of paused ones; 0: any size", OPT_MIB,             \
			&(r).disk_mb, .present = &(r).has[3]},                                     \
	{                                                                                          \
		0, "quota-creates", "N", "in a minute; 0: any number", OPT_U64, &(r).creates,      \
			.present = &(r).has[4]                                                     \
	}

static void add_quota(const struct rights *r, json_t *body)
{
	static const char *const names[] = {
		"sandboxes", "vcpus", "memory_mb", "disk_mb", "creates_per_minute"};
	const uint64_t values[] = {r->sandboxes, r->vcpus, r->memory_mb, r->disk_mb, r->creates};
	json_t *quota = json_object();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (r->has[i])
			json_object_set_new(quota, names[i],
				values[i] ? json_integer((json_int_t)values[i]) : json_null());
	if (json_object_size(quota))
		json_object_set(body, "quota", quota);
	json_decref(quota);
}

static int rights_body(const struct rights *r, json_t **ret, struct err *e)
{
	const char *const names[] = {"name", "scope", "owner"};
	const char *const values[] = {r->name, r->scope, r->owner};
	json_t *body = json_object();
	char at[32];
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (values[i] && json_object_set_new(body, names[i], json_string(values[i])) < 0) {
			json_decref(body);
			return err_set(e, ERR_INVALID, "%s: is not UTF-8", names[i]);
		}
	clock_format_rfc3339(clock_realtime_ns() + r->expires * NSEC_PER_SEC, at);
	if (r->has_expires)
		json_object_set_new(body, "expires_at", r->expires ? json_string(at) : json_null());
	add_quota(r, body);
	*ret = body;
	return 0;
}

static int print_key(const struct cli *c, const json_t *key, struct err *e)
{
	if (c->json)
		return output_json(key);
	const char *text = json_string_value(json_object_get(key, "key"));
	return text && puts(text) >= 0 ? 0 : err_set(e, ERR_BAD_GATEWAY, "the server gave no key");
}

int cmd_key_create(struct cli *c, struct err *e)
{
	_cleanup_json_ json_t *key = NULL, *body = NULL;
	struct rights r = {0};
	bool offline = false;
	const char *dir = NULL;
	const struct cli_option options[] = {RIGHTS_OPTIONS(r),
		{0, "offline", NULL,
			"an admin's, as root, in this machine's database: no key is needed",
			OPT_FLAG, &offline},
		{0, "data-dir", "DIR", "with --offline: data directory (default: STASIS_DATA)",
			OPT_STRING, &dir},
		{0}};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc != 0)
		return rc;
	r.name = c->argv[0];
	if (dir && !offline)
		return err_set(e, ERR_INVALID, "--data-dir: is for --offline alone");
	if (offline)
		rc = r.scope || r.owner || r.has_expires || memchr(r.has, 1, sizeof r.has)
			     ? err_set(e, ERR_INVALID,
				       "--offline: makes an admin's key without limits: "
				       "make others with it")
			     : key_create_offline(dir, r.name, &key, e);
	else if ((rc = rights_body(&r, &body, e)) == 0)
		rc = api_call(c, "POST", "/v1/keys", body, &key, e);
	return rc < 0 ? rc : print_key(c, key, e);
}

static void add_text(struct table *t, const json_t *k, const char *name)
{
	const char *s = json_string_value(json_object_get(k, name));
	table_cell(t, "%s", s ? s : "-");
}

static void add_row(struct table *t, const json_t *k)
{
	static const char *const names[] = {"id", "name", "scope", "owner", "prefix"};
	static const char *const times[] = {"created_at", "last_used_at", "expires_at"};
	for (size_t n = 0; n < ARRAY_SIZE(names); n++)
		add_text(t, k, names[n]);
	for (size_t n = 0; n < ARRAY_SIZE(times); n++) {
		char when[32];
		human_when(json_object_get(k, times[n]), when);
		table_cell(t, "%s", when);
	}
}

static const struct list_kind listed = {.array = "keys",
	.name = "id",
	.titles = (const char *const[]){"ID", "NAME", "SCOPE", "OWNER", "PREFIX", "CREATED",
		"LAST USED", "EXPIRES", NULL},
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

static int call_one(struct cli *c, const char *method, const char *id, json_t *body, json_t **ret,
	struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	strbuf_adds(&path, "/v1/keys/");
	str_percent_encode(&path, id);
	if (strbuf_check(&path) < 0)
		return err_errno(e, ENOMEM, "%s", id);
	return api_call(c, method, path.data, body, ret, e);
}

// A line each: name and value; what is in an object is named with a dot.
static void print_object(const json_t *object, const char *before)
{
	const char *name;
	json_t *value;
	json_object_foreach ((json_t *)object, name, value) {
		if (json_is_object(value)) {
			print_object(value, name);
			continue;
		}
		_cleanup_free_ char *text = output_value(value);
		printf("%s%s%s %s\n", before, *before ? "." : "", name,
			json_is_null(value) ? "-"
			: text		    ? text
					    : "-");
	}
}

static int show(const struct cli *c, const json_t *key)
{
	if (c->json)
		return output_json(key);
	print_object(key, "");
	return 0;
}

int cmd_key_show(struct cli *c, struct err *e)
{
	_cleanup_json_ json_t *key = NULL;
	int rc = cli_parse(c, NULL, 1, 1, e);
	if (rc == 0)
		rc = call_one(c, "GET", c->argv[0], NULL, &key, e);
	return rc != 0 ? rc : show(c, key);
}

int cmd_key_update(struct cli *c, struct err *e)
{
	_cleanup_json_ json_t *key = NULL, *body = NULL;
	struct rights r = {0};
	const struct cli_option options[] = {
		{0, "name", "NAME", "what it is called", OPT_STRING, &r.name}, RIGHTS_OPTIONS(r),
		{0}};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc == 0)
		rc = rights_body(&r, &body, e);
	if (rc == 0 && json_object_size(body) == 0)
		return err_set(e, ERR_INVALID, "nothing to change: see 'stasis key update --help'");
	if (rc == 0)
		rc = call_one(c, "PATCH", c->argv[0], body, &key, e);
	return rc != 0 ? rc : show(c, key);
}

static int remove_one(struct cli *c, const char *id, const void *ctx, struct err *e)
{
	return call_one(c, "DELETE", id, NULL, NULL, e);
}

int cmd_key_rm(struct cli *c, struct err *e)
{
	int rc = cli_parse(c, NULL, 1, -1, e);
	return rc == 0 ? each_operand(c, false, remove_one, NULL, e) : rc;
}

int cmd_token_rotate(struct cli *c, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_t *box = NULL;
	int rc = cli_parse(c, NULL, 1, 1, e);
	if (rc == 0)
		rc = api_sandbox_path(c->argv[0], "/token:rotate", &path, e);
	if (rc == 0)
		rc = api_call(c, "POST", path, NULL, &box, e);
	if (rc != 0)
		return rc;
	if (c->json)
		return output_json(box);
	const char *token = json_string_value(json_object_get(box, "envd_token"));
	if (!json_is_true(json_object_get(box, "agent_told")))
		fputs("stasis: the agent has not been told yet: it will be, or at its resume\n",
			stderr);
	return token && puts(token) >= 0 ? 0
					 : err_set(e, ERR_BAD_GATEWAY, "the server gave no token");
}
