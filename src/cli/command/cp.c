// SPDX-License-Identifier: Apache-2.0
// cp. Files go through the agent's /files, directories by ListDir and MakeDir, file by file: no
// archive is unpacked on either side, so a hostile guest has no format to lie in. What it can
// choose are names, and these are opened one at a time below an open directory, never following
// links.
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/id.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/base/api.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/base/term.h"
#include "cli/command/all.h"

#define MAX_DEPTH 64
#define CHMOD_BATCH 100

struct copy {
	struct guest guest;
	const char *user;
	struct progress progress;
	int fd;	      // of the file under way
	int io_error; // of reading or writing it
	uint64_t files, bytes;
	json_t *modes; // uploaded: {"755": [path...]}, set at the end
};

struct place {
	char *id; // NULL: on this machine
	const char *path;
};

static int tick(void *ctx)
{
	struct copy *x = ctx;
	progress_tick(&x->progress);
	return term_interrupts(NULL) ? -1 : 0;
}

static int interrupted(struct err *e)
{
	return term_interrupts(NULL) ? err_set(e, ERR_CANCELED, "interrupted") : 0;
}

static void warn(struct copy *x, const char *path, const char *why)
{
	bool on = x->progress.on;
	progress_clear(&x->progress);
	x->progress.on = on;
	output_complain("%s: skipped: %s", path, why);
}

static int files_path(const struct copy *x, const char *path, char **ret)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	strbuf_adds(&b, "/files?path=");
	str_percent_encode(&b, path);
	if (x->user) {
		strbuf_adds(&b, "&username=");
		str_percent_encode(&b, x->user);
	}
	*ret = strbuf_steal(&b);
	return *ret ? 0 : -ENOMEM;
}

// {"path": path} to a method of the file system service.
static int fs_call(
	struct copy *x, const char *method, const char *path, json_t **ret, struct err *e)
{
	_cleanup_json_ json_t *req = json_pack("{s:s}", "path", path);
	if (!req)
		return err_set(e, ERR_INVALID, "%s: the name is not UTF-8", path);
	char full[64];
	snprintf(full, sizeof full, "filesystem.Filesystem/%s", method);
	return envd_unary(x->guest.http, &x->guest.target, full, req, 30000, ret, e);
}

static bool is_type(const json_t *entry, const char *type)
{
	return str_eq(json_string_value(json_object_get(entry, "type")), type);
}

static mode_t mode_of(const json_t *entry, mode_t otherwise)
{
	const json_t *m = json_object_get(entry, "mode");
	return m ? (mode_t)json_integer_value(m) & 0777 : otherwise;
}

// --- out of the sandbox

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
	if (files_path(x, remote, &path) < 0)
		return err_errno(e, ENOMEM, "%s", remote);
	x->io_error = 0;
	int rc = guest_call(&x->guest,
		&(struct http_call){.method = "GET",
			.path = path,
			.write = on_download,
			.tick = tick,
			.ctx = x},
		NULL, e);
	if (x->io_error < 0)
		return err_errno(e, x->io_error, "write");
	x->files += rc == 0;
	return rc < 0 && term_interrupts(NULL) ? interrupted(e) : rc;
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
	int rc = fs_call(x, "ListDir", remote, &list, e);
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
		if ((rc = interrupted(e)) < 0)
			return rc;
		if (is_type(entry, "FILE_TYPE_DIRECTORY") && !link)
			rc = download_tree(x, path, dir, child, mode_of(entry, 0755), depth + 1, e);
		else if (is_type(entry, "FILE_TYPE_FILE"))
			rc = download_file(x, path, dir, child, mode_of(entry, 0644), e);
		else
			warn(x, path,
				link ? "a link that leads to no file"
				     : "neither a file nor a directory");
		if (rc < 0)
			return rc;
	}
	if (rc == 0 && fchmod(dir, mode) < 0)
		rc = err_errno(e, errno, "%s", name);
	return rc;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static char *without_slashes(const char *path)
{
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/')
		n--;
	return strndup(path, n);
}

static int copy_out(struct copy *x, const char *remote, const char *local, struct err *e)
{
	_cleanup_json_ json_t *answer = NULL;
	_cleanup_free_ char *from = without_slashes(*remote ? remote : "~");
	if (!from)
		return err_errno(e, ENOMEM, "%s", remote);
	int rc = fs_call(x, "Stat", from, &answer, e);
	if (rc < 0)
		return rc;
	const json_t *entry = json_object_get(answer, "entry");
	bool is_dir = is_type(entry, "FILE_TYPE_DIRECTORY");
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
	_cleanup_free_ char *to = into ? str_printf("%s/%s", local, name) : without_slashes(local);
	_cleanup_free_ char *parent = to ? strdup(to) : NULL;
	if (!parent)
		return err_errno(e, ENOMEM, "%s", local);
	char *slash = strrchr(parent, '/');
	const char *target = base_name(to);
	if (slash)
		slash[slash == parent] = '\0';
	_cleanup_close_ int dir = open(slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_errno(e, errno, "%s", slash ? parent : ".");
	if (is_dir)
		return download_tree(x, from, dir, target, mode_of(entry, 0755), 0, e);
	return download_file(x, from, dir, target, mode_of(entry, 0644), e);
}

// --- into the sandbox

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
	if (files_path(x, remote, &path) < 0)
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
			.tick = tick,
			.ctx = x},
		NULL, e);
	if (rc < 0) {
		// On its own clock and connection state: also after Ctrl-C. A refusal (a directory
		// in the way, no right to it) has written nothing that could be removed.
		if (x->io_error < 0 || term_interrupts(NULL) || (e && e->code == ERR_NO_SPACE))
			fs_call(x, "Remove", remote, NULL, NULL);
		if (term_interrupts(NULL))
			return interrupted(e);
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
	int rc = fs_call(x, "MakeDir", remote, NULL, &made);
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
		if ((rc = interrupted(e)) < 0)
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
			warn(x, path,
				S_ISLNK(link.st_mode) ? "a link that leads to no file"
						      : "neither a file nor a directory");
		}
		if (rc < 0)
			return rc;
	}
	keep_mode(x, remote, st.st_mode, 0755);
	return 0;
}

