// SPDX-License-Identifier: Apache-2.0
#include "cli/command/copy_in.h"
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/term.h"

#define MAX_DEPTH 64
#define CHMOD_BATCH 100

static ssize_t on_upload(void *ctx, char *buf, size_t max)
{
	struct copy *x = ctx;
	for (;;) {
		ssize_t n = read(x->fd, buf, max);
		if (n >= 0) {
			x->bytes += (size_t)n;
			x->progress.done += (size_t)n;
			return n;
		}
		if (errno == EINTR && !term_interrupts(NULL))
			continue;
		return x->io_error = -errno;
	}
}

static int upload(struct copy *x, int fd, const char *remote, struct err *e)
{
	struct stat st;
	_cleanup_free_ char *path = NULL;
	if (copy_files_path(x, remote, &path) < 0)
		return err_errno(e, ENOMEM, "%s", remote);
	if (fstat(fd, &st) < 0)
		return err_errno(e, errno, "standard input");
	x->fd = fd;
	x->io_error = 0;
	int rc = guest_call(&x->guest,
		&(struct http_call){.method = "POST",
			.path = path,
			.content_type = "application/octet-stream",
			.read = on_upload,
			.read_length = S_ISREG(st.st_mode) && fd != STDIN_FILENO ? st.st_size : -1,
			.tick = copy_tick,
			.ctx = x},
		NULL, e);
	if (rc < 0) {
		// On its own clock and connection state: also after Ctrl-C. A refusal (a directory
		// in the way, no right to it) has written nothing that could be removed.
		if (x->io_error < 0 || term_interrupts(NULL) || (e && e->code == ERR_NO_SPACE))
			copy_fs_call(x, "Remove", remote, NULL, NULL);
		if (term_interrupts(NULL))
			return copy_interrupted(e);
		if (x->io_error < 0)
			return err_errno(e, x->io_error, "read");
		return rc;
	}
	x->files++;
	return 0;
}

static void keep_mode(struct copy *x, const char *path, mode_t mode, mode_t usual)
{
	char octal[8];
	mode &= 0777;
	if (mode == usual)
		return;
	snprintf(octal, sizeof octal, "%o", mode);
	if (!json_object_get(x->modes, octal))
		json_object_set_new(x->modes, octal, json_array());
	json_array_append_new(json_object_get(x->modes, octal), json_string(path));
}

// The protocol has no chmod: the program does it, a hundred files at a time.
static int set_modes(struct copy *x, struct err *e)
{
	const char *octal;
	json_t *paths;
	json_object_foreach (x->modes, octal, paths) {
		for (size_t i = 0; i < json_array_size(paths); i += CHMOD_BATCH) {
			const char *args[CHMOD_BATCH + 3] = {octal, "--"};
			size_t n = 2;
			for (size_t k = i; k < json_array_size(paths) && k < i + CHMOD_BATCH; k++)
				args[n++] = json_string_value(json_array_get(paths, k));
			struct envd_exit end = {0};
			int rc = envd_run(x->guest.http, &x->guest.target,
				&(struct envd_process){
					.cmd = "chmod", .args = args, .timeout_ms = 30000},
				&end, e);
			if (rc < 0)
				return err_prefix(e, rc, "set file modes");
			if (end.exit_code != 0)
				return err_set(
					e, ERR_BAD_GATEWAY, "set file modes: %s", end.status);
		}
	}
	return 0;
}

