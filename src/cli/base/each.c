// SPDX-License-Identifier: Apache-2.0
#include "cli/base/each.h"
#include <string.h>
#include "cli/base/output.h"

int each_operand(struct cli *c, bool force, each_call *call, const void *ctx, struct err *e)
{
	int result = 0;
	char first[REQUEST_ID_SIZE] = "";
	for (int i = 0; i < c->argc; i++) {
		struct err one = {0};
		c->request_id[0] = '\0';
		int rc = call(c, c->argv[i], ctx, &one);
		if (rc == 0 || (force && one.code == ERR_NOT_FOUND))
			continue;
		if (result == 0) {
			*e = one;
			memcpy(first, c->request_id, sizeof first);
		} else {
			output_complain("%s", one.text);
			output_request_id(c->request_id);
		}
		result = result ? result : rc;
	}
	memcpy(c->request_id, first, sizeof first);
	return result;
}
