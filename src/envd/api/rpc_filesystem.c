// SPDX-License-Identifier: Apache-2.0
// filesystem.Filesystem. The agent works as root and gives what it makes to the caller's user.
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "envd/api/entry.h"
#include "envd/process/path.h"
#include "envd/api/request.h"
#include "envd/api/rpc.h"
#include "envd/api/rpc_filesystem.h"

#define MAX_LISTING (64u << 20) // bytes of one answer
#define MAX_LEVELS 100u		// of one listing: each path is looked up from the root

static int read_path(struct rpc_call *c, const char *field, char out[PATH_SIZE], struct err *e)
{
	const char *path = "";
	const struct json_field f[] = {{field, JF_STRING, &path}};
	int rc = json_read_fields(c->in, f, 1, true, e);
	return rc < 0 ? rc : request_resolve_path(c->agent, path, &c->user, out, e);
}

static enum rpc_code failed(int rc, const char *path, struct err *e)
{
	err_errno(e, rc, "%s", path);
	return rc == -ELOOP ? RPC_FAILED_PRECONDITION : RPC_FROM_ERR;
}

static enum rpc_code reply_entry(struct rpc_call *c, const char *path, struct err *e)
{
	strbuf_adds(&c->text, "{\"entry\":");
	int rc = entry_add_json(&c->text, path, &c->users, NULL);
	strbuf_addc(&c->text, '}');
	return rc < 0 ? failed(rc, path, e) : RPC_OK;
}

static enum rpc_code call_stat(struct rpc_call *c, struct err *e)
{
	char path[PATH_SIZE];
	if (read_path(c, "path", path, e) < 0)
		return RPC_FROM_ERR;
	return reply_entry(c, path, e);
}

// --- ListDir

struct names {
	char **v;
	size_t n, cap;
};

static void names_done(struct names *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_names(const char *dir, struct names *l)
{
	_cleanup_closedir_ DIR *d = opendir(dir);
	if (!d)
		return -errno;
	for (struct dirent *de; (de = readdir(d));) {
		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		if (l->n == l->cap) {
			size_t cap = l->cap ? 2 * l->cap : 16;
			char **v = reallocarray(l->v, cap, sizeof *v);
			if (!v)
				return -ENOMEM;
			l->v = v;
			l->cap = cap;
		}
		if (!(l->v[l->n] = strdup(de->d_name)))
			return -ENOMEM;
		l->n++;
	}
	qsort(l->v, l->n, sizeof *l->v, by_name);
	return 0;
}

// path is extended in place and cut back. What vanishes or cannot be read meanwhile is left out,
// below the first level. level: of path, 0 the one that was asked for.
static int list(
	struct rpc_call *c, char path[PATH_SIZE], uint32_t level, uint32_t depth, struct err *e)
{
	_cleanup_(names_done) struct names names = {0};
	size_t len = strlen(path);
	if (level >= MAX_LEVELS)
		return err_set(e, ERR_LIMIT,
			"%.200s: more than %u levels deep: ask for less depth, or list what is "
			"further down by itself",
			path, MAX_LEVELS);
	int rc = read_names(path, &names);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < names.n; i++) {
		mode_t mode;
		if (str_format(path + len, PATH_SIZE - len, "%s%s", len == 1 ? "" : "/",
			    names.v[i]) < 0)
			continue;
		size_t before = c->text.len;
		if (c->text.data[before - 1] != '[')
			strbuf_addc(&c->text, ',');
		rc = entry_add_json(&c->text, path, &c->users, &mode);
		if (rc < 0) {
			c->text.len = before;
			continue;
		}
		if (c->text.failed || c->text.len > MAX_LISTING)
			return err_set(e, ERR_LIMIT,
				"the listing is over %u bytes: ask for less depth", MAX_LISTING);
		if (S_ISDIR(mode) && level + 1 < depth) {
			rc = list(c, path, level + 1, depth, e);
			if (rc < 0 && err_is_set(e))
				return rc;
		}
	}
	path[len] = '\0';
	return 0;
}

static enum rpc_code call_list_dir(struct rpc_call *c, struct err *e)
{
	char path[PATH_SIZE];
	uint32_t depth = 0;
	struct stat st;
	if (read_path(c, "path", path, e) < 0 || rpc_read_u32(c->in, "depth", &depth, e) < 0)
		return RPC_FROM_ERR;
	if (stat(path, &st) < 0)
		return failed(-errno, path, e);
	if (!S_ISDIR(st.st_mode)) {
		err_set(e, ERR_INVALID, "%s: not a directory", path);
		return RPC_FROM_ERR;
	}
	strbuf_adds(&c->text, "{\"entries\":[");
	int rc = list(c, path, 0, depth ? depth : 1, e);
	strbuf_adds(&c->text, "]}");
	if (rc < 0)
		return err_is_set(e) ? RPC_FROM_ERR : failed(rc, path, e);
	return RPC_OK;
}

// --- changes

static enum rpc_code call_make_dir(struct rpc_call *c, struct err *e)
{
	char path[PATH_SIZE];
	struct stat st;
	if (read_path(c, "path", path, e) < 0)
		return RPC_FROM_ERR;
	if (stat(path, &st) == 0) {
		if (!S_ISDIR(st.st_mode)) {
			err_set(e, ERR_INVALID, "%s: exists and is not a directory", path);
			return RPC_FROM_ERR;
		}
		err_set(e, ERR_CONFLICT, "%s: exists already", path);
		return RPC_ALREADY_EXISTS;
	}
	if (request_make_parents(c->agent, path, &c->user, e) < 0 ||
		request_make_dir(c->agent, path, &c->user, e) < 0)
		return RPC_FROM_ERR;
	return reply_entry(c, path, e);
}

static enum rpc_code call_move(struct rpc_call *c, struct err *e)
{
	char from[PATH_SIZE], to[PATH_SIZE];
	struct stat st;
	if (read_path(c, "source", from, e) < 0 || read_path(c, "destination", to, e) < 0)
		return RPC_FROM_ERR;
	if (lstat(from, &st) < 0)
		return failed(-errno, from, e);
	if (request_make_parents(c->agent, to, &c->user, e) < 0)
		return RPC_FROM_ERR;
	if (rename(from, to) < 0) {
		err_errno(e, errno, "cannot move %s to %s", from, to);
		return RPC_FROM_ERR;
	}
	return reply_entry(c, to, e);
}

static enum rpc_code call_remove(struct rpc_call *c, struct err *e)
{
	char path[PATH_SIZE];
	if (read_path(c, "path", path, e) < 0)
		return RPC_FROM_ERR;
	if (strcmp(path, "/") == 0) {
		err_set(e, ERR_INVALID, "the root directory cannot be removed");
		return RPC_FROM_ERR;
	}
	int rc = file_rm_rf(AT_FDCWD, path);
	// A parent that is a file or does not exist: nothing of that name either.
	return rc < 0 && rc != -ENOTDIR ? failed(rc, path, e) : RPC_OK;
}

void rpc_filesystem_unary(struct http_request *req, void *ctx)
{
	static const struct rpc_method methods[] = {
		{"ListDir", call_list_dir},
		{"MakeDir", call_make_dir},
		{"Move", call_move},
		{"Remove", call_remove},
		{"Stat", call_stat},
	};
	rpc_serve_unary(req, ctx, methods, ARRAY_SIZE(methods));
}
