// SPDX-License-Identifier: Apache-2.0
// How this works. pack_next empties `out` (headers), then hands on the file under way, then goes
// one step further in the tree. The header of a file promises a length, so that is settled first: a
// file that ends within HEAD bytes is read whole before; of a longer one the size that stat tells
// is promised after that many bytes were there; one that stat calls shorter than it is (of /proc)
// is copied to memory. A file that ends before its promise ends the archive.
#include "archive/pack.h"
#include <fcntl.h>
#include <search.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include "archive/packed_file.h"
#include "archive/tar_write.h"

#define MAX_LEVELS 256
#define MAX_XATTR_NAMES 65536 // the kernel's limit of a list

struct level {
	DIR *d;
	dev_t dev;
	ino_t ino;
	size_t path_len; // of the directory's path
};

// A file that has further names.
struct seen {
	dev_t dev;
	ino_t ino;
	char path[];
};

struct pack {
	unsigned flags;
	archive_note_fn note;
	void *ctx;
	struct strbuf out, path;
	size_t out_at; // handed on
	struct level levels[MAX_LEVELS];
	size_t n;
	void *seen; // tree of struct seen
	bool is_dir, ended;
	uint64_t files, bytes;
	struct packed_file file; // under way
};

static void tell(struct pack *p, enum archive_note what, const char *why)
{
	if (p->note)
		p->note(p->ctx, what, p->path.data, why);
	else
		tar_add_note(&p->out, what, p->path.data, why);
}

// --- extended attributes

struct xattrs {
	struct archive_xattr list[ARCHIVE_MAX_XATTRS];
	size_t n;
	char *names, *values;
};

static void xattrs_done(struct xattrs *x)
{
	free(x->names);
	free(x->values);
}

// False: some were left out.
static bool read_xattrs(int fd, struct xattrs *x)
{
	size_t used = 0;
	bool whole = true;
	x->names = malloc(MAX_XATTR_NAMES);
	x->values = malloc(ARCHIVE_MAX_XATTR_BYTES);
	if (!x->names || !x->values)
		return false;
	ssize_t n = flistxattr(fd, x->names, MAX_XATTR_NAMES);
	for (char *name = x->names; n > 0 && name < x->names + n; name += strlen(name) + 1) {
		if (strncmp(name, "user.", 5) != 0 && strncmp(name, "system.posix_acl_", 17) != 0)
			continue;
		// With no room at all, fgetxattr would tell a length and read nothing.
		if (x->n == ARCHIVE_MAX_XATTRS || used == ARCHIVE_MAX_XATTR_BYTES)
			return false;
		ssize_t len = fgetxattr(fd, name, x->values + used, ARCHIVE_MAX_XATTR_BYTES - used);
		if (len < 0) {
			whole = whole && errno != ERANGE;
			continue;
		}
		x->list[x->n++] = (struct archive_xattr){name, x->values + used, (size_t)len};
		used += (size_t)len;
	}
	return whole;
}

// fd: -1 where there is none to read attributes from.
static void add_header(struct pack *p, struct archive_entry *entry, int fd)
{
	_cleanup_(xattrs_done) struct xattrs x = {0};
	bool exact = p->flags & PACK_EXACT;
	if (exact && fd >= 0) {
		if (!read_xattrs(fd, &x))
			tell(p, ARCHIVE_SKIPPED, ARCHIVE_XATTRS_LEFT_OUT);
		entry->xattrs = x.list;
		entry->n_xattrs = x.n;
	}
	tar_add_header(&p->out, entry, exact);
}

static struct archive_entry entry_of(const struct pack *p, const struct stat *st)
{
	return (struct archive_entry){.path = p->path.data,
		.mode = st->st_mode & 07777,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.mtime = st->st_mtim};
}

// --- files

// Takes fd.
static int begin_file(struct pack *p, int fd, const struct stat *st)
{
	int rc = packed_open(&p->file, fd);
	if (rc == -ENOMEM)
		return rc;
	if (rc < 0) {
		tell(p, ARCHIVE_FAILED,
			rc == -EFBIG ? "it has no size and goes on for more than 64 MiB"
				     : strerror(-rc));
		return 0;
	}
	struct archive_entry entry = entry_of(p, st);
	entry.type = ARCHIVE_FILE;
	entry.size = p->file.size;
	entry.segments = p->file.holes ? p->file.segments : NULL;
	entry.n_segments = p->file.holes ? p->file.n : 0;
	add_header(p, &entry, p->file.fd);
	return 0;
}

