// SPDX-License-Identifier: Apache-2.0
#include "envd/api/files_tar.h"
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include "archive/pack.h"
#include "archive/unpack.h"
#include "base/str.h"
#include "envd/api/entry.h"
#include "envd/api/request.h"
#include "envd/process/path.h"

#define TYPE "application/x-tar"
#define MAX_SKIPPED 100 // that an answer names

static bool is_set(const struct http_request *req, const char *name)
{
	return str_eq(http_req_query(req, name), "1");
}

// A link is followed where the path says that it leads to a directory.
static bool names_directory(const char *asked)
{
	return str_ends(asked, "/") || str_ends(asked, "/.") || str_eq(asked, ".");
}

// --- GET

static ssize_t next_piece(void *p, char *buf, size_t max)
{
	return pack_next(p, buf, max, NULL);
}

static void stream_free(void *p)
{
	pack_free(p);
}

static int get(struct http_request *req, struct agent *a, struct err *e)
{
	_cleanup_user_ struct user user = {0};
	char path[PATH_SIZE];
	struct pack *pack;
	const char *asked = http_req_query(req, "path");
	unsigned flags = 0;
	int rc = request_query_user(req, a, &user, e);
	if (rc == 0)
		rc = request_resolve_path(a, asked ? asked : "", &user, path, e);
	if (rc < 0)
		return rc;
	if (is_set(req, "follow"))
		flags |= PACK_FOLLOW;
	if (asked && names_directory(asked))
		flags |= PACK_FOLLOW_ROOT;
	if (is_set(req, "archive"))
		flags |= PACK_EXACT;
	const char *name = path_base(path);
	rc = pack_new(AT_FDCWD, path, strcmp(name, "/") == 0 ? "rootfs" : name, flags, NULL, NULL,
		&pack, e);
	if (rc < 0)
		return rc == -ENOTDIR
			       ? err_set(e, ERR_NOT_FOUND, "%s: no such file or directory", path)
			       : rc;
	http_reply_stream(req, 200, TYPE, next_piece, pack, stream_free);
	return 0;
}

void files_tar_get(struct http_request *req, void *ctx)
{
	struct err e = {0};
	if (get(req, ctx, &e) < 0)
		http_reply_error(req, &e);
}

// --- POST

struct upload {
	struct agent *agent;
	struct user user;
	bool rename, exact, into; // into: the path names a directory
	int dir;		  // what is unpacked into; -1 before the first byte
	struct unpack *unpack;
	struct strbuf skipped; // JSON strings
	size_t n_skipped;
	char path[PATH_SIZE];
};

static void upload_free(void *p)
{
	struct upload *u = p;
	unpack_free(u->unpack);
	safe_close(u->dir);
	strbuf_done(&u->skipped);
	user_done(&u->user);
	free(u);
}

static void on_note(void *ctx, enum archive_note what, const char *path, const char *why)
{
	struct upload *u = ctx;
	if (u->n_skipped++ >= MAX_SKIPPED)
		return;
	if (u->skipped.len)
		strbuf_addc(&u->skipped, ',');
	entry_add_json_string(&u->skipped, path);
}

// cp's rule: into a directory that is there; else, with rename, the path is the name of the one
// thing in the archive; without, of the directory to make.
static int begin(struct upload *u, struct err *e)
{
	char dir[PATH_SIZE];
	struct stat st;
	const char *root = NULL;
	bool there = stat(u->path, &st) == 0;
	int rc = 0;
	snprintf(dir, sizeof dir, "%s", u->path);
	if (there && S_ISDIR(st.st_mode)) {
		root = NULL;
	} else if (u->rename && !u->into) {
		rc = request_make_parents(u->agent, u->path, &u->user, e);
		path_cut_last(dir);
		root = path_base(u->path);
	} else if (there) {
		return err_set(e, ERR_CONFLICT, "%s: is not a directory", u->path);
	} else {
		rc = request_make_parents(u->agent, u->path, &u->user, e);
		if (rc == 0)
			rc = request_make_dir(u->agent, u->path, &u->user, e);
	}
	if (rc < 0)
		return rc;
	u->dir = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (u->dir < 0)
		return err_errno(e, errno, "%s", dir);
	struct unpack_options o = {.dirfd = u->dir,
		.root = root,
		.flags = UNPACK_FOLLOW_ROOT,
		.give = u->agent->as_root,
		.uid = u->user.uid,
		.gid = u->user.gid,
		.note = on_note,
		.ctx = u};
	if (u->exact)
		o.flags |=
			UNPACK_OWNER | UNPACK_TIMES | UNPACK_SET_ID | UNPACK_XATTRS | UNPACK_ACLS;
	return unpack_new(&o, &u->unpack, e);
}

static int post(struct http_request *req, struct agent *a, struct upload *u, struct err *e)
{
	const char *path = http_req_query(req, "path");
	u->agent = a;
	u->rename = is_set(req, "rename");
	u->exact = is_set(req, "archive");
	if (!path || !*path)
		return err_set(e, ERR_INVALID, "path: must be in the query");
	u->into = names_directory(path);
	int rc = request_query_user(req, a, &u->user, e);
	return rc < 0 ? rc : request_resolve_path(a, path, &u->user, u->path, e);
}

void files_tar_post(struct http_request *req, void *ctx)
{
	struct err e = {0};
	struct upload *u = calloc(1, sizeof *u);
	if (!u) {
		err_errno(&e, ENOMEM, "upload");
		http_reply_error(req, &e);
		return;
	}
	u->dir = -1;
	http_req_set_data(req, u, upload_free);
	if (post(req, ctx, u, &e) < 0)
		http_reply_error(req, &e);
}

static void reply(struct http_request *req, struct upload *u)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	strbuf_adds(&b, "{\"path\":");
	entry_add_json_string(&b, u->path);
	strbuf_addf(&b, ",\"files\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"skipped\":[%s]}",
		u->unpack ? unpack_files(u->unpack) : 0, u->unpack ? unpack_bytes(u->unpack) : 0,
		u->skipped.len ? u->skipped.data : "");
	http_reply_data(req, 200, "application/json", b.data ? b.data : "", b.len);
}

static int take(struct upload *u, const void *data, size_t len, struct err *e)
{
	if (len == 0)
		return u->unpack ? unpack_finish(u->unpack, e) : 0;
	int rc = u->unpack ? 0 : begin(u, e);
	return rc < 0 ? rc : unpack_feed(u->unpack, data, len, e);
}

int files_tar_post_body(struct http_request *req, void *ctx, const void *data, size_t len)
{
	struct upload *u = http_req_data(req);
	struct err e = {0}, told = {0};
	int rc = take(u, data, len, &e);
	if (rc == 0) {
		if (len == 0)
			reply(req, u);
		return 0;
	}
	uint64_t files = u->unpack ? unpack_files(u->unpack) : 0;
	if (files)
		err_set(&told, e.code, "%.700s (%" PRIu64 " files before it were written)", e.text,
			files);
	http_reply_error(req, files ? &told : &e);
	u->unpack = unpack_free(u->unpack);
	return rc;
}
