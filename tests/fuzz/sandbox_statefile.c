// SPDX-License-Identifier: Apache-2.0
// The state file of a sandbox. What is accepted must be accepted again after it was written.
#include <string.h>
#include "sandbox/table/statefile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct sandbox s, again;
	struct statefile_op op, op_again;
	_cleanup_strbuf_ struct strbuf text = {0};
	if (statefile_parse((const char *)data, len, &s, &op, NULL) < 0)
		return 0;
	if (statefile_encode(&s, &op, &text) < 0 ||
		statefile_parse(text.data, text.len, &again, &op_again, NULL) < 0 ||
		memcmp(&s, &again, sizeof s) != 0 || strcmp(op.id, op_again.id) != 0 ||
		strcmp(op.data, op_again.data) != 0)
		__builtin_trap();
	return 0;
}
