// SPDX-License-Identifier: Apache-2.0
#include "envd/process/env.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"

#define MAX_LOCALE_FILE (16u << 10)

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

static bool is_locale_name(const char *s, size_t n)
{
	return (n == 4 && strncmp(s, "LANG", n) == 0) ||
	       (n == 8 && strncmp(s, "LANGUAGE", n) == 0) ||
	       (n > 3 && n < 32 && strncmp(s, "LC_", 3) == 0);
}

static void add_locale_line(json_t *env, char *line)
{
	char *value = strchr(line, '=');
	if (!value || !is_locale_name(line, (size_t)(value - line)))
		return;
	*value++ = '\0';
	size_t n = strcspn(value, " \t\r");
	if (*value == '"' || *value == '\'') {
		char quote[] = {*value++, '\0'};
		n = strcspn(value, quote);
	}
	value[n] = '\0';
	// What is not UTF-8 is no value: nothing is set then.
	json_object_set_new(env, line, json_string(value));
}

void env_add_locale(json_t *env, const char *path)
{
	// Whatever root has put there must not hold us up.
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	char text[MAX_LOCALE_FILE], *rest = text;
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	ssize_t n = RETRY_EINTR(read(fd, text, sizeof text));
	if (n < 0 || (size_t)n == sizeof text)
		return;
	text[n] = '\0';
	for (char *line; (line = strsep(&rest, "\n"));)
		add_locale_line(env, line);
}

int env_build(const char *path, const char *user, const char *home, json_t *global, json_t *request,
	char ***ret, struct err *e)
{
	_cleanup_json_ json_t *all = json_pack("{s:s, s:s, s:s, s:s, s:s}", "PATH", path, "HOME",
		home, "USER", user, "LOGNAME", user, "LANG", "C.UTF-8");
	if (!all)
		return err_set(
			e, ERR_INVALID, "the name or home of user '%.100s' is not UTF-8", user);
	env_add_locale(all, "/etc/locale.conf");
	env_add_locale(all, "/etc/default/locale");
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
