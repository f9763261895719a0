// SPDX-License-Identifier: Apache-2.0
#include "cli/command/copy_in.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "archive/pack.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/term.h"

// What is sent: bytes of fd, or an archive.
struct source {
	struct copy *copy;
	int fd;
	struct pack *pack;
	struct err why; // of the read that failed
};

static ssize_t on_upload(void *ctx, char *buf, size_t max)
{
	struct source *s = ctx;
	struct copy *x = s->copy;
	ssize_t n;
	if (s->pack) {
		n = pack_next(s->pack, buf, max, &s->why);
		x->progress.done = x->bytes = pack_bytes(s->pack);
		return n;
	}
	while ((n = read(s->fd, buf, max)) < 0 && errno == EINTR && !term_interrupts(NULL))
		;
	if (n < 0)
		return err_errno(&s->why, errno, "read");
	x->bytes += (size_t)n;
	x->progress.done = x->bytes;
	return n;
}

static int tick_of_source(void *ctx)
{
	struct source *s = ctx;
	return copy_tick(s->copy);
}

// Chunked in any case: how long a file is, is known when it was read.
static int upload(struct source *s, const char *url, const char *shown, json_t **ret, struct err *e)
{
	struct copy *x = s->copy;
	int rc = guest_call(&x->guest,
		&(struct http_call){.method = "POST",
			.path = url,
			.content_type = s->pack ? "application/x-tar" : "application/octet-stream",
			.read = on_upload,
			.read_length = -1,
			.tick = tick_of_source,
			.ctx = s},
		ret, e);
	if (rc < 0 && err_is_set(&s->why) && !term_interrupts(NULL)) {
		*e = s->why;
		return -EIO;
	}
	return copy_explain(x, rc, shown, e);
}

// Standard input, a pipe, a device: what comes until it ends becomes one file.
static int upload_stream(struct copy *x, int fd, const char *remote, struct err *e)
{
	struct source s = {.copy = x, .fd = fd};
	if (!*remote || str_ends(remote, "/"))
		return err_set(
			e, ERR_INVALID, "'%s' is a directory: name the file to write", remote);
	_cleanup_free_ char *url = copy_url(x, "/files", remote, "");
	if (!url)
		return err_errno(e, ENOMEM, "%s", remote);
	int rc = upload(&s, url, remote, NULL, e);
	x->files += rc == 0;
	return rc;
}

// An agent that knows no archives refuses one after reading it: asked with nothing first.
static int ask_first(struct copy *x, const char *url, const char *shown, struct err *e)
{
	int rc = guest_call(&x->guest,
		&(struct http_call){.method = "POST", .path = url, .timeout_ms = 30000}, NULL, e);
	return copy_explain(x, rc, shown, e);
}

// Where a file goes on an agent that does not find that out itself. Relative paths start at the
// user's home there, too, but it knows no "~".
static int find_older_path(
	struct copy *x, const char *local, const char *remote, char **ret, struct err *e)
{
	_cleanup_json_ json_t *answer = NULL;
	if (strcmp(remote, "~") == 0)
		remote = "";
	else if (str_starts(remote, "~/"))
		remote += 2 + strspn(remote + 2, "/");
	bool is_dir = !*remote || str_ends(remote, "/") || copy_means_content(remote);
	if (!is_dir) {
		_cleanup_json_ json_t *req = json_pack("{s:s}", "path", remote);
		int rc = envd_unary(x->guest.http, &x->guest.target, "filesystem.Filesystem/Stat",
			req, 30000, &answer, e);
		if (rc < 0 && e->code != ERR_NOT_FOUND)
			return rc;
		*e = (struct err){0};
		is_dir = str_eq(json_string_value(
					json_object_get(json_object_get(answer, "entry"), "type")),
			"FILE_TYPE_DIRECTORY");
	}
	*ret = str_printf("%s%s%s", remote, is_dir && *remote && !str_ends(remote, "/") ? "/" : "",
		is_dir ? copy_base_name(local) : "");
	return *ret ? 0 : err_errno(e, ENOMEM, "%s", remote);
}

