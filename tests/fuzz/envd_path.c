// SPDX-License-Identifier: Apache-2.0
// Client paths: what comes out is absolute and clean, and resolving it again changes nothing.
#include <string.h>
#include "base/str.h"
#include "envd/process/path.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char out[PATH_SIZE], again[PATH_SIZE];
	_cleanup_strbuf_ struct strbuf path = {0};
	strbuf_add(&path, data, len);
	if (path_resolve(path.data, "/home/user", "/code", out, NULL) < 0)
		return 0;
	if (out[0] != '/' || strstr(out, "//") || strstr(out, "/./") || strstr(out, "/../") ||
		str_ends(out, "/..") || str_ends(out, "/.") || (out[1] && str_ends(out, "/")))
		abort();
	if (path_resolve(out, "/home/user", "/code", again, NULL) < 0 || strcmp(out, again) != 0)
		abort();
	return 0;
}
