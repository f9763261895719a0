// SPDX-License-Identifier: Apache-2.0
#include "collect.h"
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/fault.h"
#include "base/file.h"
#include "snapshot/layer.h"
#include "snapshot/store.h"

struct found {
	char id[UUID_SIZE];
	bool keep;
};

struct collection {
	int data_fd;
	struct found *found; // sorted by id, each once
	size_t n, cap;
	struct err *e;
};

static int compare_found(const void *a, const void *b)
{
	return strcmp(((const struct found *)a)->id, ((const struct found *)b)->id);
}

static int add(struct collection *c, const char *id)
{
	if (c->n == c->cap) {
		size_t cap = c->cap ? c->cap * 2 : 64;
		struct found *p = reallocarray(c->found, cap, sizeof *p);
		if (!p)
			return -ENOMEM;
		c->found = p;
		c->cap = cap;
	}
	struct found *f = &c->found[c->n++];
	*f = (struct found){0};
	memcpy(f->id, id, UUID_SIZE - 1);
	return 0;
}

// Every file whose name begins with a layer's id: <id>, <id>.tmp, <id>.sum, <id>.sum.tmp.
static int list_layers(struct collection *c, int layers_fd)
{
	int fd = openat(layers_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(c->e, errno, "layers");
	_cleanup_closedir_ DIR *d = fdopendir(fd);
	if (!d) {
		safe_close(fd);
		return err_errno(c->e, ENOMEM, "layers");
	}
	for (;;) {
		errno = 0;
		struct dirent *de = readdir(d);
		if (!de && errno)
			return err_errno(c->e, errno, "layers");
		if (!de)
			break;
		char id[UUID_SIZE];
		snprintf(id, sizeof id, "%.36s", de->d_name);
		const char *rest = de->d_name + strlen(id);
		if (id_is_uuid(id) && (*rest == '\0' || *rest == '.') && add(c, id) < 0)
			return err_errno(c->e, ENOMEM, "layers");
	}
	if (c->n == 0)
		return 0;
	qsort(c->found, c->n, sizeof *c->found, compare_found);
	size_t n = 1;
	for (size_t i = 1; i < c->n; i++)
		if (strcmp(c->found[i].id, c->found[n - 1].id) != 0)
			c->found[n++] = c->found[i];
	c->n = n;
	return 0;
}

static int keep_header(struct collection *c, const char *path)
{
	_cleanup_(header_freep) struct header *h = NULL;
	int r = header_read(c->data_fd, path, &h, c->e);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < h->n_layers; i++) {
		struct found key = {0}, *f;
		memcpy(key.id, h->layers[i], UUID_SIZE);
		f = bsearch(&key, c->found, c->n, sizeof key, compare_found);
		if (f)
			f->keep = true;
	}
	return 0;
}

// A half-made snapshot counts as well once it has a header: its operation may still be at work.
static int keep_snapshot(void *ctx, const char *id, bool complete)
{
	struct collection *c = ctx;
	char path[sizeof "snapshots//snapshot.json" + UUID_SIZE];
	snprintf(path, sizeof path, "snapshots/%.36s/memory.hdr", id);
	int r = keep_header(c, path);
	if (r != -ENOENT)
		return r;
	if (!complete)
		return 0;
	// Deleted since it was listed: its layers are nobody's. Deletion begins with snapshot.json,
	// so a missing header beside it is damage.
	snprintf(path, sizeof path, "snapshots/%.36s/snapshot.json", id);
	int there = file_there(c->data_fd, path);
	if (there < 0)
		return err_errno(c->e, there, "%s", path);
	return there ? r : 0;
}

static int keep_headers(struct collection *c, const struct collect_roots *roots)
{
	char **paths = NULL;
	size_t n = 0;
	int r = roots->headers ? roots->headers(roots->ctx, &paths, &n, c->e) : 0;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = keep_header(c, paths[i]);
	for (size_t i = 0; i < n; i++)
		free(paths[i]);
	free(paths);
	return r == 0 ? snapshot_list(c->data_fd, keep_snapshot, c, c->e) : r;
}

static uint64_t blocks_of(int layers_fd, const char *id)
{
	char sums[UUID_SIZE + 4];
	snprintf(sums, sizeof sums, "%.36s.sum", id);
	struct stat a = {0}, b = {0};
	if (fstatat(layers_fd, id, &a, AT_SYMLINK_NOFOLLOW) < 0)
		a.st_blocks = 0;
	if (fstatat(layers_fd, sums, &b, AT_SYMLINK_NOFOLLOW) < 0)
		b.st_blocks = 0;
	return (uint64_t)(a.st_blocks + b.st_blocks) * 512;
}

int collect_layers(
	int data_fd, const struct collect_roots *roots, struct collect_stats *ret, struct err *e)
{
	_cleanup_close_ int layers_fd =
		openat(data_fd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (layers_fd < 0)
		return err_errno(e, errno, "layers");
	struct collection c = {.data_fd = data_fd, .e = e};
	struct collect_stats stats = {0};
	int r = list_layers(&c, layers_fd);
	for (size_t i = 0; r == 0 && roots->named && i < c.n; i++)
		c.found[i].keep = roots->named(roots->ctx, c.found[i].id);
	if (r == 0)
		r = keep_headers(&c, roots);
	if (r < 0)
		r = err_prefix(e, r, "no layer was removed");
	for (size_t i = 0; r == 0 && i < c.n; i++) {
		if (c.found[i].keep) {
			stats.kept++;
			continue;
		}
		uint64_t bytes = blocks_of(layers_fd, c.found[i].id);
		r = fault_hit("collect.before_remove", e);
		if (r == 0 && (r = layer_remove(layers_fd, c.found[i].id)) < 0)
			r = err_errno(e, r, "layers/%s", c.found[i].id);
		if (r == 0) {
			stats.removed++;
			stats.removed_bytes += bytes;
		}
	}
	free(c.found);
	if (r < 0)
		return r;
	*ret = stats;
	return 0;
}
