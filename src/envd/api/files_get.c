// SPDX-License-Identifier: Apache-2.0
#include "envd/api/files_get.h"
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include "envd/api/request.h"
#include "envd/process/path.h"

static const char *content_type(const char *name)
{
	static const struct {
		const char *ext, *type;
	} types[] = {
		{".css", "text/css; charset=utf-8"},
		{".csv", "text/csv; charset=utf-8"},
		{".gif", "image/gif"},
		{".gz", "application/gzip"},
		{".htm", "text/html; charset=utf-8"},
		{".html", "text/html; charset=utf-8"},
		{".jpeg", "image/jpeg"},
		{".jpg", "image/jpeg"},
		{".js", "text/javascript; charset=utf-8"},
		{".json", "application/json"},
		{".md", "text/markdown; charset=utf-8"},
		{".mp4", "video/mp4"},
		{".pdf", "application/pdf"},
		{".png", "image/png"},
		{".svg", "image/svg+xml"},
		{".txt", "text/plain; charset=utf-8"},
		{".wasm", "application/wasm"},
		{".webp", "image/webp"},
		{".xml", "text/xml; charset=utf-8"},
		{".zip", "application/zip"},
	};
	const char *dot = strrchr(name, '.');
	for (size_t i = 0; dot && i < ARRAY_SIZE(types); i++)
		if (strcasecmp(types[i].ext, dot) == 0)
			return types[i].type;
	return "application/octet-stream";
}

static void add_disposition(struct http_request *req, const char *name)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	bool plain = true;
	for (const char *p = name; *p; p++)
		plain = plain && *p >= ' ' && *p < 0x7f && *p != '"' && *p != '\\';
	if (plain) {
		strbuf_addf(&b, "inline; filename=\"%s\"", name);
	} else {
		strbuf_adds(&b, "inline; filename*=utf-8''");
		str_percent_encode(&b, name);
	}
	if (!b.failed)
		http_reply_header(req, "Content-Disposition", b.data);
}

// A file whose size says nothing, with the beginning that was read of it.
struct pseudo {
	int fd;
	size_t len, sent; // of head
	char head[4096];
};

static void pseudo_free(void *p)
{
	struct pseudo *f = p;
	close(f->fd);
	free(f);
}

// File systems whose files are made as they are read (linux/magic.h).
static bool is_of_kernel(int fd)
{
	static const uint32_t magics[] = {PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC,
		CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC, EFIVARFS_MAGIC,
		BPF_FS_MAGIC};
	struct statfs fs;
	for (size_t i = 0; fstatfs(fd, &fs) == 0 && i < ARRAY_SIZE(magics); i++)
		if ((uint32_t)fs.f_type == magics[i])
			return true;
	return false;
}

static ssize_t pseudo_next(void *p, char *buf, size_t max)
{
	struct pseudo *f = p;
	if (f->sent < f->len) {
		size_t n = MIN(max, f->len - f->sent);
		memcpy(buf, f->head + f->sent, n);
		f->sent += n;
		return (ssize_t)n;
	}
	ssize_t n = RETRY_EINTR(read(f->fd, buf, max));
	return n < 0 ? -errno : n;
}

// Takes fd. What stat tells of the size is promised to the client only where the first read agrees;
// all else is sent to its end, in chunks.
static int reply_file(struct http_request *req, const char *path, int fd, struct err *e)
{
	struct stat st;
	struct pseudo *f = calloc(1, sizeof *f);
	if (!f) {
		close(fd);
		return err_errno(e, ENOMEM, "%s", path);
	}
	f->fd = fd;
	ssize_t n = RETRY_EINTR(read(fd, f->head, sizeof f->head));
	if (n < 0 || fstat(fd, &st) < 0) {
		int errnum = errno;
		pseudo_free(f);
		return err_errno(e, errnum, "cannot read %s", path);
	}
	f->len = (size_t)n;
	uint64_t size = (uint64_t)st.st_size;
	if (f->len < MIN(size, sizeof f->head) || f->len > size || is_of_kernel(fd)) {
		http_reply_stream(req, 200, content_type(path), pseudo_next, f, pseudo_free);
		return 0;
	}
	free(f);
	http_reply_fd(req, 200, content_type(path), fd, 0, size);
	return 0;
}

static int get(struct http_request *req, struct agent *a, struct err *e)
{
	_cleanup_user_ struct user user = {0};
	char path[PATH_SIZE];
	struct stat st;
	const char *asked = http_req_query(req, "path");
	int rc = request_query_user(req, a, &user, e);
	if (rc == 0)
		rc = request_resolve_path(a, asked ? asked : "", &user, path, e);
	if (rc < 0)
		return rc;
	// Looked at before it is opened: opening a pipe or device may do something.
	if (stat(path, &st) < 0)
		return errno == ENOTDIR
			       ? err_set(e, ERR_NOT_FOUND, "%s: no such file or directory", path)
			       : err_errno(e, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return request_refuse_kind(path, st.st_mode, e);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return request_refuse_kind(path, st.st_mode, e);
	http_reply_header(req, "Vary", "Accept-Encoding");
	add_disposition(req, path_base(path));
	return reply_file(req, path, TAKE_FD(fd), e);
}

void files_get(struct http_request *req, void *ctx)
{
	struct err e = {0};
	if (get(req, ctx, &e) < 0)
		http_reply_error(req, &e);
}
