// SPDX-License-Identifier: Apache-2.0
#include "envd/api/request.h"
#include <string.h>
#include <sys/stat.h>
#include "base/lock.h"
#include "envd/api/entry.h"

int request_find_user(
	struct agent *a, const struct users *u, const char *name, struct user *ret, struct err *e)
{
	char preset[256] = "";
	int rc;
	if (!name || !*name) {
		_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->lock);
		if (a->default_user)
			snprintf(preset, sizeof preset, "%s", a->default_user);
		name = preset;
	}
	if (*name)
		rc = users_find(u, name, ret);
	else if (!a->as_root)
		rc = users_find_uid(u, geteuid(), ret);
	else if ((rc = users_find(u, "user", ret)) == -ENOENT)
		rc = users_find(u, name = "root", ret);
	if (rc == -ENOENT && strcmp(name, "root") == 0) {
		// A root file system without /etc/passwd still has a root.
		*ret = (struct user){.name = strdup("root"), .home = strdup("/"), .n_groups = 1};
		rc = ret->name && ret->home ? 0 : -ENOMEM;
	}
	if (rc == -ENOENT)
		return err_set(e, ERR_UNAUTHENTICATED, "no user '%.100s' in /etc/passwd", name);
	return rc < 0 ? err_errno(e, rc, "user") : 0;
}

int request_query_user(struct http_request *req, struct agent *a, struct user *ret, struct err *e)
{
	_cleanup_users_ struct users users = {0};
	int rc = users_load(NULL, NULL, &users);
	if (rc < 0)
		return err_errno(e, rc, "cannot read /etc/passwd");
	return request_find_user(a, &users, http_req_query(req, "username"), ret, e);
}

int request_resolve_path(struct agent *a, const char *path, const struct user *user,
	char out[PATH_SIZE], struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->lock);
	return path_resolve(path, user->home, a->default_workdir, out, e);
}

int request_refuse_kind(const char *path, mode_t mode, struct err *e)
{
	return err_set(e, ERR_INVALID, "%s: %s", path,
		S_ISDIR(mode) ? "is a directory" : "is not a regular file");
}

int request_make_dir(struct agent *a, const char *path, const struct user *user, struct err *e)
{
	if (mkdir(path, 0755) < 0)
		return err_errno(e, errno, "cannot make the directory %s", path);
	if (a->as_root && lchown(path, user->uid, user->gid) < 0)
		return err_errno(e, errno, "cannot give the directory %s to %s", path, user->name);
	return 0;
}

int request_make_parents(struct agent *a, const char *path, const struct user *user, struct err *e)
{
	char dir[PATH_SIZE];
	snprintf(dir, sizeof dir, "%s", path);
	path_cut_last(dir);
	// Nearly always there.
	if (access(dir, F_OK) == 0)
		return 0;
	for (char *p = dir + 1;; p++) {
		if (*p != '/' && *p != '\0')
			continue;
		char keep = *p;
		*p = '\0';
		if (access(dir, F_OK) < 0) {
			int rc = request_make_dir(a, dir, user, e);
			if (rc < 0 && rc != -EEXIST)
				return rc;
		}
		if (!keep)
			return 0;
		*p = keep;
	}
}

void request_add_error(struct strbuf *out, const char *code, const struct err *e)
{
	const char *reason = err_reason_name(e->reason);
	strbuf_adds(out, "{\"code\":");
	entry_add_json_string(out, code);
	strbuf_adds(out, ",\"message\":");
	entry_add_json_string(out, e->text);
	// Ours: clients of the protocol pass over what they do not know.
	if (reason)
		strbuf_addf(out, ",\"reason\":\"%s\"", reason);
	strbuf_addc(out, '}');
}
