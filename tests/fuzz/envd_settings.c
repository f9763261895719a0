// SPDX-License-Identifier: Apache-2.0
// The file of the settings that outlive the agent.
#include <string.h>
#include "envd/wake/init.h"
#include "envd/wake/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct agent a = {.env = json_object()};
	int rc = settings_parse(&a, (const char *)data, len, NULL);
	// Either all of it or nothing: an agent without a token is closed.
	if (rc == 0 ? !a.token || !*a.token || strlen(a.token) > INIT_TOKEN_MAX
		    : a.token || a.default_user || a.default_workdir || a.last_init_ns)
		abort();
	json_decref(a.env);
	free(a.token);
	free(a.default_user);
	free(a.default_workdir);
	return 0;
}
