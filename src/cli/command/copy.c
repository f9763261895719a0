// SPDX-License-Identifier: Apache-2.0
#include "cli/command/copy.h"
#include <inttypes.h>
#include <string.h>
#include <unistd.h>
#include "base/str.h"
#include "cli/base/term.h"

int copy_tick(void *ctx)
{
	struct copy *x = ctx;
	progress_tick(&x->progress);
	return term_interrupts(NULL) ? -1 : 0;
}

void copy_note(void *ctx, enum archive_note what, const char *path, const char *why)
{
	struct copy *x = ctx;
	bool on = x->progress.on;
	progress_clear(&x->progress);
	x->progress.on = on;
	output_complain(
		"%s: %s: %s", path, what == ARCHIVE_SKIPPED ? "skipped" : "not copied", why);
	x->failed += what == ARCHIVE_FAILED;
}

int copy_check_failed(const struct copy *x, struct err *e)
{
	return x->failed ? err_set(e, ERR_INTERNAL,
				   "%u of the files could not be read; all others were copied",
				   x->failed)
			 : 0;
}

int copy_write(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (term_interrupts(NULL))
			return -EINTR;
		n = MAX(n, 0);
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

char *copy_url(const struct copy *x, const char *route, const char *path, const char *further)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	strbuf_addf(&b, "%s?path=", route);
	str_percent_encode(&b, path);
	if (x->user) {
		strbuf_adds(&b, "&username=");
		str_percent_encode(&b, x->user);
	}
	strbuf_adds(&b, further);
	if (x->exact)
		strbuf_adds(&b, "&archive=1");
	if (x->follow)
		strbuf_adds(&b, "&follow=1");
	return strbuf_steal(&b);
}

static int add_rest(const struct copy *x, int rc, struct err *e)
{
	struct err was = *e;
	if (x->files == 0)
		return rc;
	return err_set(e, was.code, "%.800s (%" PRIu64 " %s before it %s copied)", was.text,
		x->files, x->files == 1 ? "file" : "files", x->files == 1 ? "was" : "were");
}

int copy_explain(struct copy *x, int rc, const char *path, struct err *e)
{
	if (rc >= 0 || !e)
		return rc;
	if (term_interrupts(NULL)) {
		err_set(e, ERR_CANCELED, "interrupted");
		return add_rest(x, rc, e);
	}
	if (e->code == ERR_NOT_FOUND && strstr(e->text, "no such call: ")) {
		x->agent_is_older = true;
		return err_set(e, ERR_UNIMPLEMENTED,
			"the agent in %s is older than this command and takes and gives single "
			"files alone: directories go by 'stasis exec -i ID -- tar ...'; sandboxes "
			"have the present agent when they are created after 'stasis image build "
			"base'",
			x->guest.id);
	}
	if (e->errnum == ECONNRESET) {
		err_set(e, ERR_BAD_GATEWAY, "%s ended early: %s", path,
			"the file or the sandbox went away while it was read");
		return add_rest(x, rc, e);
	}
	return rc;
}

bool copy_is_open_file(const char *path)
{
	static const char *const names[] = {"/dev/stdin", "/dev/stdout", "/dev/stderr"};
	static const char *const dirs[] = {"/dev/fd/", "/proc/self/fd/"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(path, names[i]) == 0)
			return true;
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		const char *n = path + strlen(dirs[i]);
		if (str_starts(path, dirs[i]) && *n && !n[strspn(n, "0123456789")])
			return true;
	}
	return false;
}

const char *copy_base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

char *copy_without_slashes(const char *path)
{
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/')
		n--;
	return strndup(path, n);
}

bool copy_means_content(const char *path)
{
	return strcmp(path, ".") == 0 || strcmp(path, "..") == 0 || str_ends(path, "/.") ||
	       str_ends(path, "/..") || strcmp(path, "/") == 0;
}