static int copy_in(struct copy *x, const char *local, const char *remote, struct err *e)
{
	_cleanup_json_ json_t *answer = NULL;
	struct err missing = {0};
	bool from_stdin = strcmp(local, "-") == 0;
	_cleanup_free_ char *from = without_slashes(local);
	_cleanup_free_ char *to = without_slashes(*remote ? remote : "~");
	if (!from || !to)
		return err_errno(e, ENOMEM, "%s", local);
	_cleanup_close_ int fd = from_stdin ? -1 : open(from, O_RDONLY | O_CLOEXEC);
	struct stat st = {0};
	if (!from_stdin && (fd < 0 || fstat(fd, &st) < 0))
		return err_errno(e, errno, "%s", local);
	bool is_dir = S_ISDIR(st.st_mode);
	if (!from_stdin && !is_dir && !S_ISREG(st.st_mode))
		return err_set(e, ERR_INVALID, "%s is neither a file nor a directory", local);
	int rc = fs_call(x, "Stat", to, &answer, &missing);
	if (rc < 0 && missing.code != ERR_NOT_FOUND) {
		*e = missing;
		return rc;
	}
	bool into = rc < 0 ? str_ends(remote, "/")
			   : is_type(json_object_get(answer, "entry"), "FILE_TYPE_DIRECTORY");
	if (into && from_stdin)
		return err_set(
			e, ERR_INVALID, "'%s' is a directory: name the file to write", remote);
	const char *name = base_name(from);
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

// "ID:PATH", or a name, is a place in a sandbox; "./a:b" is not, nor is anything with a slash
// before the colon.
static int parse_place(const char *text, struct place *ret, struct err *e)
{
	const char *colon = strchr(text, ':');
	*ret = (struct place){.path = text};
	if (!colon || colon == text || memchr(text, '/', (size_t)(colon - text)))
		return 0;
	ret->id = strndup(text, (size_t)(colon - text));
	ret->path = colon + 1;
	return ret->id ? 0 : err_errno(e, ENOMEM, "%s", text);
}

static int copy_places(struct cli *c, struct copy *x, const struct place *src,
	const struct place *dst, struct err *e)
{
	const char *id = src->id ? src->id : dst->id;
	int rc = guest_open(c, id, x->user, &x->guest, e);
	if (rc < 0 && !e->cause[0] && (e->code == ERR_NOT_FOUND || e->code == ERR_INVALID)) {
		struct err why = *e;
		return err_set(e, why.code, "%.800s; a local name with a colon is written ./%s:...",
			why.text, id);
	}
	if (rc < 0)
		return rc;
	term_catch_signals(false);
	progress_start(&x->progress, "copying");
	x->progress.bytes = true;
	rc = src->id ? copy_out(x, src->path, dst->path, e) : copy_in(x, src->path, dst->path, e);
	progress_clear(&x->progress);
	if (rc < 0)
		return rc;
	if (c->json && strcmp(dst->path, "-") != 0) {
		_cleanup_json_ json_t *j = json_pack(
			"{s:I,s:I}", "files", (json_int_t)x->files, "bytes", (json_int_t)x->bytes);
		return output_json(j);
	}
	return 0;
}

int cmd_cp(struct cli *c, struct err *e)
{
	bool recursive = false;
	struct copy x = {.fd = -1, .modes = json_object()};
	struct place src = {0}, dst = {0};
	const struct cli_option options[] = {
		{'u', "user", "USER", "as this user of the guest (default: user)", OPT_STRING,
			&x.user},
		{'r', "recursive", NULL, "taken for granted: directories are always copied whole",
			OPT_FLAG, &recursive},
		{0},
	};
	int rc = cli_parse(c, options, 2, 2, e);
	if (rc == 0)
		rc = parse_place(c->argv[0], &src, e);
	if (rc == 0)
		rc = parse_place(c->argv[1], &dst, e);
	if (rc == 0 && !src.id == !dst.id)
		rc = err_set(e, ERR_INVALID, "exactly one of SRC and DST must be ID:PATH");
	if (rc == 0)
		rc = copy_places(c, &x, &src, &dst, e);
	guest_done(&x.guest);
	json_decref(x.modes);
	free(src.id);
	free(dst.id);
	return rc;
}
