// SPDX-License-Identifier: Apache-2.0
// Paths as clients give them.
#pragma once
#include "base/err.h"

#define PATH_SIZE 4096

// "" is default_dir (the home when NULL or ""); "~" and "~/x" are below home, "~other" is refused;
// a relative path is below home. The result is absolute, without ".", ".." and doubled slashes (cut
// textually, as Go's filepath.Clean does). 0, or -EINVAL with the error set.
int path_resolve(const char *path, const char *home, const char *default_dir, char out[PATH_SIZE],
	struct err *e);
// Directory part of an absolute clean path, in place: "/a/b" -> "/a", "/a" -> "/".
void path_cut_last(char *path);
const char *path_base(const char *path); // last component; "/" of "/"
