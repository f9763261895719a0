// SPDX-License-Identifier: Apache-2.0
// Where the product's own programs and files are: beside the running program in the build tree, in
// libexec/stasis of the same prefix when installed.
#pragma once
#include "base/macro.h"

#define PATH_DATA_DEFAULT "/var/lib/stasis"
#define PATH_RUN_DEFAULT "/run/stasis"
#define PATH_CACHE_DEFAULT                                                                         \
	"/var/cache/stasis" // built images, by content hash; STASIS_CACHE overrides

// Absolute path of a helper program or file: "stasis-shim", "stasis-init", "envd", "fcqemu",
// "ramhook.so", "images/build-base". Looked for in $STASIS_LIBEXEC, beside the running program, in
// the source tree of a build directory (for "images/..."), then in ../libexec/stasis. Owned by the
// caller; NULL when it is nowhere.
char *paths_find(const char *name);
