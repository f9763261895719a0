// SPDX-License-Identifier: Apache-2.0
// How this works. The directories from the top to where the last entry was are kept open, one below
// the other; the path of the next entry is compared with them, what does not fit is closed, what is
// missing opened or made. A directory is 0700 while it is filled and gets its own mode and time
// when it is left, so that it can be one that its owner may not write.
#include "archive/unpack.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "archive/attributes.h"
#include "archive/link.h"
#include "archive/tar_read.h"
#include "base/file.h"
#include "base/replace.h"
#include "base/str.h"

#define MAX_LEVELS 300

struct level {
	int fd;
	char *name;   // NULL: the top
	bool made;    // here
	bool has_end; // mode and mtime are set when it is left
	mode_t mode;
	uid_t uid;
	gid_t gid;
	struct timespec mtime;
};

struct unpack {
	struct unpack_options o;
	struct tar_reader *reader;
	struct level levels[MAX_LEVELS];
	size_t n;
	struct strbuf path; // of the present entry, as it is here: names and single slashes
	struct strbuf root; // its name in the archive, where o.root is set
	bool root_is_file;
	uint64_t files, bytes, entries;
	// The file under way:
	struct replace file;
	struct archive_entry entry; // its pointers are not kept
	uint64_t at;		    // where the next byte of a device goes
	bool active;
};

static int failed(struct unpack *u, int rc, struct err *e)
{
	const char *path = u->path.len ? u->path.data : ".";
	if (rc == -ECANCELED)
		return err_set(e, ERR_CANCELED, "interrupted");
	if (rc == -ENOSPC || rc == -EDQUOT)
		return err_set(e, ERR_NO_SPACE, "no space left on the disk for %s", path);
	if (rc == -EISDIR)
		return err_set(e, ERR_CONFLICT, "%s: a directory is in the way", path);
	if (rc == -ENOTDIR || rc == -ELOOP)
		return err_set(
			e, ERR_CONFLICT, "%s: something else than a directory is in the way", path);
	return err_errno(e, rc, "cannot write %s", path);
}

// --- names

// Appends the names of a path to out, with single slashes. ERR_INVALID for what may lead elsewhere.
static int clean_path(const char *path, struct strbuf *out, struct err *e)
{
	if (*path == '/' || !*path)
		return err_set(e, ERR_INVALID, "the archive has a bad path: '%.200s'", path);
	for (const char *p = path; *p;) {
		size_t n = strcspn(p, "/");
		if (n > NAME_MAX || (n == 2 && p[0] == '.' && p[1] == '.'))
			return err_set(
				e, ERR_INVALID, "the archive has a bad path: '%.200s'", path);
		if (n > 0 && !(n == 1 && p[0] == '.')) {
			if (out->len)
				strbuf_addc(out, '/');
			strbuf_add(out, p, n);
		}
		p += n + (p[n] == '/');
	}
	strbuf_add(out, "", 0);
	if (out->len >= PATH_MAX)
		return err_set(e, ERR_INVALID, "the archive has a path over %d bytes", PATH_MAX);
	return out->failed ? err_errno(e, ENOMEM, "archive") : 0;
}

// The same with the root's name here. *ret_is_root: nothing is below it.
static int place_path(
	struct unpack *u, const char *path, struct strbuf *out, bool *ret_is_root, struct err *e)
{
	_cleanup_strbuf_ struct strbuf clean = {0};
	int rc = clean_path(path, &clean, e);
	if (rc < 0)
		return rc;
	size_t n = strcspn(clean.data, "/");
	*ret_is_root = !clean.data[n];
	out->len = 0;
	if (!u->o.root) {
		strbuf_add(out, clean.data, clean.len);
	} else {
		if (u->entries == 0)
			strbuf_add(&u->root, clean.data, n);
		if (n != u->root.len || memcmp(clean.data, u->root.data, n) != 0 ||
			(u->entries > 0 && u->root_is_file))
			return err_set(e, ERR_INVALID,
				"the archive has more than was asked for: '%.200s'", path);
		const char *rest = clean.data + n + (clean.data[n] == '/');
		strbuf_adds(out, u->o.root);
		if (*u->o.root && *rest)
			strbuf_addc(out, '/');
		strbuf_adds(out, rest);
	}
	return out->failed || u->root.failed ? err_errno(e, ENOMEM, "archive") : 0;
}

