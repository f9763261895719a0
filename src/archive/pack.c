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
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include "archive/tar_write.h"
#include "base/file.h"

#define HEAD (64u << 10)
#define MAX_LEVELS 256
#define MAX_SEGMENTS 65536	// beyond these, holes are sent as zeros
#define MAX_UNKNOWN (64u << 20) // of a file whose size nobody knows
#define MAX_XATTRS 64
#define MAX_XATTR_BYTES (256u << 10)

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
	// The file under way:
	int fd; // -1: none
	struct archive_segment *segments;
	size_t n_segments, segment;
	uint64_t in_segment, content; // content: all of its segments
	size_t head_len;
	char head[HEAD];
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
	struct archive_xattr list[MAX_XATTRS];
	size_t n;
	char *names, *values;
};

static void xattrs_done(struct xattrs *x)
{
	free(x->names);
	free(x->values);
}

static void read_xattrs(int fd, struct xattrs *x)
{
	x->names = malloc(MAX_XATTR_BYTES);
	x->values = malloc(MAX_XATTR_BYTES);
	if (!x->names || !x->values)
		return;
	ssize_t n = flistxattr(fd, x->names, MAX_XATTR_BYTES);
	size_t used = 0;
	for (char *name = x->names; n > 0 && name < x->names + n; name += strlen(name) + 1) {
		if (strncmp(name, "user.", 5) != 0 && strncmp(name, "system.posix_acl_", 17) != 0)
			continue;
		ssize_t len = fgetxattr(fd, name, x->values + used, MAX_XATTR_BYTES - used);
		if (len < 0 || x->n == MAX_XATTRS)
			continue;
		x->list[x->n++] = (struct archive_xattr){name, x->values + used, (size_t)len};
		used += (size_t)len;
	}
}

