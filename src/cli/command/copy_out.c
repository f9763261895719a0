// SPDX-License-Identifier: Apache-2.0
#include "cli/command/copy_out.h"
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include "archive/unpack.h"
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/term.h"

// Where what comes goes.
struct sink {
	struct copy *copy;
	const char *parent; // directory of root
	bool make_parent;
	unsigned flags;
	const char *root; // of unpack_options
	int dir;	  // parent, once something came
	struct unpack *unpack;
	struct err why; // of the write that failed
};

static int on_raw(void *ctx, const char *data, size_t len)
{
	struct sink *s = ctx;
	int rc = file_write_full(STDOUT_FILENO, data, len);
	s->copy->bytes += len;
	s->copy->progress.done += len;
	return rc < 0 ? err_errno(&s->why, rc, "write") : 0;
}

// Not before something comes: a copy that is refused makes nothing.
static int open_sink(struct sink *s)
{
	if (s->make_parent && mkdir(s->parent, 0755) < 0 && errno != EEXIST)
		return err_errno(&s->why, errno, "%s", s->parent);
	s->dir = open(s->parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->dir < 0)
		return err_errno(&s->why, errno, "%s", s->parent);
	return unpack_new(&(struct unpack_options){.dirfd = s->dir,
				  .root = s->root,
				  .flags = s->flags,
				  .note = copy_note,
				  .ctx = s->copy},
		&s->unpack, &s->why);
}

static int on_archive(void *ctx, const char *data, size_t len)
{
	struct sink *s = ctx;
	struct copy *x = s->copy;
	int rc = s->unpack ? 0 : open_sink(s);
	if (rc == 0)
		rc = unpack_feed(s->unpack, data, len, &s->why);
	if (s->unpack) {
		x->files = unpack_files(s->unpack);
		x->progress.done = x->bytes = unpack_bytes(s->unpack);
	}
	return rc;
}

static int tick_of_sink(void *ctx)
{
	struct sink *s = ctx;
	return copy_tick(s->copy);
}

static int download(struct sink *s, const char *url, const char *shown,
	int (*write)(void *, const char *, size_t), struct err *e)
{
	struct copy *x = s->copy;
	int rc = guest_call(&x->guest,
		&(struct http_call){.method = "GET",
			.path = url,
			.write = write,
			.tick = tick_of_sink,
			.ctx = s},
		NULL, e);
	if (rc < 0 && err_is_set(&s->why) && !term_interrupts(NULL)) {
		if (x->files)
			err_set(e, s->why.code, "%.800s (%" PRIu64 " files before it were copied)",
				s->why.text, x->files);
		else
			*e = s->why;
		return rc;
	}
	const char *at = s->unpack && *unpack_path(s->unpack) ? unpack_path(s->unpack) : shown;
	return copy_explain(x, rc, at, e);
}

static int to_stdout(struct copy *x, const char *remote, struct err *e)
{
	struct sink s = {.copy = x, .dir = -1};
	_cleanup_free_ char *url = copy_url(x, "/files", remote, "");
	if (!url)
		return err_errno(e, ENOMEM, "%s", remote);
	int rc = download(&s, url, remote, on_raw, e);
	x->files += rc == 0;
	return rc;
}

static int to_files(struct sink *s, const char *remote, struct err *e)
{
	_cleanup_free_ char *url = copy_url(s->copy, "/files/tar", remote, "");
	if (!url)
		return err_errno(e, ENOMEM, "%s", remote);
	int rc = download(s, url, remote, on_archive, e);
	if (rc == 0)
		rc = s->unpack ? unpack_finish(s->unpack, e)
			       : err_set(e, ERR_BAD_GATEWAY, "%s ended early", remote);
	if (s->unpack)
		s->copy->files = unpack_files(s->unpack);
	unpack_free(s->unpack);
	safe_close(s->dir);
	return rc < 0 ? rc : copy_check_failed(s->copy, e);
}

static bool name_is_safe(const char *name)
{
	return name && *name && strlen(name) <= NAME_MAX && !strchr(name, '/') &&
	       strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

// What the copy of remote is called here. The guest is asked only where the caller has not named
// it: it must not choose a name that he does not expect.
static int find_name(struct copy *x, const char *remote, char **ret, struct err *e)
{
	_cleanup_free_ char *bare = copy_without_slashes(remote);
	_cleanup_json_ json_t *answer = NULL;
	if (!bare)
		return err_errno(e, ENOMEM, "%s", remote);
	const char *name = copy_base_name(bare);
	if (strcmp(bare, "~") == 0 || !name_is_safe(name)) {
		_cleanup_json_ json_t *req = json_pack("{s:s}", "path", remote);
		int rc = envd_unary(x->guest.http, &x->guest.target, "filesystem.Filesystem/Stat",
			req, 30000, &answer, e);
		if (rc < 0)
			return rc;
		name = json_string_value(json_object_get(json_object_get(answer, "entry"), "name"));
		if (!name_is_safe(name))
			return err_set(e, ERR_INVALID,
				"%s has no name that a copy could have: name one, or copy '%s/.'",
				remote, remote);
	}
	*ret = strdup(name);
	return *ret ? 0 : err_errno(e, ENOMEM, "%s", remote);
}

int copy_out(struct copy *x, const char *asked, const char *local, struct err *e)
{
	const char *remote = *asked ? asked : "~";
	_cleanup_free_ char *name = NULL, *to = copy_without_slashes(local);
	struct stat st;
	if (strcmp(local, "-") == 0)
		return to_stdout(x, remote, e);
	if (!to)
		return err_errno(e, ENOMEM, "%s", local);
	struct sink s = {.copy = x, .dir = -1, .parent = to};
	s.flags = UNPACK_FOLLOW_ROOT | UNPACK_SPECIAL_ROOT;
	// Set-id bits never: a program of the guest would have the rights of its owner here.
	if (x->exact)
		s.flags |= UNPACK_TIMES | UNPACK_XATTRS | (geteuid() == 0 ? UNPACK_OWNER : 0);
	bool there = stat(local, &st) == 0;
	if (copy_means_content(remote)) {
		s.root = "";
		s.make_parent = !there;
		s.flags |= UNPACK_ROOT_IS_DIR;
		return to_files(&s, remote, e);
	}
	if (there && S_ISDIR(st.st_mode)) {
		int rc = find_name(x, remote, &name, e);
		s.root = name;
		return rc < 0 ? rc : to_files(&s, remote, e);
	}
	if (str_ends(local, "/"))
		s.flags |= UNPACK_ROOT_IS_DIR;
	name = strdup(copy_base_name(to));
	if (!name)
		return err_errno(e, ENOMEM, "%s", local);
	s.root = name;
	char *slash = strrchr(to, '/');
	if (slash)
		slash[slash == to] = '\0';
	else
		s.parent = ".";
	return to_files(&s, remote, e);
}
