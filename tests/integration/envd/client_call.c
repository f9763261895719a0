// SPDX-License-Identifier: Apache-2.0
// One call of the host's client: client_call URL TOKEN freeze|thaw|resume NEW-TOKEN|-. Prints the
// error's REST name and text, if any.
#include <stdio.h>
#include <string.h>
#include "agentclient/client.h"

#define LIMIT_MS 30000

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	static const char fresh[64] = "only a test: never equal bytes twice";
	const struct envd_target t = {.base_url = argv[1], .token = argv[2]};
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
	else if (rc == 0)
		rc = envd_call_init(c, &t, &i, LIMIT_MS, NULL, &e);
	if (rc < 0)
		printf("%s: %s\n", err_info(e.code)->name, err_text(&e, rc));
	return rc < 0;
}
