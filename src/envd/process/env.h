// SPDX-License-Identifier: Apache-2.0
// The environment of a process: PATH of the agent, HOME, USER, LOGNAME, LANG=C.UTF-8, then the
// locale of the root file system (/etc/locale.conf, /etc/default/locale), the sandbox's variables,
// the request's; a later one wins. LC_ALL is nobody's default: it would hide what a user sets.
#pragma once
#include <jansson.h>
#include "base/err.h"

#define ENV_PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// What stasis-init makes of the cgroups before it starts the agent: the part that programs of the
// guest see as all there is, and that is frozen with all below it; and the file of the namespace
// that makes them see it so.
#define ENV_CGROUP_GUEST "/sys/fs/cgroup"
#define ENV_CGROUP_NAMESPACE "/run/stasis/cgroup.ns"

// global and request are maps of strings, borrowed, may be NULL. *ret is one allocation
// (NULL-terminated array with the texts behind it), owned by the caller. 0, or -EINVAL for a name
// that is empty or has a '='.
int env_build(const char *path, const char *user, const char *home, json_t *global, json_t *request,
	char ***ret, struct err *e);
// Adds what such a file sets of LANG, LANGUAGE and LC_*: lines of NAME=VALUE, the value as it is or
// in quotes (locale.conf(5)). Anything else, and a file that is none or over 16 KiB, is passed
// over.
void env_add_locale(json_t *env, const char *path);
// The value of name in such an array, NULL when absent.
const char *env_get(char *const *env, const char *name);
// Checks a map of strings from outside; names as above.
int env_check(json_t *map, struct err *e);
