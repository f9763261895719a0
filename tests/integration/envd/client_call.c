// SPDX-License-Identifier: Apache-2.0
// One call of the host's client: client_call URL TOKEN freeze|thaw|resume|version|run|replace|oom
// NEW-TOKEN|-. Prints what came, and the error's REST name and text, if any.
#include <stdio.h>
#include <string.h>
#include "agentclient/client.h"

#define LIMIT_MS 30000

static int on_data(void *ctx, int stream, const void *data, size_t len)
{
	printf("%d: %.*s", stream, (int)len, (const char *)data);
	return 0;
}

static int run(struct http_client *c, const struct envd_target *t, struct err *e)
{
	struct envd_exit end;
	const struct envd_process p = {.shell = "echo out", .on_data = on_data};
	int rc = envd_run(c, t, &p, &end, e);
	if (rc == 0)
		printf("%s\n", end.status);
	return rc;
}

static int version(struct http_client *c, struct envd_target *t, struct err *e)
{
	struct agent_version v = {0};
	t->version = &v;
	int rc = envd_call_health(c, t, LIMIT_MS, e);
	if (rc == 0)
		printf("%s%s\n", v.text, v.can_replace ? " can=replace" : "");
	return rc;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	static const char fresh[64] = "only a test: never equal bytes twice";
	struct envd_target t = {.base_url = argv[1], .token = argv[2]};
	const struct envd_init i = {.token = argv[4],
		.hostname = "copy-c",
		.entropy = fresh,
		.entropy_len = sizeof fresh,
		.resumed = true};
	const struct http_client_config cfg = {.base_url = argv[1]};
	_cleanup_(http_client_freep) struct http_client *c = NULL;
	struct err e = {0};
	int rc = http_client_new(&cfg, &c, &e);
	if (rc == 0 && strcmp(argv[3], "freeze") == 0)
		rc = envd_call_freeze(c, &t, LIMIT_MS, &e);
	else if (rc == 0 && strcmp(argv[3], "thaw") == 0)
		rc = envd_call_thaw(c, &t, LIMIT_MS, &e);
	else if (rc == 0 && strcmp(argv[3], "version") == 0)
		rc = version(c, &t, &e);
	else if (rc == 0 && strcmp(argv[3], "run") == 0)
		rc = run(c, &t, &e);
	else if (rc == 0 && strcmp(argv[3], "replace") == 0)
		rc = envd_call_replace(
			c, &t, &(struct envd_program){"x", 1, "0"}, true, LIMIT_MS, &e);
	else if (rc == 0 && strcmp(argv[3], "oom") == 0)
		rc = envd_call_oom(c, &t, NULL, LIMIT_MS, &(struct envd_oom_report){0}, &e);
	else if (rc == 0)
		rc = envd_call_init(c, &t, &i, LIMIT_MS, NULL, &e);
	if (rc < 0)
		printf("%s: %s\n", err_info(e.code)->name, err_text(&e, rc));
	return rc < 0;
}
