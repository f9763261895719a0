// SPDX-License-Identifier: Apache-2.0
// A line of /proc/self/mountinfo, whose paths users choose.
#include <string.h>
#include "base/str.h"
#include "envd/wake/freeze.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_strbuf_ struct strbuf line = {0};
	uint64_t device;
	char *path;
	strbuf_add(&line, data, len);
	strbuf_addc(&line, '\0');
	if (freeze_mount_needs_sync(line.data, &device, &path) &&
		(*path != '/' || device >> 32 == 0 || path + strlen(path) >= line.data + line.len))
		abort();
	return 0;
}
