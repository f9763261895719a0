// SPDX-License-Identifier: Apache-2.0
#include "envd/api/files_post.h"
#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/json.h"
#include "base/replace.h"
#include "envd/api/multipart.h"
#include "envd/api/request.h"
#include "envd/process/path.h"

// Of a form with more files than this, the first get names for now and no descriptor is held.
#define MAX_OPEN 64

// All files of a request get their places when the last one is whole: a request that fails changes
// nothing.
struct upload {
	struct agent *agent;
	struct user user;
	const char *query_path;	     // NULL: not given
	struct multipart *multipart; // NULL: the body is the file
	json_t *done;		     // array of the answer, one for each of files but one under way
	struct replace *files;
	size_t n, parked;
	bool writing; // the last of files is under way
	char path[PATH_SIZE];
};

static void upload_undo(struct upload *u)
{
	while (u->n > 0)
		replace_abort(&u->files[--u->n]);
	u->writing = false;
}

static void upload_free(void *p)
{
	struct upload *u = p;
	upload_undo(u);
	free(u->files);
	multipart_free(u->multipart);
	json_decref(u->done);
	user_done(&u->user);
	free(u);
}

static int cannot_write(int rc, const char *path, struct err *e)
{
	if (rc == -ENOSPC || rc == -EDQUOT)
		return err_set(e, ERR_NO_SPACE, "no space left on the disk for %s", path);
	return err_errno(e, rc, "cannot write %s", path);
}

static int open_target(struct upload *u, struct err *e)
{
	struct stat st;
	struct replace *grown = reallocarray(u->files, u->n + 1, sizeof *grown);
	if (!grown)
		return err_errno(e, ENOMEM, "%s", u->path);
	u->files = grown;
	int rc = request_make_parents(u->agent, u->path, &u->user, e);
	if (rc < 0)
		return rc;
	if (stat(u->path, &st) == 0 && !S_ISREG(st.st_mode))
		return request_refuse_kind(u->path, st.st_mode, e);
	struct replace *r = &u->files[u->n];
	rc = replace_begin(r, AT_FDCWD, u->path, REPLACE_FOLLOW, 0666);
	if (rc < 0)
		return cannot_write(rc, u->path, e);
	u->n++;
	u->writing = true;
	replace_take_old(r);
	if (u->agent->as_root && !r->exists && fchown(r->fd, u->user.uid, u->user.gid) < 0)
		return err_errno(e, errno, "cannot give %s to %s", u->path, u->user.name);
	return 0;
}

static int begin_file(struct upload *u, const char *path, struct err *e)
{
	size_t i;
	json_t *o;
	int rc = request_resolve_path(u->agent, path, &u->user, u->path, e);
	if (rc < 0)
		return rc;
	json_array_foreach (u->done, i, o)
		if (str_eq(json_string_value(json_object_get(o, "path")), u->path))
			return err_set(e, ERR_INVALID, "%s: twice in one request", u->path);
	return open_target(u, e);
}

static int commit(struct upload *u, struct err *e)
{
	for (size_t i = 0; i < u->n; i++) {
		int rc = replace_commit(&u->files[i]);
		const json_t *o = json_array_get(u->done, i);
		if (rc < 0)
			return cannot_write(rc, json_string_value(json_object_get(o, "path")), e);
	}
	u->n = 0;
	return 0;
}

static int on_part(void *ctx, const char *name, const char *filename, struct err *e)
{
	struct upload *u = ctx;
	if (strcmp(name, "file") != 0)
		return 0; // skipped
	if (u->query_path && json_array_size(u->done) > 0)
		return err_set(e, ERR_INVALID, "path: can be given for a single file only");
	const char *path = u->query_path ? u->query_path : filename;
	if (!path || !*path)
		return err_set(e, ERR_INVALID, "a part has no file name and the query no path");
	return begin_file(u, path, e);
}

static int on_data(void *ctx, const void *data, size_t len, struct err *e)
{
	struct upload *u = ctx;
	if (!u->writing)
		return 0;
	int rc = file_write_full(u->files[u->n - 1].fd, data, len);
	return rc < 0 ? cannot_write(rc, u->path, e) : 0;
}

static int on_part_end(void *ctx, struct err *e)
{
	struct upload *u = ctx;
	if (!u->writing)
		return 0;
	json_t *o = json_pack(
		"{s:s, s:s, s:s}", "path", u->path, "name", path_base(u->path), "type", "file");
	if (!o)
		return err_set(e, ERR_INVALID, "the path is not UTF-8");
	json_array_append_new(u->done, o);
	u->writing = false;
	if (u->n - u->parked <= MAX_OPEN)
		return 0;
	int rc = replace_park(&u->files[u->parked++]);
	return rc < 0 ? cannot_write(rc, u->path, e) : 0;
}

static const struct multipart_events upload_events = {on_part, on_data, on_part_end};

static int post(struct http_request *req, struct agent *a, struct upload *u, struct err *e)
{
	static const char octets[] = "application/octet-stream";
	const char *type = http_req_header(req, "Content-Type");
	const char *coding = http_req_header(req, "Content-Encoding");
	u->agent = a;
	u->query_path = http_req_query(req, "path");
	if (coding && strcasecmp(coding, "identity") != 0)
		return err_set(e, ERR_INVALID,
			"Content-Encoding: %.40s is not supported; send the file uncompressed",
			coding);
	int rc = request_query_user(req, a, &u->user, e);
	if (rc < 0)
		return rc;
	if (!type)
		return err_set(e, ERR_INVALID,
			"Content-Type: must be application/octet-stream or multipart/form-data");
	if (strncasecmp(type, octets, strlen(octets)) != 0)
		return multipart_new(type, &upload_events, u, &u->multipart, e);
	if (!u->query_path || !*u->query_path)
		return err_set(e, ERR_INVALID, "path: must be in the query");
	return begin_file(u, u->query_path, e);
}

void files_post(struct http_request *req, void *ctx)
{
	struct err e = {0};
	struct upload *u = calloc(1, sizeof *u);
	if (!u || !(u->done = json_array())) {
		free(u);
		err_errno(&e, ENOMEM, "upload");
		http_reply_error(req, &e);
		return;
	}
	http_req_set_data(req, u, upload_free);
	if (post(req, ctx, u, &e) < 0) {
		upload_undo(u);
		http_reply_error(req, &e);
	}
}

int files_post_body(struct http_request *req, void *ctx, const void *data, size_t len)
{
	struct upload *u = http_req_data(req);
	struct err e = {0};
	int rc;
	if (u->multipart)
		rc = len ? multipart_feed(u->multipart, data, len, &e)
			 : multipart_finish(u->multipart, &e);
	else
		rc = len ? on_data(u, data, len, &e) : on_part_end(u, &e);
	if (rc == 0 && len == 0)
		rc = commit(u, &e);
	if (rc < 0) {
		upload_undo(u);
		http_reply_error(req, &e);
		return rc;
	}
	if (len == 0)
		http_reply_json(req, 200, json_incref(u->done));
	return 0;
}