// The next bytes of the file under way, or 0 where it is over.
static ssize_t read_file(struct pack *p, char *buf, size_t max, struct err *e)
{
	ssize_t n = packed_read(&p->file, buf, max);
	if (n == -ENODATA)
		return err_set(e, ERR_CONFLICT,
			"%s ended early: it became shorter while it was read", p->path.data);
	if (n < 0)
		return err_errno(e, (int)n, "cannot read %s", p->path.data);
	if (n == 0) {
		tar_add_padding(&p->out, p->file.length);
		packed_close(&p->file);
		p->files++;
	}
	p->bytes += (uint64_t)n;
	return n;
}

// --- the tree

static int compare_seen(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;
	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x->dev < y->dev ? -1 : x->dev > y->dev;
}

// The path by which the file is in the archive already; NULL: it is remembered by this one.
static const char *seen_before(struct pack *p, const struct stat *st)
{
	struct seen *s = malloc(sizeof *s + p->path.len + 1);
	if (!s)
		return NULL;
	s->dev = st->st_dev;
	s->ino = st->st_ino;
	memcpy(s->path, p->path.data, p->path.len + 1);
	struct seen **found = tsearch(s, &p->seen, compare_seen);
	if (found && *found == s)
		return NULL;
	free(s);
	return found ? (*found)->path : NULL;
}

// It did not get into the archive after all: no link may lead to it.
static void forget_seen(struct pack *p, const struct stat *st)
{
	struct seen key = {.dev = st->st_dev, .ino = st->st_ino};
	struct seen **found = tfind(&key, &p->seen, compare_seen);
	struct seen *s = found ? *found : NULL;
	if (s)
		tdelete(s, &p->seen, compare_seen);
	free(s);
}

static int add_regular(struct pack *p, int parent, const char *name, int nofollow)
{
	struct stat st;
	// A device or pipe may have taken its place: opening one must not block.
	_cleanup_close_ int fd =
		openat(parent, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | nofollow);
	if (fd < 0 || fstat(fd, &st) < 0) {
		tell(p, ARCHIVE_FAILED, strerror(errno));
		return 0;
	}
	if (!S_ISREG(st.st_mode)) {
		tell(p, ARCHIVE_FAILED, "it became something else than a file meanwhile");
		return 0;
	}
	const char *first =
		st.st_nlink > 1 && !(p->flags & PACK_FOLLOW) ? seen_before(p, &st) : NULL;
	if (!first) {
		int rc = begin_file(p, TAKE_FD(fd), &st);
		if (p->file.fd < 0)
			forget_seen(p, &st);
		return rc;
	}
	struct archive_entry entry = entry_of(p, &st);
	entry.type = ARCHIVE_HARD_LINK;
	entry.link = first;
	add_header(p, &entry, -1);
	p->files++;
	return 0;
}

static int add_directory(struct pack *p, int parent, const char *name, int nofollow)
{
	struct stat st;
	if (p->n == MAX_LEVELS) {
		tell(p, ARCHIVE_FAILED, "more than 256 directories deep");
		return 0;
	}
	_cleanup_close_ int fd =
		openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | nofollow);
	if (fd < 0 || fstat(fd, &st) < 0) {
		tell(p, ARCHIVE_FAILED, strerror(errno));
		return 0;
	}
	for (size_t i = 0; i < p->n; i++)
		if (p->levels[i].dev == st.st_dev && p->levels[i].ino == st.st_ino) {
			tell(p, ARCHIVE_SKIPPED, "a link back to a directory above it");
			return 0;
		}
	struct level *l = &p->levels[p->n];
	*l = (struct level){.d = fdopendir(fd), .dev = st.st_dev, .ino = st.st_ino};
	if (!l->d)
		return -errno;
	TAKE_FD(fd);
	p->n++;
	l->path_len = p->path.len;
	strbuf_addc(&p->path, '/');
	if (p->path.failed)
		return -ENOMEM;
	struct archive_entry entry = entry_of(p, &st);
	entry.type = ARCHIVE_DIRECTORY;
	add_header(p, &entry, dirfd(l->d));
	return 0;
}

static int add_symlink(struct pack *p, int parent, const char *name, const struct stat *st)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(parent, name, target, sizeof target - 1);
	if (n < 0) {
		tell(p, ARCHIVE_FAILED, strerror(errno));
		return 0;
	}
	target[n] = '\0';
	struct archive_entry entry = entry_of(p, st);
	entry.type = ARCHIVE_SYMLINK;
	entry.link = target;
	add_header(p, &entry, -1);
	return 0;
}

