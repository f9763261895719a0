// SPDX-License-Identifier: Apache-2.0
#include "envd/wake/settings.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "envd/process/env.h"

#define MAX_FILE (4u << 20)

json_t *settings_json(const struct agent *a)
{
	return json_pack("{s:s?, s:O, s:s?, s:s?, s:I, s:i}", "accessToken", a->token, "envVars",
		a->env, "defaultUser", a->default_user, "defaultWorkdir", a->default_workdir,
		"lastInitNs", (json_int_t)a->last_init_ns, "clockPpm", a->clock_ppm);
}

int settings_save(struct agent *a, struct err *e)
{
	if (!a->state_file)
		return 0;
	_cleanup_json_ json_t *j = settings_json(a);
	_cleanup_free_ char *text = j ? json_compact(j) : NULL;
	int rc = text ? file_write_atomic(AT_FDCWD, a->state_file, text, strlen(text), 0600)
		      : -ENOMEM;
	if (text)
		explicit_bzero(text, strlen(text));
	if (rc == 0)
		return 0;
	if (unlink(a->state_file) < 0 && errno != ENOENT)
		return err_errno(e, rc, "cannot write %s, nor remove the old one", a->state_file);
	log_warn("settings will not outlive the agent: cannot write file=%s error=%s",
		a->state_file, strerror(-rc));
	return 0;
}

// Nobody but us may have written it.
static int read_own(const char *path, char **ret, size_t *ret_len, struct err *e)
{
	struct stat st;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "open");
	if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
		return err_set(e, ERR_FORBIDDEN, "it must be a file of our own with mode 0600");
	if (st.st_size > MAX_FILE)
		return err_set(e, ERR_INVALID, "it is larger than %u bytes", MAX_FILE);
	_cleanup_free_ char *text = malloc((size_t)st.st_size + 1);
	ssize_t n = text ? file_read_full(fd, text, (size_t)st.st_size) : -ENOMEM;
	if (n < 0)
		return err_errno(e, (int)n, "read");
	*ret = TAKE_PTR(text);
	*ret_len = (size_t)n;
	return 0;
}

int settings_take(struct agent *a, json_t *j, struct err *e)
{
	const char *token = NULL, *user = NULL, *workdir = NULL;
	json_t *env = NULL;
	int rate = 0;
	uint64_t last = 0;
	const struct json_field f[] = {
		{"accessToken", JF_STRING, &token, .max = INIT_TOKEN_MAX},
		{"envVars", JF_OBJECT, &env},
		{"defaultUser", JF_STRING, &user, .max = 255},
		{"defaultWorkdir", JF_STRING, &workdir},
		{"lastInitNs", JF_U64, &last, .max = INT64_MAX},
		{"clockPpm", JF_INT, &rate, .max = INIT_CLOCK_PPM_MAX},
	};
	int rc = json_read_fields(j, f, ARRAY_SIZE(f), true, e);
	if (rc == 0 && env)
		rc = env_check(env, e);
	if (rc == 0 && (!token || !*token))
		rc = err_set(e, ERR_INVALID, "accessToken: is missing");
	if (rc < 0)
		return rc;
	_cleanup_free_ char *t = strdup(token), *u = user ? strdup(user) : NULL,
			    *w = workdir ? strdup(workdir) : NULL;
	if (!t || (user && !u) || (workdir && !w))
		return err_errno(e, ENOMEM, "settings");
	a->token = TAKE_PTR(t);
	a->default_user = TAKE_PTR(u);
	a->default_workdir = TAKE_PTR(w);
	if (env) {
		json_decref(a->env);
		a->env = json_incref(env);
	}
	a->last_init_ns = last;
	a->clock_ppm = rate;
	return 0;
}

int settings_parse(struct agent *a, const char *text, size_t len, struct err *e)
{
	_cleanup_json_ json_t *j = NULL;
	int rc = json_parse_object(text, len, &j, e);
	return rc < 0 ? rc : settings_take(a, j, e);
}

void settings_load(struct agent *a)
{
	struct err e = {0};
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	if (!a->state_file || (access(a->state_file, F_OK) < 0 && errno == ENOENT))
		return;
	int rc = read_own(a->state_file, &text, &len, &e);
	if (rc == 0)
		rc = settings_parse(a, text, len, &e);
	if (text)
		explicit_bzero(text, len);
	if (rc == 0)
		log_info("settings of before are kept file=%s", a->state_file);
	else
		log_warn("settings of before are lost: the host has to tell them file=%s error=%s",
			a->state_file, err_text(&e, rc));
}