// --- directories

static int leave(struct unpack *u)
{
	struct level *l = &u->levels[--u->n];
	int rc = 0;
	if (l->has_end) {
		rc = attributes_set_owner(&u->o, l->fd, NULL, l->uid, l->gid);
		// Somebody else's directory, which was there.
		if (fchmod(l->fd, attributes_mode(&u->o, l->mode)) < 0 && errno != EPERM && rc == 0)
			rc = -errno;
		if (rc == 0)
			rc = attributes_set_times(&u->o, l->fd, NULL, l->mtime);
	}
	free(l->name);
	safe_close(l->fd);
	return rc;
}

// A directory of that name in the deepest one; made where it is missing.
static int enter(struct unpack *u, const char *name, size_t len)
{
	struct level *l = &u->levels[u->n];
	int parent = u->levels[u->n - 1].fd;
	if (u->n == MAX_LEVELS)
		return -ENAMETOOLONG;
	_cleanup_free_ char *copy = strndup(name, len);
	if (!copy)
		return -ENOMEM;
	bool made = mkdirat(parent, copy, 0755) == 0;
	if (!made && errno != EEXIST)
		return -errno;
	_cleanup_close_ int fd =
		openat(parent, copy, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = made ? attributes_set_owner(&u->o, fd, NULL, (uid_t)-1, (gid_t)-1) : 0;
	if (rc < 0)
		return rc;
	*l = (struct level){.fd = TAKE_FD(fd), .name = TAKE_PTR(copy), .made = made};
	u->n++;
	return 0;
}

// Goes to the directory of the first len bytes of u->path.
static int go_to(struct unpack *u, size_t len)
{
	const char *p = u->path.data, *end = p + len;
	size_t depth = 1;
	int rc = 0;
	while (p < end && depth < u->n) {
		size_t n = MIN(strcspn(p, "/"), (size_t)(end - p));
		const char *name = u->levels[depth].name;
		if (strlen(name) != n || memcmp(name, p, n) != 0)
			break;
		depth++;
		p += n + 1;
	}
	while (u->n > depth && rc == 0)
		rc = leave(u);
	while (p < end && rc == 0) {
		size_t n = MIN(strcspn(p, "/"), (size_t)(end - p));
		rc = enter(u, p, n);
		p += n + 1;
	}
	return rc;
}

static int make_directory(struct unpack *u, const struct archive_entry *entry)
{
	int rc = go_to(u, u->path.len);
	if (rc < 0)
		return rc;
	struct level *l = &u->levels[u->n - 1];
	// One that was there stays as it is, but for an exact copy of another.
	if (!l->made && ((u->o.flags & UNPACK_KEEP_DIRS) || !(u->o.flags & UNPACK_TIMES)))
		return 0;
	attributes_set_xattrs(&u->o, l->fd, entry);
	if (l->made && fchmod(l->fd, 0700) < 0)
		return -errno;
	l->has_end = true;
	l->mode = entry->mode;
	l->uid = entry->uid;
	l->gid = entry->gid;
	l->mtime = entry->mtime;
	return 0;
}

// --- links

static int add_symlink(struct unpack *u, const struct archive_entry *entry, const char *name)
{
	int dir = u->levels[u->n - 1].fd;
	if (!*entry->link || strlen(entry->link) >= PATH_MAX)
		return -EINVAL;
	int rc = link_symbolic(dir, name, entry->link);
	if (rc == 0)
		rc = attributes_set_owner(&u->o, dir, name, entry->uid, entry->gid);
	return rc < 0 ? rc : attributes_set_times(&u->o, dir, name, entry->mtime);
}

// Opens the directory of a path below the top, following no link.
static int open_dir_of(struct unpack *u, char *path, const char **ret_name)
{
	_cleanup_close_ int fd = fcntl(u->levels[0].fd, F_DUPFD_CLOEXEC, 0);
	char *p = path, *slash;
	for (; fd >= 0 && (slash = strchr(p, '/')); p = slash + 1) {
		*slash = '\0';
		int next = openat(fd, p, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		int errnum = errno;
		close(fd);
		fd = next;
		errno = errnum;
	}
	*ret_name = p;
	return fd < 0 ? -errno : TAKE_FD(fd);
}

static int add_hard_link(
	struct unpack *u, const struct archive_entry *entry, const char *name, struct err *e)
{
	_cleanup_strbuf_ struct strbuf path = {0};
	const char *from;
	bool is_root;
	int rc = place_path(u, entry->link, &path, &is_root, e);
	if (rc < 0)
		return rc;
	_cleanup_close_ int dir = path.len ? open_dir_of(u, path.data, &from) : -EINVAL;
	if (dir < 0)
		return dir;
	rc = link_hard(u->levels[u->n - 1].fd, name, dir, from);
	u->files += rc == 0;
	return rc;
}

// --- files

static int begin_file(struct unpack *u, const struct archive_entry *entry, const char *name,
	bool is_root, struct err *e)
{
	struct replace *r = &u->file;
	unsigned flags = 0;
	if (is_root && (u->o.flags & UNPACK_FOLLOW_ROOT))
		flags |= REPLACE_FOLLOW;
	if (is_root && (u->o.flags & UNPACK_SPECIAL_ROOT))
		flags |= REPLACE_SPECIAL;
	if (is_root)
		flags |= REPLACE_SYNC;
	int rc = replace_begin(r, u->levels[u->n - 1].fd, name, flags, 0600);
	if (rc == -EINVAL)
		return err_set(e, ERR_CONFLICT, "%s: a device, pipe or socket is in the way",
			u->path.data);
	if (rc < 0)
		return rc;
	u->active = true;
	u->at = 0;
	u->entry = *entry;
	if (r->special || r->in_place)
		return 0;
	if (!(u->o.flags & UNPACK_OWNER) && r->exists)
		replace_take_old(r);
	else
		rc = attributes_set_owner(&u->o, r->fd, NULL, entry->uid, entry->gid);
	if (rc == 0)
		attributes_set_xattrs(&u->o, r->fd, entry);
	return rc;
}

static bool is_canceled(struct unpack *u)
{
	return u->o.tick && u->o.tick(u->o.ctx) != 0;
}

// A pipe can block for good: a signal ends that, if whoever asked for it says so.
static int write_piece(struct unpack *u, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(u->file.fd, data, len);
		if (is_canceled(u))
			return -ECANCELED;
		if (n < 0 && errno != EINTR)
			return -errno;
		n = MAX(n, 0);
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

// A device or pipe takes holes as zeros.
static int write_special(struct unpack *u, uint64_t offset, const void *data, size_t len)
{
	static const char zeros[65536];
	int rc = 0;
	while (rc == 0 && u->at < offset) {
		size_t n = (size_t)MIN(offset - u->at, (uint64_t)sizeof zeros);
		rc = write_piece(u, zeros, n);
		u->at += n;
	}
	if (rc == 0)
		rc = write_piece(u, data, len);
	u->at += len;
	return rc;
}

static int write_at(int fd, const char *data, size_t len, uint64_t offset)
{
	while (len > 0) {
		ssize_t n = RETRY_EINTR(pwrite(fd, data, len, (off_t)offset));
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		data += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

static int on_data(void *ctx, uint64_t offset, const void *data, size_t len, struct err *e)
{
	struct unpack *u = ctx;
	if (!u->active)
		return 0;
	int rc = u->file.special ? write_special(u, offset, data, len)
				 : write_at(u->file.fd, data, len, offset);
	u->bytes += len;
	return rc < 0 ? failed(u, rc, e) : 0;
}

static int on_entry_end(void *ctx, struct err *e)
{
	struct unpack *u = ctx;
	struct replace *r = &u->file;
	struct stat st;
	int rc = 0;
	if (!u->active)
		return 0;
	u->active = false;
	if (r->special) {
		rc = write_special(u, u->entry.size, "", 0);
	} else {
		if (fstat(r->fd, &st) < 0 || ((uint64_t)st.st_size != u->entry.size &&
						     ftruncate(r->fd, (off_t)u->entry.size) < 0))
			rc = -errno;
		if (rc == 0 && !r->in_place &&
			fchmod(r->fd, attributes_mode(&u->o, u->entry.mode)) < 0)
			rc = -errno;
		if (rc == 0 && !r->in_place)
			rc = attributes_set_times(&u->o, r->fd, NULL, u->entry.mtime);
	}
	if (rc == 0)
		rc = replace_commit(r);
	else
		replace_abort(r);
	u->files += rc == 0;
	return rc < 0 ? failed(u, rc, e) : 0;
}

// --- entries

static int add_entry(
	struct unpack *u, const struct archive_entry *entry, bool is_root, struct err *e)
{
	if (entry->type == ARCHIVE_DIRECTORY)
		return make_directory(u, entry);
	if (entry->type == ARCHIVE_OTHER) {
		if (u->o.note)
			u->o.note(u->o.ctx, ARCHIVE_SKIPPED, u->path.data,
				"neither a file, a directory nor a link");
		return 0;
	}
	char *slash = strrchr(u->path.data, '/');
	const char *name = slash ? slash + 1 : u->path.data;
	if (!*name)
		return err_set(
			e, ERR_INVALID, "the archive has a file where a directory should be");
	int rc = go_to(u, slash ? (size_t)(slash - u->path.data) : 0);
	if (rc < 0)
		return rc;
	if (entry->type == ARCHIVE_SYMLINK)
		return add_symlink(u, entry, name);
	if (entry->type == ARCHIVE_HARD_LINK)
		return add_hard_link(u, entry, name, e);
	return begin_file(u, entry, name, is_root, e);
}

static int on_entry(void *ctx, const struct archive_entry *entry, struct err *e)
{
	struct unpack *u = ctx;
	bool is_root = false;
	int rc = place_path(u, entry->path, &u->path, &is_root, e);
	if (rc < 0)
		return rc;
	if (u->entries == 0)
		u->root_is_file = entry->type != ARCHIVE_DIRECTORY;
	if (u->root_is_file && (u->o.flags & UNPACK_ROOT_IS_DIR))
		return err_set(e, ERR_INVALID, "%s is not a directory", u->path.data);
	// A link or directory would take the place of the device.
	if ((u->o.flags & UNPACK_SPECIAL_ROOT) && entry->type != ARCHIVE_FILE)
		return err_set(e, ERR_INVALID, "%s is a device or pipe: only a file can go there",
			u->path.data);
	rc = add_entry(u, entry, is_root && u->entries == 0, e);
	u->entries++;
	if (rc < 0)
		return err_is_set(e) ? rc : failed(u, rc, e);
	return 0;
}

static void on_note(void *ctx, enum archive_note what, const char *path, const char *why)
{
	struct unpack *u = ctx;
	if (u->o.note)
		u->o.note(u->o.ctx, what, path, why);
}

int unpack_new(const struct unpack_options *o, struct unpack **ret, struct err *e)
{
	static const struct tar_events events = {on_entry, on_data, on_entry_end, on_note};
	_cleanup_(unpack_freep) struct unpack *u = calloc(1, sizeof *u);
	if (!u)
		return err_errno(e, ENOMEM, "archive");
	u->o = *o;
	u->file = REPLACE_INIT;
	strbuf_adds(&u->path, "");
	strbuf_adds(&u->root, "");
	int fd = openat(o->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "cannot open the directory");
	u->levels[u->n++] = (struct level){.fd = fd};
	int rc = tar_reader_new(&events, u, &u->reader, e);
	if (rc == 0)
		*ret = TAKE_PTR(u);
	return rc;
}

struct unpack *unpack_free(struct unpack *u)
{
	if (!u)
		return NULL;
	replace_abort(&u->file);
	while (u->n > 0)
		leave(u);
	tar_reader_free(u->reader);
	strbuf_done(&u->path);
	strbuf_done(&u->root);
	free(u);
	return NULL;
}

int unpack_feed(struct unpack *u, const void *data, size_t len, struct err *e)
{
	return tar_reader_feed(u->reader, data, len, e);
}

int unpack_finish(struct unpack *u, struct err *e)
{
	int rc = tar_reader_finish(u->reader, e);
	while (rc == 0 && u->n > 0)
		if ((rc = leave(u)) < 0)
			err_errno(e, rc, "cannot finish a directory");
	return rc;
}

uint64_t unpack_files(const struct unpack *u)
{
	return u->files;
}

uint64_t unpack_bytes(const struct unpack *u)
{
	return u->bytes;
}

const char *unpack_path(const struct unpack *u)
{
	return u->path.data;
}
