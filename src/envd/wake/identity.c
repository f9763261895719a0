// SPDX-License-Identifier: Apache-2.0
#include "envd/wake/identity.h"
#include <string.h>
#include "base/buildid.h"

#define INIT_MAX 24

void identity_text(const char *init, char out[AGENT_HEADER_SIZE])
{
	char build[BUILD_ID_SIZE];
	bool told = init && *init && strlen(init) < INIT_MAX &&
		    strspn(init, "0123456789.-") == strlen(init);
	build_id_own(build);
	snprintf(out, AGENT_HEADER_SIZE, "%s-%u+%s%s%s can=replace", AGENT_PRODUCT, AGENT_REVISION,
		build, told ? " init=" : "", told ? init : "");
}
