// SPDX-License-Identifier: Apache-2.0
// set: name, labels and what happens at the time-out.
#include "base/str.h"
#include "base/json.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/command/all.h"

int cmd_set(struct cli *c, struct err *e)
{
	const char *name = NULL, *on_timeout = NULL;
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_t *metadata = NULL, *body = json_object(), *sandbox = NULL;
	const struct cli_option options[] = {
		{0, "name", "NAME", "what to call it; '' for no name", OPT_STRING, &name},
		{0, "metadata", "K=V|K-", "set a label, or remove it; repeatable", OPT_PATCH,
			&metadata},
		{0, "on-timeout", "kill|pause", "what happens at its time-out", OPT_STRING,
			&on_timeout},
		{0},
	};
	int rc = cli_parse(c, options, 1, 1, e);
	if (rc == 0 && !name && !metadata && !on_timeout)
		rc = err_set(e, ERR_INVALID,
			"nothing to change: give --name, --metadata or --on-timeout");
	if (rc != 0)
		return rc;
	int bad = 0;
	if (name)
		bad |= json_object_set_new(body, "name", *name ? json_string(name) : json_null());
	if (metadata)
		bad |= json_object_set(body, "metadata", metadata);
	if (on_timeout)
		bad |= json_object_set_new(body, "on_timeout", json_string(on_timeout));
	if (bad)
		return err_set(e, ERR_INVALID, "name or on-timeout is not UTF-8");
	rc = api_sandbox_path(c->argv[0], "", &path, e);
	if (rc == 0)
		rc = api_call(c, "PATCH", path, body, &sandbox, e);
	if (rc < 0)
		return rc;
	return c->json ? output_json(sandbox) : 0;
}
