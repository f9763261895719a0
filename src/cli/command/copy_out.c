// SPDX-License-Identifier: Apache-2.0
#include "cli/command/copy_out.h"
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include "archive/unpack.h"
#include "base/file.h"
#include "base/replace.h"
#include "base/str.h"
#include "cli/base/term.h"

// Where what comes goes.
struct sink {
	struct copy *copy;
	const char *parent; // directory of root
	bool make_parent;
	bool into; // parent is what the caller named: no link is followed to it
	unsigned flags;
	const char *root; // of unpack_options
	int dir;	  // parent, once something came
	struct unpack *unpack;
	struct replace file; // instead, from an agent that knows no archives
	struct err why;	     // of the write that failed
};

static int on_raw(void *ctx, const char *data, size_t len)
{
	struct sink *s = ctx;
	int rc = copy_write(s->file.fd >= 0 ? s->file.fd : STDOUT_FILENO, data, len);
	s->copy->bytes += len;
	s->copy->progress.done += len;
	return rc < 0 ? err_errno(&s->why, rc, "write") : 0;
}

static int open_parent(struct sink *s, struct err *e)
{
	s->dir = open(s->parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (s->into ? O_NOFOLLOW : 0));
	return s->dir < 0 ? err_errno(e, errno, "%s", s->parent) : 0;
}

