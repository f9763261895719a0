// SPDX-License-Identifier: Apache-2.0
// How this works. st_blocks counts all blocks of a file, shared ones in each file that has them.
// Where FIEMAP says that extents are shared, their places are noted, and the sweep says whose they
// are; the rest of st_blocks is the file's alone.
#include "sandbox/watch/usage_count.h"
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/macro.h"
#include "disk/extents.h"

#define MAX_DEPTH 6u		   // of what the host makes
#define MAX_EDGES (4u << 20)	   // 64 MiB: two million shared extents
#define LOOKS_AT_CLOCK_EVERY 1024u // extents

void usage_count_done(struct usage_count *u)
{
	free(u->parts);
	free(u->edges);
	*u = (struct usage_count){0};
}

int usage_add_part(struct usage_count *u, const char *kind, const char *id)
{
	if (u->n == u->size) {
		size_t size = MAX(u->size * 2, (size_t)256);
		struct usage_part *more = reallocarray(u->parts, size, sizeof *more);
		if (!more)
			return -ENOMEM;
		u->parts = more;
		u->size = size;
	}
	struct usage_part *p = &u->parts[u->n];
	*p = (struct usage_part){0};
	snprintf(p->kind, sizeof p->kind, "%s", kind);
	snprintf(p->id, sizeof p->id, "%s", id);
	return (int)u->n++;
}

static int go_on(const struct usage_count *u)
{
	if (u->ask && u->ask->stop && u->ask->stop(u->ask->ctx))
		return -ECANCELED;
	return deadline_over(u->deadline_ns) ? -ETIMEDOUT : 0;
}

struct file {
	struct usage_count *u;
	uint32_t part;
	uint64_t shared, left_out;
};

static int note_extent(void *ctx, uint64_t where, uint64_t len)
{
	struct file *f = ctx;
	struct usage_count *u = f->u;
	if (u->n_edges >= MAX_EDGES) {
		u->estimated = true;
		f->left_out += len;
		return 0;
	}
	if (u->n_edges + 2 > u->edges_size) {
		size_t size = MAX(u->edges_size * 2, (size_t)4096);
		struct usage_edge *more = reallocarray(u->edges, size, sizeof *more);
		if (!more)
			return -ENOMEM;
		u->edges = more;
		u->edges_size = size;
	}
	f->shared += len;
	u->edges[u->n_edges++] = (struct usage_edge){where, f->part, 1};
	u->edges[u->n_edges++] = (struct usage_edge){where + len, f->part, -1};
	return u->n_edges % LOOKS_AT_CLOCK_EVERY == 0 ? go_on(u) : 0;
}

static int add_extents(struct usage_count *u, int dirfd, const char *name, struct file *f)
{
	_cleanup_close_ int fd =
		openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0) // gone meanwhile
		return 0;
	int rc = disk_shared_extents(fd, note_extent, f);
	if (rc == -EOPNOTSUPP)
		u->no_extents = true;
	return rc == -ENOMEM || rc == -ECANCELED || rc == -ETIMEDOUT ? rc : 0;
}

int usage_add_file(
	struct usage_count *u, int dirfd, const char *name, size_t part, uint64_t *ret_bytes)
{
	struct stat st;
	struct file f = {.u = u, .part = (uint32_t)part};
	if (ret_bytes)
		*ret_bytes = 0;
	int rc = go_on(u);
	if (rc < 0 || fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return rc;
	uint64_t bytes = (uint64_t)st.st_blocks * 512;
	if (S_ISREG(st.st_mode) && bytes && !u->no_extents)
		rc = add_extents(u, dirfd, name, &f);
	u->parts[part].plain += bytes - MIN(f.shared + f.left_out, bytes);
	u->parts[part].left_out += f.left_out;
	if (ret_bytes)
		*ret_bytes = bytes;
	return rc;
}

static int add_below(
	struct usage_count *u, int dirfd, const char *name, size_t part, unsigned depth)
{
	struct stat st;
	int rc = usage_add_file(u, dirfd, name, part, NULL);
	if (rc < 0 || depth == MAX_DEPTH || fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		!S_ISDIR(st.st_mode))
		return rc;
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		safe_close(fd);
	for (struct dirent *de; rc == 0 && d && (de = readdir(d));)
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
			rc = add_below(u, fd, de->d_name, part, depth + 1);
	return rc;
}

int usage_add_tree(struct usage_count *u, int dirfd, const char *name, size_t part)
{
	return add_below(u, dirfd, name, part, 0);
}

int usage_count_end(struct usage_count *u, size_t target, uint64_t *ret_once)
{
	_cleanup_free_ struct usage_owner *owners = calloc(u->n + 1, sizeof *owners);
	if (!owners)
		return -ENOMEM;
	*ret_once = usage_sweep(u->edges, u->n_edges, owners, u->n, target);
	for (size_t i = 0; i < u->n; i++) {
		struct usage_part *p = &u->parts[i];
		p->bytes = p->plain + p->left_out + owners[i].bytes;
		p->unique = p->plain + owners[i].unique;
		p->common = owners[i].common;
		*ret_once += p->plain;
	}
	return 0;
}
