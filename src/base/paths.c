// SPDX-License-Identifier: Apache-2.0
#include "base/paths.h"
#include <string.h>
#include "base/str.h"

static char *try_path(const char *dir, const char *sub, const char *name)
{
	char *p = str_printf("%s/%s%s", dir, sub, name);
	if (p && access(p, F_OK) == 0)
		return p;
	free(p);
	return NULL;
}

char *paths_find(const char *name)
{
	const char *env = getenv("STASIS_LIBEXEC");
	char *r = NULL, self[4096];
	if (env && *env && (r = try_path(env, "", name)))
		return r;
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n > 0) {
		self[n] = '\0';
		char *slash = strrchr(self, '/');
		if (slash)
			*slash = '\0';
		if ((r = try_path(self, "", name)) || (r = try_path(self, "../", name)) ||
			(r = try_path(self, "../libexec/stasis/", name)))
			return r;
	}
	return NULL;
}
