// SPDX-License-Identifier: Apache-2.0
#include "sandbox/watch/usage_look.h"
#include <fcntl.h>
#include <string.h>
#include "base/str.h"
#include "sandbox/table/store.h"
#include "sandbox/watch/unknown.h"

void usage_work_done(struct usage_work *w)
{
	usage_count_done(&w->u);
	free(w->unknown);
	free(w->boxes);
	free(w->snaps);
	free(w->needs);
	free(w->first);
}

static int by_id(const void *a, const void *b)
{
	return strcmp(((const struct usage_place *)a)->id, ((const struct usage_place *)b)->id);
}

static int by_need(const void *a, const void *b)
{
	const struct usage_need *x = a, *y = b;
	int c = strcmp(x->id, y->id);
	return c ? c : x->part < y->part ? -1 : x->part > y->part;
}

static size_t find(const struct usage_place *list, size_t n, const char *id, size_t otherwise)
{
	struct usage_place key = {0};
	snprintf(key.id, sizeof key.id, "%s", id);
	const struct usage_place *p = n ? bsearch(&key, list, n, sizeof *list, by_id) : NULL;
	return p ? p->part : otherwise;
}

static size_t find_image(const struct usage_work *w, const char *name)
{
	for (size_t i = USAGE_ITEMS; i < w->u.n; i++)
		if (str_eq(w->u.parts[i].kind, "image") && str_eq(w->u.parts[i].id, name))
			return i;
	return USAGE_PENDING;
}

static int need_layers(struct usage_work *w, const struct layer_set *s, size_t part)
{
	if (w->n_needs + s->n > w->needs_size) {
		size_t size = MAX(w->needs_size * 2, w->n_needs + s->n + 1024);
		struct usage_need *more = reallocarray(w->needs, size, sizeof *more);
		if (!more)
			return -ENOMEM;
		w->needs = more;
		w->needs_size = size;
	}
	for (uint32_t i = 0; i < s->n; i++) {
		struct usage_need *n = &w->needs[w->n_needs++];
		memcpy(n->id, s->ids[i], sizeof n->id);
		n->part = (uint32_t)part;
	}
	return 0;
}

static int each(struct usage_work *w, const char *dir,
	int (*f)(struct usage_work *w, int dirfd, const char *name), struct err *e)
{
	int rc = 0, fd = openat(w->h->data_fd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		int errnum = errno;
		safe_close(fd);
		return errnum == ENOENT ? 0 : err_errno(e, errnum, "%s", dir);
	}
	for (struct dirent *de; rc == 0 && (de = readdir(d));)
		if (!str_eq(de->d_name, ".") && !str_eq(de->d_name, ".."))
			rc = f(w, fd, de->d_name);
	return rc < 0 ? err_errno(e, rc, "%s", dir) : 0;
}

// --- who is there, and needs which layers

static int copy_unknown(struct usage_work *w)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&w->h->lock);
	w->unknown = calloc(w->h->n_unknown + 1, sizeof *w->unknown);
	if (!w->unknown)
		return -ENOMEM;
	int rc = 0;
	for (; rc == 0 && w->n_unknown < w->h->n_unknown; w->n_unknown++) {
		w->unknown[w->n_unknown] = w->h->unknown[w->n_unknown];
		rc = need_layers(w, &w->unknown[w->n_unknown].layers, USAGE_UNKNOWN);
	}
	return rc;
}

static int add_image(struct usage_work *w, int dirfd, const char *name)
{
	int rc = name[0] == '.' ? 0 : usage_add_part(&w->u, "image", name);
	return MIN(rc, 0);
}

static int copy_sandboxes(struct usage_work *w)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&w->h->lock);
	int rc = 0;
	w->boxes = calloc(w->h->n_sandboxes + 1u, sizeof *w->boxes);
	if (!w->boxes)
		return -ENOMEM;
	for (const struct sandbox *s = NULL; rc == 0 && (s = host_next(w->h, s));) {
		int part = s->hidden ? (int)find_image(w, s->info.template)
			   : s->info.state == SANDBOX_STOPPED // its console, for an hour
				   ? USAGE_PENDING
				   : usage_add_part(&w->u, "sandbox", s->info.id);
		if (part < 0)
			return part;
		struct usage_place *p = &w->boxes[w->n_boxes++];
		snprintf(p->id, sizeof p->id, "%s", s->info.id);
		p->part = (uint32_t)part;
		rc = need_layers(w, &s->base, (size_t)part);
	}
	qsort(w->boxes, w->n_boxes, sizeof *w->boxes, by_id);
	return rc;
}