// fd: -1 where there is none to read attributes from.
static void add_header(struct pack *p, struct archive_entry *entry, int fd)
{
	_cleanup_(xattrs_done) struct xattrs x = {0};
	bool exact = p->flags & PACK_EXACT;
	if (exact && fd >= 0) {
		read_xattrs(fd, &x);
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

static int add_segment(struct pack *p, uint64_t offset, uint64_t length)
{
	if ((p->n_segments & (p->n_segments - 1)) == 0) {
		struct archive_segment *s =
			reallocarray(p->segments, p->n_segments ? 2 * p->n_segments : 1, sizeof *s);
		if (!s)
			return -ENOMEM;
		p->segments = s;
	}
	p->segments[p->n_segments++] = (struct archive_segment){offset, length};
	p->content += length;
	return 0;
}

// The parts that have data. A file without any has one of no length, at its end. -EOPNOTSUPP where
// the file system does not tell.
static int find_data(struct pack *p, uint64_t size)
{
	uint64_t at = 0;
	while (at < size) {
		off_t data = lseek(p->fd, (off_t)at, SEEK_DATA);
		if (data < 0 && errno != ENXIO)
			return -EOPNOTSUPP;
		if (data < 0 || (uint64_t)data >= size)
			break;
		off_t hole =
			p->n_segments < MAX_SEGMENTS ? lseek(p->fd, data, SEEK_HOLE) : (off_t)size;
		if (hole <= data || (uint64_t)hole > size)
			hole = (off_t)size;
		int rc = add_segment(p, (uint64_t)data, (uint64_t)(hole - data));
		if (rc < 0)
			return rc;
		at = (uint64_t)hole;
	}
	return p->n_segments ? 0 : add_segment(p, size, 0);
}

// Of a file whose length is not known: a copy takes its place. -EFBIG: it goes on and on.
static int read_to_end(struct pack *p)
{
	_cleanup_close_ int copy = memfd_create("pack", MFD_CLOEXEC);
	char buf[16384];
	uint64_t total = p->head_len;
	if (copy < 0)
		return -errno;
	int rc = file_write_full(copy, p->head, p->head_len);
	while (rc == 0) {
		ssize_t n = RETRY_EINTR(read(p->fd, buf, sizeof buf));
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		total += (uint64_t)n;
		rc = total > MAX_UNKNOWN ? -EFBIG : file_write_full(copy, buf, (size_t)n);
	}
	if (rc < 0)
		return rc;
	close(p->fd);
	p->fd = TAKE_FD(copy);
	return add_segment(p, 0, total);
}

static void forget_segments(struct pack *p)
{
	p->n_segments = p->segment = 0;
	p->in_segment = p->content = 0;
}

// Settles what of the file is promised. *ret_size: with its holes, where it has some.
static int measure(struct pack *p, uint64_t *ret_size, bool *ret_holes)
{
	struct stat st;
	bool end = false;
	forget_segments(p);
	p->head_len = 0;
	while (p->head_len < HEAD && !end) {
		ssize_t n = RETRY_EINTR(read(p->fd, p->head + p->head_len, HEAD - p->head_len));
		if (n < 0)
			return -errno;
		p->head_len += (size_t)n;
		end = n == 0;
	}
	if (fstat(p->fd, &st) < 0)
		return -errno;
	uint64_t size = (uint64_t)st.st_size;
	bool sized = end ? size == p->head_len : size >= p->head_len;
	if (!end && !sized)
		return read_to_end(p);
	if (sized && (uint64_t)st.st_blocks * 512 < size) {
		int rc = find_data(p, size);
		*ret_holes = rc == 0 && p->content < size;
		*ret_size = size;
		if (*ret_holes || rc == -ENOMEM)
			return rc;
		forget_segments(p);
	}
	return add_segment(p, 0, end ? p->head_len : size);
}

// Takes fd.
static int begin_file(struct pack *p, int fd, const struct stat *st)
{
	uint64_t size = 0;
	bool holes = false;
	p->fd = fd;
	int rc = measure(p, &size, &holes);
	if (rc < 0) {
		p->fd = safe_close(p->fd);
		if (rc == -ENOMEM)
			return rc;
		tell(p, ARCHIVE_FAILED,
			rc == -EFBIG ? "it has no size and goes on for more than 64 MiB"
				     : strerror(-rc));
		return 0;
	}
	struct archive_entry entry = entry_of(p, st);
	entry.type = ARCHIVE_FILE;
	entry.size = holes ? size : p->content;
	entry.segments = holes ? p->segments : NULL;
	entry.n_segments = holes ? p->n_segments : 0;
	add_header(p, &entry, p->fd);
	return 0;
}

// The next bytes of the file under way, or 0 where it is over.
static ssize_t read_file(struct pack *p, char *buf, size_t max, struct err *e)
{
	while (p->segment < p->n_segments && p->in_segment == p->segments[p->segment].length) {
		p->segment++;
		p->in_segment = 0;
	}
	if (p->segment == p->n_segments) {
		p->fd = safe_close(p->fd);
		p->files++;
		tar_add_padding(&p->out, p->content);
		return 0;
	}
	const struct archive_segment *s = &p->segments[p->segment];
	uint64_t at = s->offset + p->in_segment;
	size_t want = (size_t)MIN((uint64_t)max, s->length - p->in_segment);
	ssize_t n;
	if (at < p->head_len) {
		n = (ssize_t)MIN(want, p->head_len - (size_t)at);
		memcpy(buf, p->head + at, (size_t)n);
	} else {
		n = RETRY_EINTR(pread(p->fd, buf, want, (off_t)at));
	}
	if (n < 0)
		return err_errno(e, errno, "cannot read %s", p->path.data);
	if (n == 0)
		return err_set(e, ERR_CONFLICT,
			"%s ended early: it became shorter while it was read", p->path.data);
	p->in_segment += (uint64_t)n;
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
	if (!first)
		return begin_file(p, TAKE_FD(fd), &st);
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
	p->fd = -1;
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
	free(p->segments);
	strbuf_done(&p->out);
	strbuf_done(&p->path);
	safe_close(p->fd);
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
		if (p->fd >= 0)
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
