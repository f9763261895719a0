// SPDX-License-Identifier: Apache-2.0
#include "cli/command/create.h"
#include <string.h>
#include "base/json.h"
#include "cli/command/all.h"
#include "cli/base/api.h"
#include "cli/base/output.h"

// Those of a list with commas, for the server to judge.
static json_t *dns_list(const char *text)
{
	json_t *list = json_array();
	for (const char *p = text; *p; p += *p == ',') {
		size_t len = strcspn(p, ",");
		json_array_append_new(list, json_stringn(p, len));
		p += len;
	}
	return list;
}

json_t *create_body(const struct create_options *o, struct err *e)
{
	const struct {
		const char *name, *text;
	} texts[] = {{"template", o->template}, {"name", o->name}, {"on_timeout", o->on_timeout}};
	const struct {
		const char *name;
		uint64_t number;
		bool given;
	} numbers[] = {{"vcpus", o->vcpus, o->vcpus > 0}, {"memory_mb", o->memory, o->memory > 0},
		{"disk_mb", o->disk, o->disk > 0}, {"timeout_sec", o->timeout, o->has_timeout}};
	if (o->is_public && o->is_private) {
		err_set(e, ERR_INVALID, "--public and --private exclude each other");
		return NULL;
	}
	json_t *body = json_object();
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if (texts[i].text &&
			json_object_set_new(body, texts[i].name, json_string(texts[i].text)) < 0) {
			err_set(e, ERR_INVALID, "the %s is not UTF-8", texts[i].name);
			json_decref(body);
			return NULL;
		}
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		if (numbers[i].given)
			json_object_set_new(
				body, numbers[i].name, json_integer((json_int_t)numbers[i].number));
	if (o->is_public || o->is_private)
		json_object_set_new(body, "public", json_boolean(o->is_public));
	if (o->cold)
		json_object_set_new(body, "cold", json_true());
	if (o->dns)
		json_object_set_new(body, "dns", dns_list(o->dns));
	if (o->env)
		json_object_set(body, "env", o->env);
	if (o->metadata)
		json_object_set(body, "metadata", o->metadata);
	return body;
}

void create_done(struct create_options *o)
{
	json_decref(o->env);
	json_decref(o->metadata);
	o->env = o->metadata = NULL;
}

int cmd_create(struct cli *c, struct err *e)
{
	_cleanup_create_ struct create_options o = {0};
	bool quiet = false;
	_cleanup_json_ json_t *body = NULL, *sandbox = NULL;
	const struct cli_option options[] = {
		CREATE_OPTIONS(o),
		{'q', "quiet", NULL, "show no progress, print the id only", OPT_FLAG, &quiet},
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	if (quiet && (o.verbose || c->json))
		return err_set(e, ERR_INVALID, "-q goes neither with -v nor with -o json");
	body = create_body(&o, e);
	if (!body)
		return -EINVAL;
	rc = quiet ? api_call(c, "POST", "/v1/sandboxes", body, &sandbox, e)
		   : api_call_slow(
			     c, "POST", "/v1/sandboxes", body, "creating the sandbox", &sandbox, e);
	if (rc < 0)
		return rc;
	if (c->json)
		return output_json(sandbox);
	const char *id = json_string_value(json_object_get(sandbox, "id"));
	if (!id)
		return err_set(e, ERR_BAD_GATEWAY, "the server gave no id");
	puts(id);
	return o.verbose ? output_phases(json_object_get(sandbox, "phases"), stderr) : 0;
}