static int snapshot_part(struct usage_work *w, const struct host_snapshot *s)
{
	if (str_eq(s->kind, "template"))
		return usage_add_part(&w->u, "snapshot", s->id);
	if (str_eq(s->kind, "frozen"))
		return (int)find_image(w, s->template);
	return (int)find(w->boxes, w->n_boxes, s->sandbox, USAGE_PENDING);
}

static int list_snapshots(struct usage_work *w, struct err *e)
{
	_cleanup_free_ struct store_snapshot *list = NULL;
	size_t n = 0;
	int rc = store_list_snapshots(w->h, NULL, NULL, NULL, &list, &n, e);
	if (rc < 0)
		return rc;
	w->snaps = calloc(n + w->n_unknown + 1, sizeof *w->snaps);
	for (size_t i = 0; w->snaps && rc == 0 && i < n; i++) {
		struct layer_set layers = {0};
		int part = snapshot_part(w, &list[i].info);
		rc = part < 0 ? part : refs_snapshot_layers(w->h->refs, list[i].info.id, &layers);
		if (rc == 0)
			rc = need_layers(w, &layers, (size_t)part);
		layer_set_done(&layers);
		struct usage_place *p = &w->snaps[w->n_snaps++];
		snprintf(p->id, sizeof p->id, "%s", list[i].info.id);
		p->part = (uint32_t)MAX(part, 0);
	}
	for (size_t i = 0; w->snaps && i < w->n_unknown; i++)
		if (w->unknown[i].kind == UNKNOWN_SNAPSHOTS) {
			struct usage_place *p = &w->snaps[w->n_snaps++];
			snprintf(p->id, sizeof p->id, "%s", w->unknown[i].name);
			p->part = USAGE_UNKNOWN;
		}
	if (w->snaps)
		qsort(w->snaps, w->n_snaps, sizeof *w->snaps, by_id);
	return w->snaps && rc == 0 ? 0 : err_errno(e, w->snaps ? rc : ENOMEM, "snapshots");
}

// A part for each layer of several; of the others the one who needs it is it.
static int sort_needs(struct usage_work *w)
{
	size_t n = 0;
	if (w->n_needs)
		qsort(w->needs, w->n_needs, sizeof *w->needs, by_need);
	for (size_t i = 0; i < w->n_needs; i++)
		if (!n || by_need(&w->needs[n - 1], &w->needs[i]) != 0)
			w->needs[n++] = w->needs[i];
	w->n_needs = n;
	w->n_items = w->u.n;
	w->first = calloc(n + 1, sizeof *w->first);
	if (!w->first)
		return -ENOMEM;
	for (size_t i = 0; i + 1 < n; i++)
		if (str_eq(w->needs[i].id, w->needs[i + 1].id) &&
			(!i || !str_eq(w->needs[i - 1].id, w->needs[i].id))) {
			if (usage_add_part(&w->u, "", w->needs[i].id) < 0)
				return -ENOMEM;
			w->first[w->n_several++] = i;
		}
	return 0;
}

// --- the files

static bool is_unknown(const struct usage_work *w, unsigned kind, const char *name)
{
	for (size_t i = 0; i < w->n_unknown; i++)
		if (w->unknown[i].kind == kind && str_eq(w->unknown[i].name, name))
			return true;
	return false;
}

static int add_sandbox(struct usage_work *w, int dirfd, const char *name)
{
	size_t part = find(w->boxes, w->n_boxes, name,
		is_unknown(w, UNKNOWN_SANDBOXES, name) ? USAGE_UNKNOWN : USAGE_PENDING);
	return usage_add_tree(&w->u, dirfd, name, part);
}