// Not before something comes: a copy that is refused makes nothing.
static int open_sink(struct sink *s)
{
	bool made = s->make_parent && mkdir(s->parent, 0755) == 0;
	if (s->make_parent && !made && errno != EEXIST)
		return err_errno(&s->why, errno, "%s", s->parent);
	// The guest does not say who may write a directory that it has not made.
	if (!made)
		s->flags |= UNPACK_KEEP_DIRS;
	int rc = open_parent(s, &s->why);
	if (rc < 0)
		return rc;
	return unpack_new(&(struct unpack_options){.dirfd = s->dir,
				  .root = s->root,
				  .flags = s->flags,
				  .note = copy_note,
				  .tick = copy_tick,
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
	struct sink s = {.copy = x, .dir = -1, .file = REPLACE_INIT};
	_cleanup_free_ char *url = copy_url(x, "/files", remote, "");
	if (!url)
		return err_errno(e, ENOMEM, "%s", remote);
	int rc = download(&s, url, remote, on_raw, e);
	x->files += rc == 0;
	return rc;
}

// A single file from an agent that knows no archives, with permissions of what is there or of a new
// file. *e is kept where the agent says that it is none.
static int file_from_older(struct sink *s, const char *remote, struct err *e)
{
	struct err why = {0};
	unsigned flags = REPLACE_SYNC;
	flags |= s->flags & UNPACK_FOLLOW_ROOT ? REPLACE_FOLLOW : 0;
	flags |= s->flags & UNPACK_SPECIAL_ROOT ? REPLACE_SPECIAL : 0;
	// It knows no "~".
	const char *path = str_starts(remote, "~/") ? remote + 2 + strspn(remote + 2, "/") : remote;
	_cleanup_free_ char *url = copy_url(s->copy, "/files", path, "");
	if (!url)
		return err_errno(e, ENOMEM, "%s", remote);
	int rc = open_parent(s, e);
	if (rc < 0)
		return rc;
	rc = replace_begin(&s->file, s->dir, s->root, flags, 0644);
	if (rc < 0)
		return err_errno(e, rc, "cannot write %s", s->root);
	replace_take_old(&s->file);
	rc = download(s, url, remote, on_raw, &why);
	if (rc == 0 && (rc = replace_commit(&s->file)) < 0)
		err_errno(&why, rc, "cannot write %s", s->root);
	replace_abort(&s->file);
	if (rc < 0 && !(why.code == ERR_INVALID && strstr(why.text, "is a directory")))
		*e = why;
	if (rc == 0) {
		s->copy->files++;
		*e = (struct err){0};
		progress_clear(&s->copy->progress);
		output_complain(
			"%s: the sandbox's agent is older: without permissions and times", s->root);
	}
	return rc;
}

static int to_files(struct sink *s, const char *remote, struct err *e)
{
	_cleanup_free_ char *url = copy_url(s->copy, "/files/tar", remote, "");
	if (!url)
		return err_errno(e, ENOMEM, "%s", remote);
	int rc = download(s, url, remote, on_archive, e);
	bool may_be_file = !(s->flags & UNPACK_ROOT_IS_DIR) && strcmp(remote, "~") != 0;
	if (rc < 0 && s->copy->agent_is_older && may_be_file) {
		rc = file_from_older(s, remote, e);
		safe_close(s->dir);
		return rc;
	}
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

// What the copy of remote is called here: by the words of the caller alone. The guest could choose
// a name that has a meaning here (.ssh, .bashrc).
static int find_name(const char *remote, char **ret, struct err *e)
{
	_cleanup_free_ char *bare = copy_without_slashes(remote);
	if (!bare)
		return err_errno(e, ENOMEM, "%s", remote);
	const char *name = copy_base_name(bare);
	if (strcmp(bare, "~") == 0 || !name_is_safe(name))
		return err_set(e, ERR_INVALID,
			"'%s' says no name for its copy: name one (DIR/NAME), or copy '%s%s.'",
			remote, remote, str_ends(remote, "/") ? "" : "/");
	*ret = strdup(name);
	return *ret ? 0 : err_errno(e, ENOMEM, "%s", remote);
}

// Without the slashes and "/." at its end: they follow a link.
static char *bare_destination(const char *local)
{
	_cleanup_free_ char *to = copy_without_slashes(local);
	while (to && str_ends(to, "/.") && to[2]) {
		to[strlen(to) - 2] = '\0';
		char *shorter = copy_without_slashes(to);
		free(to);
		to = shorter;
	}
	return TAKE_PTR(to);
}

// A link may be one that an earlier copy brought out of the guest. It is followed to no directory;
// a file takes its place. Only what is open already is reached by a link, and a device or pipe that
// the caller named is written to.
static int look_at_destination(struct sink *s, const char *to, struct stat *ret, struct err *e)
{
	struct stat own;
	if (stat(to, ret) < 0)
		ret->st_mode = 0;
	if (lstat(to, &own) < 0)
		return 0;
	mode_t type = ret->st_mode & S_IFMT;
	bool special = type && type != S_IFREG && type != S_IFDIR;
	if (copy_is_open_file(to))
		s->flags |= UNPACK_FOLLOW_ROOT | (special ? UNPACK_SPECIAL_ROOT : 0);
	else if (!S_ISLNK(own.st_mode))
		s->flags |= special ? UNPACK_SPECIAL_ROOT : 0;
	else if (type == S_IFDIR)
		return err_set(e, ERR_CONFLICT,
			"%s is a symbolic link, which cp does not follow: name the directory that "
			"it leads to",
			to);
	return 0;
}

static void split_destination(struct sink *s, char *to)
{
	char *slash = strrchr(to, '/');
	if (slash)
		slash[slash == to] = '\0';
	else
		s->parent = ".";
}

int copy_out(struct copy *x, const char *asked, const char *local, struct err *e)
{
	const char *remote = *asked ? asked : "~";
	_cleanup_free_ char *name = NULL, *to = bare_destination(local);
	struct stat st;
	if (strcmp(local, "-") == 0)
		return to_stdout(x, remote, e);
	if (!to)
		return err_errno(e, ENOMEM, "%s", local);
	struct sink s = {.copy = x, .dir = -1, .parent = to, .file = REPLACE_INIT};
	// Set-id bits never: a program of the guest would have the rights of its owner here.
	if (x->exact)
		s.flags |= UNPACK_TIMES | UNPACK_XATTRS | (geteuid() == 0 ? UNPACK_OWNER : 0);
	int rc = look_at_destination(&s, to, &st, e);
	if (rc < 0)
		return rc;
	if (copy_means_content(remote)) {
		s.root = "";
		s.into = true;
		s.make_parent = !st.st_mode;
		s.flags |= UNPACK_ROOT_IS_DIR;
		return to_files(&s, remote, e);
	}
	if (S_ISDIR(st.st_mode)) {
		s.into = true;
		rc = find_name(remote, &name, e);
		s.root = name;
		return rc < 0 ? rc : to_files(&s, remote, e);
	}
	if (strlen(to) < strlen(local))
		s.flags |= UNPACK_ROOT_IS_DIR;
	name = strdup(copy_base_name(to));
	if (!name)
		return err_errno(e, ENOMEM, "%s", local);
	s.root = name;
	split_destination(&s, to);
	return to_files(&s, remote, e);
}
