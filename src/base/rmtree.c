// SPDX-License-Identifier: Apache-2.0
// file_rm_rf: removal of a tree that somebody else may have made, and may still be changing.
//
// How this works. One loop, depth first, with a level for each directory between the top and where
// it is. The top stays open, and so do the deepest OPEN_LEVELS; a level further up is closed when
// it is left behind and opened again as ".." of its child, which must then be the very directory
// that was left: when it is not, somebody has moved what is being removed, and the walk begins
// anew at the top. A tree deeper than DEPTH_MAX is cut: what lies below is renamed to a new name in
// the top, and its turn comes there. So descriptors, memory and stack have bounds that no tree can
// move, and each directory is visited a bounded number of times.
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/id.h"

#define DEPTH_MAX 1024	    // a path (4,096 bytes) cannot be much deeper
#define OPEN_LEVELS 8	    // so that wide directories with small trees in them are read once
#define PASSES_MAX 16	    // through one directory that somebody fills while it is emptied
#define RESTARTS_MAX 16	    // after somebody moved a directory away
#define HOIST_PREFIX ".rm-" // what a cut-off tree is called in the top, with a random number

struct level {
	DIR *d; // NULL: closed for now, to go on at pos
	ino_t ino;
	long pos;
	unsigned passes;
	bool progress;		 // this pass has removed something
	bool kept;		 // something in it stays: no need to try to remove it
	char name[NAME_MAX + 1]; // in the level above; of the top: unused
};

struct walk {
	int top;
	dev_t dev;
	struct level *levels;
	size_t n, room;
	unsigned restarts;
	bool hoisted; // since the top was last read from its start
	int rc;	      // the first error
};

static void walk_done(struct walk *w)
{
	for (size_t i = 0; i < w->n; i++)
		if (w->levels[i].d)
			closedir(w->levels[i].d);
	free(w->levels);
	safe_close(w->top);
}

static struct level *deepest(struct walk *w)
{
	return &w->levels[w->n - 1];
}

static void keep(struct walk *w, int rc)
{
	deepest(w)->kept = true;
	if (w->rc == 0)
		w->rc = rc;
}

// Adds a level for the directory fd, which is then the level's.
static int push(struct walk *w, int fd, ino_t ino, const char *name)
{
	_cleanup_close_ int own = fd;
	if (w->n == w->room) {
		size_t room = w->room ? 2 * w->room : 2 * OPEN_LEVELS;
		struct level *more = reallocarray(w->levels, room, sizeof *more);
		if (!more)
			return -ENOMEM;
		w->levels = more;
		w->room = room;
	}
	struct level *l = &w->levels[w->n];
	*l = (struct level){.d = fdopendir(own), .ino = ino};
	if (!l->d)
		return -errno;
	TAKE_FD(own);
	snprintf(l->name, sizeof l->name, "%s", name);
	w->n++;
	if (w->n > OPEN_LEVELS) {
		struct level *old = &w->levels[w->n - OPEN_LEVELS - 1];
		if (old->d) {
			old->pos = telldir(old->d);
			closedir(old->d);
			old->d = NULL;
		}
	}
	return 0;
}

// Moves name, below a level that is as deep as it may be, up into the top.
static int hoist(struct walk *w, int dir, const char *name)
{
	unsigned char r[8];
	char hex[2 * sizeof r + 1], to[sizeof HOIST_PREFIX + sizeof hex];
	id_random_bytes(r, sizeof r); // no name that is there, or that anybody knows
	id_hex(r, sizeof r, hex);
	snprintf(to, sizeof to, HOIST_PREFIX "%s", hex);
	if (renameat(dir, name, w->top, to) < 0)
		return errno == ENOENT ? 0 : -errno;
	w->hoisted = true;
	return 0;
}

// A directory that is not empty: becomes the next level.
static int descend(struct walk *w, int dir, const char *name)
{
	struct stat st, up;
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_dev != w->dev)
		return -EBUSY;
	// The way back up has to be open, before it is the only one.
	if (fstatat(fd, "..", &up, 0) < 0)
		return -errno;
	if (w->n >= DEPTH_MAX)
		return hoist(w, dir, name);
	return push(w, TAKE_FD(fd), st.st_ino, name);
}