static int add_snapshot(struct usage_work *w, int dirfd, const char *name)
{
	return usage_add_tree(&w->u, dirfd, name, find(w->snaps, w->n_snaps, name, USAGE_PENDING));
}

static int add_image_files(struct usage_work *w, int dirfd, const char *name)
{
	return usage_add_tree(&w->u, dirfd, name, find_image(w, name));
}

// Index of the part of several that a layer is, the one that needs it, or USAGE_PENDING or
// USAGE_UNKNOWN.
static size_t layer_part(const struct usage_work *w, const char *id, bool *ret_several)
{
	struct usage_need key = {0};
	*ret_several = false;
	snprintf(key.id, sizeof key.id, "%s", id);
	size_t low = 0, high = w->n_needs;
	while (low < high) {
		size_t mid = (low + high) / 2;
		if (strcmp(w->needs[mid].id, key.id) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	if (low == w->n_needs || !str_eq(w->needs[low].id, key.id))
		return is_unknown(w, UNKNOWN_LAYERS, id) ? USAGE_UNKNOWN : USAGE_PENDING;
	for (size_t a = 0, b = w->n_several; a < b;) {
		size_t mid = (a + b) / 2;
		if (w->first[mid] == low) {
			*ret_several = true;
			return w->n_items + mid;
		}
		if (w->first[mid] < low)
			a = mid + 1;
		else
			b = mid;
	}
	return w->needs[low].part;
}

static int add_layer(struct usage_work *w, int dirfd, const char *name)
{
	char id[UUID_SIZE];
	uint64_t bytes;
	bool several, sums = str_ends(name, ".sum");
	snprintf(id, sizeof id, "%s", name); // without what follows the id
	if (!id_is_uuid(id) || (!sums && strlen(name) != strlen(id)))
		return usage_add_file(&w->u, dirfd, name, USAGE_PENDING, NULL);
	size_t part = layer_part(w, id, &several);
	int rc = usage_add_file(&w->u, dirfd, name, part, &bytes);
	struct usage_part *p = &w->u.parts[part];
	p->memory += bytes;
	if (part >= USAGE_ITEMS && !several) {
		p->own_layers += bytes;
		p->layers += !sums;
	}
	w->sum.layers += !sums && part >= USAGE_ITEMS;
	*(several ? &w->sum.shared_layer_bytes : &w->sum.own_layer_bytes) +=
		part >= USAGE_ITEMS ? bytes : 0;
	return rc;
}

static int add_top(struct usage_work *w, int dirfd, const char *name)
{
	struct stat st;
	static const char *const counted[] = {"sandboxes", "snapshots", "layers", "templates"};
	for (size_t i = 0; i < ARRAY_SIZE(counted); i++)
		if (str_eq(name, counted[i]))
			return 0;
	if (str_eq(name, "kernels") || str_eq(name, "runtime") || str_eq(name, "programs"))
		return usage_add_tree(&w->u, dirfd, name, USAGE_PROGRAMS);
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
		return usage_add_file(&w->u, dirfd, name, USAGE_DATABASES, NULL);
	return 0; // somebody else's
}

int usage_look(struct usage_work *w, struct err *e)
{
	for (size_t i = 0; i < USAGE_ITEMS; i++)
		if (usage_add_part(&w->u, "", "") < 0)
			return err_errno(e, ENOMEM, "usage");
	int rc = each(w, "templates", add_image, e);
	if (rc == 0 && (rc = copy_unknown(w)) < 0)
		err_errno(e, rc, "usage");
	if (rc == 0 && (rc = copy_sandboxes(w)) < 0)
		err_errno(e, rc, "usage");
	if (rc == 0)
		rc = list_snapshots(w, e);
	if (rc == 0 && (rc = sort_needs(w)) < 0)
		err_errno(e, rc, "usage");
	if (rc == 0)
		rc = each(w, "sandboxes", add_sandbox, e);
	if (rc == 0)
		rc = each(w, "snapshots", add_snapshot, e);
	if (rc == 0)
		rc = each(w, "layers", add_layer, e);
	if (rc == 0)
		rc = each(w, "templates", add_image_files, e);
	return rc == 0 ? each(w, ".", add_top, e) : rc;
}
