// SPDX-License-Identifier: Apache-2.0
// The three JSON files of a sandbox's directory. What is accepted must be accepted again after it
// was written.
#include <string.h>
#include "shim/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const char *text = (const char *)data;
	struct shim_state st;
	struct shim_exit x;
	_cleanup_(spec_freep) struct spec *sp = NULL, *again = NULL;
	if (spec_parse(text, len, &sp, NULL) == 0) {
		_cleanup_free_ char *t = shim_spec_format(spec_get(sp));
		if (!t || spec_parse(t, strlen(t), &again, NULL) < 0)
			__builtin_trap();
	}
	if (shim_state_parse(text, len, &st, NULL) == 0) {
		_cleanup_free_ char *t = shim_state_format(&st);
		if (!t || shim_state_parse(t, strlen(t), &st, NULL) < 0)
			__builtin_trap();
	}
	if (shim_exit_parse(text, len, &x, NULL) == 0) {
		_cleanup_free_ char *t = shim_exit_format(&x);
		if (!t || shim_exit_parse(t, strlen(t), &x, NULL) < 0)
			__builtin_trap();
	}
	return 0;
}