static int remove_entry(struct walk *w, const struct dirent *de)
{
	int dir = dirfd(deepest(w)->d);
	bool is_dir = de->d_type == DT_DIR;
	if (!is_dir && unlinkat(dir, de->d_name, 0) < 0) {
		if (errno == ENOENT)
			return 0;
		struct stat st;
		int rc = -errno;
		if ((rc != -EISDIR && rc != -EPERM) ||
			fstatat(dir, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			!S_ISDIR(st.st_mode))
			return rc;
		is_dir = true;
	}
	// First of all, for it also tells a mount point, of which nothing may be touched.
	if (is_dir && unlinkat(dir, de->d_name, AT_REMOVEDIR) < 0) {
		if (errno == ENOTEMPTY || errno == EEXIST)
			return descend(w, dir, de->d_name);
		return errno == ENOENT ? 0 : -errno;
	}
	deepest(w)->progress = true;
	return 0;
}

// Reads the deepest directory from its start. Opened anew: what ext4 tells after rewinddir of a
// directory that was first read at its end (seekdir) is nothing.
static int reread(struct walk *w, int fd_from)
{
	struct level *l = deepest(w);
	_cleanup_close_ int fd = openat(fd_from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return -errno;
	TAKE_FD(fd);
	if (l->d)
		closedir(l->d);
	l->d = d;
	l->progress = false;
	return 0;
}

// Begins again at the top, with what is left.
static int restart(struct walk *w)
{
	if (++w->restarts > RESTARTS_MAX)
		return -EBUSY;
	for (; w->n > 1; w->n--)
		if (deepest(w)->d)
			closedir(deepest(w)->d);
	return reread(w, w->top);
}

// Opens the level above the deepest again, if it was closed. 1: it is not where it was.
static int open_above(struct walk *w)
{
	struct level *l = &w->levels[w->n - 2];
	struct stat st;
	if (l->d)
		return 0;
	_cleanup_close_ int fd =
		openat(dirfd(deepest(w)->d), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_dev != w->dev || st.st_ino != l->ino)
		return 1;
	if (!(l->d = fdopendir(fd)))
		return -errno;
	TAKE_FD(fd);
	seekdir(l->d, l->pos);
	return 0;
}

// At the end of a directory: 1 when it is to be read once more, which has begun.
static int again(struct walk *w)
{
	struct level *l = deepest(w);
	if (w->n == 1 && w->hoisted)
		w->hoisted = false;
	else if (!l->progress || l->kept || ++l->passes > PASSES_MAX)
		return 0;
	int rc = reread(w, dirfd(l->d));
	return rc < 0 ? rc : 1;
}

// The deepest directory has been read to its end.
static int ascend(struct walk *w)
{
	int rc = open_above(w);
	if (rc)
		return rc < 0 ? rc : restart(w);
	struct level *l = deepest(w), *above = l - 1;
	if (!l->kept && unlinkat(dirfd(above->d), l->name, AT_REMOVEDIR) < 0 && errno != ENOENT) {
		int why = -errno;
		rc = why == -ENOTEMPTY || why == -EEXIST ? again(w) : 0;
		if (rc)
			return rc < 0 ? rc : 0;
		keep(w, why);
	}
	if (l->kept)
		above->kept = true;
	else
		above->progress = true;
	closedir(l->d);
	w->n--;
	return 0;
}

// Removes what is in the top; 0 when nothing in it had to stay.
static int walk_tree(struct walk *w)
{
	for (;;) {
		errno = 0;
		struct dirent *de = readdir(deepest(w)->d);
		int rc = 0;
		if (de) {
			if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
				rc = remove_entry(w, de);
			if (rc < 0)
				keep(w, rc);
			continue;
		}
		if (errno && errno != ENOENT)
			keep(w, -errno);
		if (w->n > 1)
			rc = ascend(w);
		else if (!w->hoisted || (rc = again(w)) == 0)
			return w->rc;
		if (rc < 0)
			return rc;
	}
}

static int rm_tree(int parent, const char *name)
{
	_cleanup_(walk_done) struct walk w = {.top = -1};
	struct stat st;
	w.top = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (w.top < 0 || fstat(w.top, &st) < 0)
		return -errno;
	w.dev = st.st_dev;
	int fd = openat(w.top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 ? -errno : push(&w, fd, st.st_ino, "");
	for (unsigned pass = 0; rc == 0; pass++) {
		if ((rc = walk_tree(&w)) < 0 || unlinkat(parent, name, AT_REMOVEDIR) == 0)
			break;
		rc = -errno;
		// Somebody adds to it, or a level that was opened again was not read to its end.
		if ((rc == -ENOTEMPTY || rc == -EEXIST) && pass < PASSES_MAX)
			rc = reread(&w, w.top);
	}
	return rc;
}

int file_rm_rf(int dirfd, const char *path)
{
	struct stat st;
	if (fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	int dir = S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0;
	int rc = unlinkat(dirfd, path, dir) < 0 ? -errno : 0;
	if (dir && (rc == -ENOTEMPTY || rc == -EEXIST))
		rc = rm_tree(dirfd, path);
	return rc == -ENOENT ? 0 : rc;
}