// A single file to an agent that knows no archives. Of its attributes only the permissions go.
static int upload_to_older(struct copy *x, const char *local, const char *remote, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	struct envd_exit end = {0};
	struct stat st;
	char mode[8];
	_cleanup_close_ int fd = open(local, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "%s", local);
	int rc = find_older_path(x, local, remote, &path, e);
	if (rc == 0)
		rc = upload_stream(x, fd, path, e);
	if (rc < 0)
		return rc;
	snprintf(mode, sizeof mode, "%o", st.st_mode & 0777);
	rc = envd_run(x->guest.http, &x->guest.target,
		&(struct envd_process){.cmd = "chmod",
			.args = (const char *const[]){mode, "--", path, NULL},
			.timeout_ms = 30000},
		&end, e);
	if (rc < 0 || end.exit_code != 0)
		return err_set(e, ERR_BAD_GATEWAY,
			"%s was copied, but has not its permissions (%s)", remote, mode);
	progress_clear(&x->progress);
	if (x->exact)
		output_complain("%s: the sandbox's agent is older: without owner, times and "
				"attributes",
			local);
	return 0;
}

static bool is_single_file(const struct copy *x, const char *path)
{
	struct stat st;
	int rc = x->follow ? stat(path, &st) : lstat(path, &st);
	return rc == 0 && S_ISREG(st.st_mode);
}

static int upload_tree(struct copy *x, const char *local, const char *remote, struct err *e)
{
	_cleanup_json_ json_t *answer = NULL;
	bool content = copy_means_content(local);
	_cleanup_free_ char *bare = copy_without_slashes(local);
	_cleanup_free_ char *url =
		copy_url(x, "/files/tar", *remote ? remote : "~", content ? "" : "&rename=1");
	if (!bare || !url)
		return err_errno(e, ENOMEM, "%s", local);
	unsigned flags = (x->follow ? PACK_FOLLOW : 0) | (x->exact ? PACK_EXACT : 0);
	if (content || str_ends(local, "/"))
		flags |= PACK_FOLLOW_ROOT;
	_cleanup_(pack_freep) struct pack *pack = NULL;
	int rc = pack_new(AT_FDCWD, content ? local : bare, content ? "." : copy_base_name(bare),
		flags, copy_note, x, &pack, e);
	if (rc == 0 && content && !pack_is_dir(pack))
		rc = err_set(e, ERR_INVALID, "%s is not a directory", local);
	if (rc == 0)
		rc = ask_first(x, url, remote, e);
	if (rc < 0 && x->agent_is_older && is_single_file(x, bare))
		return upload_to_older(x, bare, remote, e);
	if (rc < 0)
		return rc;
	struct source s = {.copy = x, .fd = -1, .pack = pack};
	rc = upload(&s, url, remote, &answer, e);
	if (rc < 0)
		return rc;
	x->files = (uint64_t)json_integer_value(json_object_get(answer, "files"));
	x->bytes = (uint64_t)json_integer_value(json_object_get(answer, "bytes"));
	return copy_check_failed(x, e);
}

int copy_in(struct copy *x, const char *local, const char *remote, struct err *e)
{
	struct stat st;
	if (strcmp(local, "-") == 0)
		return upload_stream(x, STDIN_FILENO, remote, e);
	bool is_open = copy_is_open_file(local); // perhaps a file
	if (stat(local, &st) < 0 && lstat(local, &st) < 0)
		return err_errno(e, errno, "%s", local);
	if (!is_open && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) || S_ISLNK(st.st_mode))) {
		x->progress.total = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
		return upload_tree(x, local, remote, e);
	}
	// Waits for who writes to a pipe; Ctrl-C ends that.
	_cleanup_close_ int fd = open(local, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return term_interrupts(NULL) ? err_set(e, ERR_CANCELED, "interrupted")
					     : err_errno(e, errno, "%s", local);
	return upload_stream(x, fd, remote, e);
}
