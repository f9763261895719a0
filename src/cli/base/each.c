// SPDX-License-Identifier: Apache-2.0
#include "cli/base/each.h"
#include "cli/base/output.h"

int each_operand(struct cli *c, bool force, each_call *call, const void *ctx, struct err *e)
{
	int result = 0;
	for (int i = 0; i < c->argc; i++) {
		struct err one = {0};
		int rc = call(c, c->argv[i], ctx, &one);
		if (rc == 0 || (force && one.code == ERR_NOT_FOUND))
			continue;
		if (result == 0)
			*e = one;
		else
			output_complain("%s", one.text);
		result = result ? result : rc;
	}
	return result;
}