// name below parent, at p->path.
static int add(struct pack *p, int parent, const char *name, bool follow)
{
	struct stat st;
	if (fstatat(parent, name, &st, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0) {
		int errnum = errno;
		if (follow && fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			tell(p, ARCHIVE_SKIPPED, "a link that leads to no file");
		else
			tell(p, ARCHIVE_FAILED, strerror(errnum));
		return 0;
	}
	int nofollow = follow ? 0 : O_NOFOLLOW;
	switch (st.st_mode & S_IFMT) {
	case S_IFREG:
		return add_regular(p, parent, name, nofollow);
	case S_IFDIR:
		return add_directory(p, parent, name, nofollow);
	case S_IFLNK:
		return add_symlink(p, parent, name, &st);
	case S_IFIFO:
		tell(p, ARCHIVE_SKIPPED, "a pipe");
		return 0;
	case S_IFSOCK:
		tell(p, ARCHIVE_SKIPPED, "a socket");
		return 0;
	default:
		tell(p, ARCHIVE_SKIPPED, "a device");
		return 0;
	}
}

// The next thing in the tree.
static int step(struct pack *p)
{
	if (p->n == 0) {
		tar_add_end(&p->out);
		p->ended = true;
		return 0;
	}
	struct level *l = &p->levels[p->n - 1];
	p->path.len = l->path_len;
	errno = 0;
	struct dirent *de = readdir(l->d);
	if (!de) {
		p->path.data[p->path.len] = '\0';
		if (errno)
			tell(p, ARCHIVE_FAILED, strerror(errno));
		closedir(l->d);
		p->n--;
		return 0;
	}
	if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
		return 0;
	strbuf_addc(&p->path, '/');
	strbuf_adds(&p->path, de->d_name);
	return p->path.failed ? -ENOMEM : add(p, dirfd(l->d), de->d_name, p->flags & PACK_FOLLOW);
}

int pack_new(int dirfd, const char *path, const char *root, unsigned flags, archive_note_fn note,
	void *ctx, struct pack **ret, struct err *e)
{
	struct stat st;
	bool follow = flags & (PACK_FOLLOW | PACK_FOLLOW_ROOT);
	if (fstatat(dirfd, path, &st, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(e, errno, "%s", path);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode))
		return err_set(e, ERR_INVALID, "%s is neither a file nor a directory", path);
	if (!S_ISLNK(st.st_mode) && faccessat(dirfd, path, R_OK, AT_EACCESS) < 0)
		return err_errno(e, errno, "%s", path);
	_cleanup_(pack_freep) struct pack *p = calloc(1, sizeof *p);
	if (!p)
		return err_errno(e, ENOMEM, "archive");
	p->file.fd = -1;
	p->flags = flags;
	p->note = note;
	p->ctx = ctx;
	p->is_dir = S_ISDIR(st.st_mode);
	strbuf_adds(&p->path, root);
	int rc = p->path.failed ? -ENOMEM : add(p, dirfd, path, follow);
	if (rc < 0)
		return err_errno(e, rc, "%s", path);
	*ret = TAKE_PTR(p);
	return 0;
}

struct pack *pack_free(struct pack *p)
{
	if (!p)
		return NULL;
	while (p->n > 0)
		closedir(p->levels[--p->n].d);
	tdestroy(p->seen, free);
	strbuf_done(&p->out);
	strbuf_done(&p->path);
	packed_done(&p->file);
	free(p);
	return NULL;
}

ssize_t pack_next(struct pack *p, char *buf, size_t max, struct err *e)
{
	size_t n = 0;
	while (n < max) {
		if (p->out.failed)
			return err_errno(e, ENOMEM, "archive");
		if (p->out_at < p->out.len) {
			size_t part = MIN(max - n, p->out.len - p->out_at);
			memcpy(buf + n, p->out.data + p->out_at, part);
			p->out_at += part;
			n += part;
			continue;
		}
		p->out.len = p->out_at = 0;
		if (p->ended)
			break;
		ssize_t got = 0;
		if (p->file.fd >= 0)
			got = read_file(p, buf + n, max - n, e);
		else if ((got = step(p)) < 0)
			err_errno(e, (int)got, "%s", p->path.data);
		if (got < 0)
			return n > 0 && !err_is_set(e) ? (ssize_t)n : got;
		n += (size_t)got;
	}
	return (ssize_t)n;
}

bool pack_is_dir(const struct pack *p)
{
	return p->is_dir;
}

uint64_t pack_files(const struct pack *p)
{
	return p->files;
}

uint64_t pack_bytes(const struct pack *p)
{
	return p->bytes;
}
