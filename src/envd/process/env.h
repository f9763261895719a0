// SPDX-License-Identifier: Apache-2.0
// The environment of a process: PATH of the agent, HOME, USER, LOGNAME, then the sandbox's
// variables, then the request's; a later one wins.
#pragma once
#include <jansson.h>
#include "base/err.h"

#define ENV_PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// global and request are maps of strings, borrowed, may be NULL. *ret is one allocation
// (NULL-terminated array with the texts behind it), owned by the caller. 0, or -EINVAL for a name
// that is empty or has a '='.
int env_build(const char *path, const char *user, const char *home, json_t *global, json_t *request,
	char ***ret, struct err *e);
// The value of name in such an array, NULL when absent.
const char *env_get(char *const *env, const char *name);
// Checks a map of strings from outside; names as above.
int env_check(json_t *map, struct err *e);
