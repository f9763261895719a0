// SPDX-License-Identifier: Apache-2.0
#include "envd/process/path.h"
#include <string.h>
#include "base/str.h"

// Appends the components of path to out (a clean absolute path of *len bytes, "" for the root).
static int add_components(char *out, size_t *len, const char *path)
{
	while (*path) {
		size_t n = strcspn(path, "/");
		if (n == 0) {
			path++;
			continue;
		}
		if (n == 2 && path[0] == '.' && path[1] == '.') {
			while (*len && out[--*len] != '/')
				;
		} else if (n != 1 || path[0] != '.') {
			if (*len + 1 + n >= PATH_SIZE)
				return -ENAMETOOLONG;
			out[(*len)++] = '/';
			memcpy(out + *len, path, n);
			*len += n;
		}
		path += n;
	}
	return 0;
}

int path_resolve(const char *path, const char *home, const char *default_dir, char out[PATH_SIZE],
	struct err *e)
{
	size_t len = 0;
	const char *base = home, *rest = path;
	if (!*path) {
		rest = default_dir && *default_dir ? default_dir : home;
	} else if (*path == '~') {
		if (path[1] && path[1] != '/')
			return err_set(e, ERR_INVALID,
				"'%.200s': only ~ and ~/ can be used, not the home of another user",
				path);
		rest = path + 1;
		if (add_components(out, &len, home) < 0)
			goto too_long;
		base = "";
	}
	if (*rest == '/')
		base = "";
	if (add_components(out, &len, base) < 0 || add_components(out, &len, rest) < 0)
		goto too_long;
	if (len == 0)
		out[len++] = '/';
	out[len] = '\0';
	return 0;
too_long:
	err_set(e, ERR_INVALID, "the path is longer than %d bytes", PATH_SIZE - 1);
	return -EINVAL;
}

void path_cut_last(char *path)
{
	char *slash = strrchr(path, '/');
	if (slash)
		slash[slash == path] = '\0';
}

const char *path_base(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash && slash[1] ? slash + 1 : path;
}
