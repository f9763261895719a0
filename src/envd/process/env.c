// SPDX-License-Identifier: Apache-2.0
#include "envd/process/env.h"
#include <string.h>
#include "base/json.h"

int env_check(json_t *map, struct err *e)
{
	const char *name;
	json_t *value;
	if (!json_is_object(map))
		return err_set(e, ERR_INVALID, "environment: must be a map of strings");
	json_object_foreach (map, name, value) {
		if (!*name || strchr(name, '='))
			return err_set(e, ERR_INVALID,
				"environment: '%.100s' cannot be the name of a variable", name);
		if (!json_is_string(value))
			return err_set(e, ERR_INVALID,
				"environment: the value of %.100s must be a string", name);
	}
	return 0;
}

int env_build(const char *path, const char *user, const char *home, json_t *global, json_t *request,
	char ***ret, struct err *e)
{
	_cleanup_json_ json_t *all = json_pack(
		"{s:s, s:s, s:s, s:s}", "PATH", path, "HOME", home, "USER", user, "LOGNAME", user);
	if (!all)
		return err_set(
			e, ERR_INVALID, "the name or home of user '%.100s' is not UTF-8", user);
	json_t *const maps[] = {global, request};
	for (size_t i = 0; i < ARRAY_SIZE(maps); i++) {
		if (!maps[i])
			continue;
		int rc = env_check(maps[i], e);
		if (rc < 0)
			return rc;
		if (json_object_update(all, maps[i]) < 0)
			return err_errno(e, ENOMEM, "environment");
	}
	const char *name;
	json_t *value;
	size_t n = json_object_size(all), bytes = (n + 1) * sizeof(char *), i = 0;
	json_object_foreach (all, name, value)
		bytes += strlen(name) + 1 + json_string_length(value) + 1;
	char **env = malloc(bytes);
	if (!env)
		return err_errno(e, ENOMEM, "environment");
	char *text = (char *)(env + n + 1);
	json_object_foreach (all, name, value) {
		env[i++] = text;
		text = mempcpy(text, name, strlen(name));
		*text++ = '=';
		text = mempcpy(text, json_string_value(value), json_string_length(value) + 1);
	}
	env[n] = NULL;
	*ret = env;
	return 0;
}

const char *env_get(char *const *env, const char *name)
{
	size_t n = strlen(name);
	for (; *env; env++)
		if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
			return *env + n + 1;
	return NULL;
}
