// SPDX-License-Identifier: Apache-2.0
// The kernel command line of stasis-init.
#include "base/str.h"
#include "guestinit/cmdline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	struct cmdline c;
	char bad[16];
	strbuf_add(&text, data, len);
	if (cmdline_parse(text.data, &c, bad, sizeof bad) == 0 &&
		(c.prefix > 32 || c.n_dns > CMDLINE_MAX_DNS))
		abort();
	return 0;
}
