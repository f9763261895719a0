// SPDX-License-Identifier: Apache-2.0
// What uses the space of the volume. All files are looked at: seconds, where there are very many.
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include "base/str.h"
#include "sandbox/table/table.h"
#include "sandbox/watch/unknown.h"

#define MAX_DEPTH 6u // of what the host makes

static uint64_t blocks_of(int dirfd, const char *name)
{
	struct stat st;
	return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? 0
								  : (uint64_t)st.st_blocks * 512;
}

// What goes away meanwhile counts as nothing.
static uint64_t tree_bytes(int dirfd, const char *name, unsigned depth)
{
	struct stat st;
	uint64_t sum = 0;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	if (!S_ISDIR(st.st_mode) || depth == MAX_DEPTH)
		return (uint64_t)st.st_blocks * 512;
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		safe_close(fd);
	for (struct dirent *de; d && (de = readdir(d));)
		if (!str_eq(de->d_name, ".") && !str_eq(de->d_name, ".."))
			sum += tree_bytes(fd, de->d_name, depth + 1);
	return sum;
}

static uint64_t layer_bytes(const struct host *h, const char *id)
{
	char path[sizeof "layers/.sum" + 64];
	snprintf(path, sizeof path, "layers/%.63s", id);
	uint64_t sum = blocks_of(h->data_fd, path);
	snprintf(path, sizeof path, "layers/%.63s.sum", id);
	return sum + blocks_of(h->data_fd, path);
}

static uint64_t unknown_bytes(const struct host *h, const struct unknown *u)
{
	char path[sizeof "sandboxes/" + 64];
	if (u->kind == UNKNOWN_LAYERS)
		return layer_bytes(h, u->name);
	if (u->kind == UNKNOWN_SHIMS) // its files are a sandbox's
		return 0;
	snprintf(path, sizeof path, "%s/%s",
		u->kind == UNKNOWN_SNAPSHOTS ? "snapshots" : "sandboxes", u->name);
	return tree_bytes(h->data_fd, path, 0);
}

static int copy_unknown(struct host *h, struct unknown **ret, size_t *ret_n, struct err *e)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->lock);
	*ret_n = MIN(h->n_unknown, HOST_UNKNOWN_MAX);
	*ret = calloc(*ret_n + 1, sizeof **ret);
	if (!*ret)
		return err_errno(e, ENOMEM, "list of what is unknown");
	memcpy(*ret, h->unknown, *ret_n * sizeof **ret);
	return 0;
}

struct sum {
	struct host *h;
	struct host_usage *u;
	const struct unknown *unknown;
	size_t n_unknown;
};

static bool is_unknown(const struct sum *s, unsigned kind, const char *name)
{
	for (size_t i = 0; i < s->n_unknown; i++)
		if (s->unknown[i].kind == kind && str_eq(s->unknown[i].name, name))
			return true;
	return false;
}

static void add_sandbox(struct sum *s, const char *name)
{
	if (is_unknown(s, UNKNOWN_SANDBOXES, name))
		return;
	char path[sizeof "sandboxes/" + 256];
	snprintf(path, sizeof path, "sandboxes/%s", name);
	s->u->sandboxes++;
	s->u->sandbox_bytes += tree_bytes(s->h->data_fd, path, 0);
}

static void add_snapshot(struct sum *s, const char *name)
{
	if (is_unknown(s, UNKNOWN_SNAPSHOTS, name))
		return;
	char path[sizeof "snapshots/" + 256];
	snprintf(path, sizeof path, "snapshots/%s", name);
	s->u->snapshots++;
	s->u->snapshot_bytes += tree_bytes(s->h->data_fd, path, 0);
}

static void add_layer(struct sum *s, const char *name)
{
	if (!id_is_uuid(name) || is_unknown(s, UNKNOWN_LAYERS, name)) // sums are counted with it
		return;
	uint64_t bytes = layer_bytes(s->h, name);
	s->u->layers++;
	if (refs_layer_users(s->h->refs, name) > 1)
		s->u->shared_layer_bytes += bytes;
	else
		s->u->own_layer_bytes += bytes;
}

static int each(
	struct sum *s, const char *dir, void (*f)(struct sum *s, const char *name), struct err *e)
{
	int fd = openat(s->h->data_fd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		int errnum = errno;
		safe_close(fd);
		return err_errno(e, errnum, "%s", dir);
	}
	for (struct dirent *de; (de = readdir(d));)
		if (de->d_name[0] != '.')
			f(s, de->d_name);
	return 0;
}

int host_usage(struct host *h, struct host_usage *ret, struct host_unknown **ret_list,
	size_t *ret_n, struct err *e)
{
	_cleanup_free_ struct unknown *unknown = NULL;
	struct statvfs fs;
	struct sum s = {.h = h, .u = ret};
	*ret = (struct host_usage){0};
	int rc = copy_unknown(h, &unknown, &s.n_unknown, e);
	if (rc < 0)
		return rc;
	s.unknown = unknown;
	_cleanup_free_ struct host_unknown *list = calloc(s.n_unknown + 1, sizeof *list);
	if (!list)
		return err_errno(e, ENOMEM, "list of what is unknown");
	for (size_t i = 0; i < s.n_unknown; i++) {
		snprintf(list[i].kind, sizeof list[i].kind, "%s", unknown_word(unknown[i].kind));
		snprintf(list[i].id, sizeof list[i].id, "%s", unknown[i].name);
		list[i].bytes = unknown_bytes(h, &unknown[i]);
		ret->unknown_bytes += list[i].bytes;
	}
	ret->unknown = s.n_unknown;
	rc = each(&s, "sandboxes", add_sandbox, e);
	if (rc == 0)
		rc = each(&s, "snapshots", add_snapshot, e);
	if (rc == 0)
		rc = each(&s, "layers", add_layer, e);
	if (rc == 0 && fstatvfs(h->data_fd, &fs) < 0)
		rc = err_errno(e, errno, "%s", h->data_dir);
	if (rc < 0)
		return rc;
	ret->image_bytes = tree_bytes(h->data_fd, "templates", 0) +
			   tree_bytes(h->data_fd, "kernels", 0) +
			   tree_bytes(h->data_fd, "runtime", 0);
	ret->total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
	ret->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	*ret_list = TAKE_PTR(list);
	*ret_n = s.n_unknown;
	return 0;
}
