// SPDX-License-Identifier: Apache-2.0
#include "cli/command/copy_out.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/id.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/term.h"

#define MAX_DEPTH 64

static int on_download(void *ctx, const char *data, size_t len)
{
	struct copy *x = ctx;
	x->io_error = file_write_full(x->fd, data, len);
	x->bytes += len;
	x->progress.done += len;
	return x->io_error;
}

static int download(struct copy *x, const char *remote, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	if (copy_files_path(x, remote, &path) < 0)
		return err_errno(e, ENOMEM, "%s", remote);
	x->io_error = 0;
	int rc = guest_call(&x->guest,
		&(struct http_call){.method = "GET",
			.path = path,
			.write = on_download,
			.tick = copy_tick,
			.ctx = x},
		NULL, e);
	if (x->io_error < 0)
		return err_errno(e, x->io_error, "write");
	x->files += rc == 0;
	return rc < 0 && term_interrupts(NULL) ? copy_interrupted(e) : rc;
}

// Into a file of a temporary name first: what has its name is whole.
static int download_file(
	struct copy *x, const char *remote, int dirfd, const char *name, mode_t mode, struct err *e)
{
	unsigned char r[6];
	char suffix[13], tmp[300];
	id_random_bytes(r, sizeof r);
	id_hex(r, sizeof r, suffix);
	if (str_format(tmp, sizeof tmp, ".%.200s.%s.part", name, suffix) < 0)
		return err_errno(e, ENAMETOOLONG, "%s", name);
	_cleanup_close_ int fd =
		openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(e, errno, "%s", name);
	x->fd = fd;
	int rc = download(x, remote, e);
	mode_t mask = umask(0);
	umask(mask);
	if (rc == 0 && (fchmod(fd, mode & ~mask) < 0 || renameat(dirfd, tmp, dirfd, name) < 0))
		rc = err_errno(e, errno, "%s", name);
	if (rc < 0)
		unlinkat(dirfd, tmp, 0);
	return rc;
}

static bool name_is_safe(const char *name)
{
	return name && *name && strlen(name) <= NAME_MAX && !strchr(name, '/') &&
	       strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int download_tree(struct copy *x, const char *remote, int parent, const char *name,
	mode_t mode, unsigned depth, struct err *e)
{
	_cleanup_json_ json_t *list = NULL;
	if (depth > MAX_DEPTH)
		return err_set(
			e, ERR_INVALID, "%s: more than %d directories deep", remote, MAX_DEPTH);
	if (mkdirat(parent, name, 0700) < 0 && errno != EEXIST)
		return err_errno(e, errno, "%s", name);
	_cleanup_close_ int dir =
		openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return err_errno(e, errno, "%s", name);
	int rc = copy_fs_call(x, "ListDir", remote, &list, e);
	const json_t *entry;
	size_t i;
	json_array_foreach (json_object_get(list, "entries"), i, entry) {
		const char *child = json_string_value(json_object_get(entry, "name"));
		bool link = json_is_string(json_object_get(entry, "symlinkTarget"));
		if (!name_is_safe(child))
			return err_set(
				e, ERR_BAD_GATEWAY, "%s: the guest gave a bad file name", remote);
		_cleanup_free_ char *path = str_printf("%s/%s", remote, child);
		if (!path)
			return err_errno(e, ENOMEM, "%s", child);
		if ((rc = copy_interrupted(e)) < 0)
			return rc;
		if (copy_is_type(entry, "FILE_TYPE_DIRECTORY") && !link)
			rc = download_tree(
				x, path, dir, child, copy_mode_of(entry, 0755), depth + 1, e);
		else if (copy_is_type(entry, "FILE_TYPE_FILE"))
			rc = download_file(x, path, dir, child, copy_mode_of(entry, 0644), e);
		else
			copy_warn(x, path,
				link ? "a link that leads to no file"
				     : "neither a file nor a directory");
		if (rc < 0)
			return rc;
	}
	if (rc == 0 && fchmod(dir, mode) < 0)
		rc = err_errno(e, errno, "%s", name);
	return rc;
}

int copy_out(struct copy *x, const char *remote, const char *local, struct err *e)
{
	_cleanup_json_ json_t *answer = NULL;
	_cleanup_free_ char *from = copy_without_slashes(*remote ? remote : "~");
	if (!from)
		return err_errno(e, ENOMEM, "%s", remote);
	int rc = copy_fs_call(x, "Stat", from, &answer, e);
	if (rc < 0)
		return rc;
	const json_t *entry = json_object_get(answer, "entry");
	bool is_dir = copy_is_type(entry, "FILE_TYPE_DIRECTORY");
	const char *name = json_string_value(json_object_get(entry, "name"));
	// Numbers above 2^53 come as strings in this protocol.
	const json_t *size = json_object_get(entry, "size");
	uint64_t total = (uint64_t)json_integer_value(size);
	if (json_is_string(size))
		str_to_u64(json_string_value(size), UINT64_MAX, &total);
	x->progress.total = is_dir ? 0 : total;
	if (strcmp(local, "-") == 0) {
		if (is_dir)
			return err_set(
				e, ERR_INVALID, "%s is a directory: it can't go to '-'", remote);
		x->fd = STDOUT_FILENO;
		return download(x, from, e);
	}
	struct stat st;
	bool into = stat(local, &st) == 0 && S_ISDIR(st.st_mode);
	if (into && !name_is_safe(name))
		return err_set(e, ERR_BAD_GATEWAY, "%s: the guest gave a bad file name", remote);
	if (!into && str_ends(local, "/") && !is_dir)
		return err_set(e, ERR_INVALID, "%s is not a directory here", local);
	_cleanup_free_ char *to =
		into ? str_printf("%s/%s", local, name) : copy_without_slashes(local);
	_cleanup_free_ char *parent = to ? strdup(to) : NULL;
	if (!parent)
		return err_errno(e, ENOMEM, "%s", local);
	char *slash = strrchr(parent, '/');
	const char *target = copy_base_name(to);
	if (slash)
		slash[slash == parent] = '\0';
	_cleanup_close_ int dir = open(slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_errno(e, errno, "%s", slash ? parent : ".");
	if (is_dir)
		return download_tree(x, from, dir, target, copy_mode_of(entry, 0755), 0, e);
	return download_file(x, from, dir, target, copy_mode_of(entry, 0644), e);
}