static int upload_tree(struct copy *x, int parent, const char *name, const char *shown,
	const char *remote, unsigned depth, struct err *e)
{
	if (depth > MAX_DEPTH)
		return err_set(
			e, ERR_INVALID, "%s: more than %d directories deep", shown, MAX_DEPTH);
	_cleanup_close_ int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "%s", shown);
	struct err made = {0};
	int rc = copy_fs_call(x, "MakeDir", remote, NULL, &made);
	if (rc < 0 && made.code != ERR_CONFLICT) {
		*e = made;
		return rc;
	}
	_cleanup_closedir_ DIR *d = fdopendir(fd);
	if (!d)
		return err_errno(e, errno, "%s", shown);
	int dir = TAKE_FD(fd); // now d's
	for (struct dirent *de; (de = readdir(d));) {
		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		struct stat link, child;
		_cleanup_free_ char *path = str_printf("%s/%s", shown, de->d_name);
		_cleanup_free_ char *to = str_printf("%s/%s", remote, de->d_name);
		if (!path || !to)
			return err_errno(e, ENOMEM, "%s", de->d_name);
		if ((rc = copy_interrupted(e)) < 0)
			return rc;
		if (fstatat(dir, de->d_name, &link, AT_SYMLINK_NOFOLLOW) < 0)
			return err_errno(e, errno, "%s", path);
		bool dangling = fstatat(dir, de->d_name, &child, 0) < 0;
		if (S_ISDIR(link.st_mode)) {
			rc = upload_tree(x, dir, de->d_name, path, to, depth + 1, e);
		} else if (!dangling && S_ISREG(child.st_mode)) {
			_cleanup_close_ int file = openat(dir, de->d_name, O_RDONLY | O_CLOEXEC);
			if (file < 0)
				return err_errno(e, errno, "%s", path);
			rc = upload(x, file, to, e);
			if (rc < 0)
				return err_prefix(e, rc, "%s", path);
			keep_mode(x, to, child.st_mode, 0644);
		} else {
			copy_warn(x, path,
				S_ISLNK(link.st_mode) ? "a link that leads to no file"
						      : "neither a file nor a directory");
		}
		if (rc < 0)
			return rc;
	}
	keep_mode(x, remote, st.st_mode, 0755);
	return 0;
}

int copy_in(struct copy *x, const char *local, const char *remote, struct err *e)
{
	_cleanup_json_ json_t *answer = NULL;
	struct err missing = {0};
	bool from_stdin = strcmp(local, "-") == 0;
	_cleanup_free_ char *from = copy_without_slashes(local);
	_cleanup_free_ char *to = copy_without_slashes(*remote ? remote : "~");
	if (!from || !to)
		return err_errno(e, ENOMEM, "%s", local);
	_cleanup_close_ int fd = from_stdin ? -1 : open(from, O_RDONLY | O_CLOEXEC);
	struct stat st = {0};
	if (!from_stdin && (fd < 0 || fstat(fd, &st) < 0))
		return err_errno(e, errno, "%s", local);
	bool is_dir = S_ISDIR(st.st_mode);
	if (!from_stdin && !is_dir && !S_ISREG(st.st_mode))
		return err_set(e, ERR_INVALID, "%s is neither a file nor a directory", local);
	int rc = copy_fs_call(x, "Stat", to, &answer, &missing);
	if (rc < 0 && missing.code != ERR_NOT_FOUND) {
		*e = missing;
		return rc;
	}
	bool into = rc < 0 ? str_ends(remote, "/")
			   : copy_is_type(json_object_get(answer, "entry"), "FILE_TYPE_DIRECTORY");
	if (into && from_stdin)
		return err_set(
			e, ERR_INVALID, "'%s' is a directory: name the file to write", remote);
	const char *name = copy_base_name(from);
	if (into && strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
		char *joined = str_printf("%s/%s", to, name);
		free(to);
		to = joined;
		if (!to)
			return err_errno(e, ENOMEM, "%s", local);
	}
	if (is_dir) {
		rc = upload_tree(x, AT_FDCWD, from, from, to, 0, e);
	} else {
		x->progress.total = (uint64_t)st.st_size;
		rc = upload(x, from_stdin ? STDIN_FILENO : fd, to, e);
		if (!from_stdin)
			keep_mode(x, to, st.st_mode, 0644);
	}
	return rc < 0 ? rc : set_modes(x, e);
}
