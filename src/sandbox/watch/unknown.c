// SPDX-License-Identifier: Apache-2.0
// The data and run directories are read once, at the start. Headers of what is unknown hold layers.
#include "sandbox/watch/unknown.h"
#include <fcntl.h>
#include <string.h>
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/table/bells.h"
#include "sandbox/table/statefile.h"
#include "sandbox/table/store.h"
#include "sandbox/watch/settle.h"
#include "shim/shim.h"
#include "snapshot/layer.h"
#include "snapshot/store.h"

int unknown_each_name(struct host *h, const char *path, name_fn f, struct err *e)
{
	_cleanup_closedir_ DIR *d = opendir(path);
	if (!d)
		return errno == ENOENT ? 0 : err_errno(e, errno, "%s", path);
	int rc = 0;
	for (struct dirent *de; rc == 0 && (errno = 0, de = readdir(d));)
		rc = f(h, de->d_name, e);
	return rc == 0 && errno ? err_errno(e, errno, "%s", path) : rc;
}

static bool is_sandbox_dir(const char *name)
{
	return id_is_sandbox(name) && strlen(name) == SANDBOX_ID_LEN;
}

static const char *const words[UNKNOWN_KINDS] = {"shim", "sandbox", "snapshot", "layer"};
const char *unknown_word(unsigned kind)
{
	return words[kind];
}

static struct unknown *add(struct host *h, unsigned kind, const char *name)
{
	struct unknown *list = reallocarray(h->unknown, h->n_unknown + 1, sizeof *list);
	if (!list)
		return NULL;
	log_warn("%s of no row is kept id=%s", words[kind], name);
	h->unknown = list;
	struct unknown *u = &list[h->n_unknown++];
	*u = (struct unknown){.kind = kind};
	snprintf(u->name, sizeof u->name, "%s", name);
	return u;
}

// Its layers are held until it is removed.
static void hold_header(struct host *h, struct unknown *u, const char *path)
{
	_cleanup_(header_freep) struct header *hd = NULL;
	struct err e = {0};
	int rc = header_read(h->data_fd, path, &hd, &e);
	if (rc == -ENOENT)
		return;
	if (rc == 0 && layer_set_of(hd, &u->layers) == 0) {
		refs_hold_layers(h->refs, &u->layers);
		return;
	}
	log_error("damaged header, no layer is removed path=%s error=%s", path, e.text);
	u->damaged = true;
	h->damaged++;
}

// The VMM that a snapshot names, as well.
static void hold_runtime(struct host *h, struct unknown *u, const char *id)
{
	struct snapshot_info info;
	struct err e = {0};
	int rc = snapshot_read_info(h->data_fd, id, &info, &e);
	if (rc == 0 && refs_hold_runtime(h->refs, info.runtime) == 0)
		snprintf(u->runtime, sizeof u->runtime, "%.39s", info.runtime);
	if (rc == 0 || rc == -ENOENT)
		return;
	log_error("damaged snapshot, no VMM is removed snapshot=%s error=%s", id, err_text(&e, rc));
	u->unread = true;
	h->unread++;
}

static int look_at_sandbox(struct host *h, const char *name, struct err *e)
{
	char path[sizeof "sandboxes//" LINEAGE_FILE + 64];
	if (!is_sandbox_dir(name) || host_find(h, name))
		return 0;
	struct unknown *u = add(h, UNKNOWN_SANDBOXES, name);
	if (!u)
		return err_errno(e, ENOMEM, "sandboxes/%s", name);
	snprintf(path, sizeof path, "sandboxes/%.63s/" LINEAGE_FILE, name);
	hold_header(h, u, path);
	return 0;
}

// One that is alive has its slot and its uid.
static int look_at_run_dir(struct host *h, const char *name, struct err *e)
{
	_cleanup_close_ int pidfd = -1;
	struct shim_state st;
	char dir[512];
	if (!is_sandbox_dir(name) || host_find(h, name) || host_run_path(h, name, dir) < 0)
		return 0;
	struct unknown *u = add(h, UNKNOWN_SHIMS, name);
	if (!u)
		return err_errno(e, ENOMEM, "%s", dir);
	u->has_slot = shim_adopt(dir, &st, &pidfd, NULL) == 0 && st.uid >= HOST_UID_BASE;
	u->slot = u->has_slot ? st.uid - HOST_UID_BASE : 0;
	return 0;
}

static bool is_of_an_operation(struct host *h, const char *snapshot)
{
	for (struct sandbox *s = NULL; (s = host_next(h, s));)
		if (s->unsettled && (str_eq(s->unsettled[0].snapshot, snapshot) ||
					    str_eq(s->unsettled[1].snapshot, snapshot)))
			return true;
	return false;
}

static int look_at_snapshot(struct host *h, const char *name, struct err *e)
{
	char id[UUID_SIZE], path[sizeof "snapshots//memory.hdr" + UUID_SIZE];
	snprintf(id, sizeof id, "%.36s", name);
	if (!id_is_uuid(id) || refs_knows_snapshot(h->refs, id) || is_of_an_operation(h, id))
		return 0;
	struct unknown *u = add(h, UNKNOWN_SNAPSHOTS, name);
	if (!u)
		return err_errno(e, ENOMEM, "snapshots/%s", name);
	snprintf(path, sizeof path, "snapshots/%s/memory.hdr", id);
	hold_header(h, u, path);
	hold_runtime(h, u, id);
	return 0;
}

// One that this host made and nobody needs goes; one that is needed is this host's from now on (a
// database of before had no table of layers).
static int look_at_layer(struct host *h, const char *name, struct err *e)
{
	char id[UUID_SIZE];
	bool known;
	snprintf(id, sizeof id, "%.36s", name);
	if (!id_is_uuid(id) || (name[UUID_SIZE - 1] && name[UUID_SIZE - 1] != '.'))
		return 0;
	int rc = store_layer_is_known(h, id, &known, e);
	if (rc < 0)
		return rc;
	bool needed = refs_knows_layer(h->refs, id);
	if (known && !needed) {
		refs_hold_layer(h->refs, id);
		refs_release_layer(h->refs, id);
	} else if (!known && needed) {
		rc = store_layer_add(h, id, e);
	} else if (!known && !name[UUID_SIZE - 1]) {
		if (!add(h, UNKNOWN_LAYERS, id))
			rc = err_errno(e, ENOMEM, "layers/%s", id);
	}
	return rc;
}

int unknown_find_shims(struct host *h, struct err *e)
{
	return unknown_each_name(h, h->run_dir, look_at_run_dir, e);
}

static unsigned count(const struct host *h, unsigned kind)
{
	unsigned n = 0;
	for (size_t i = 0; i < h->n_unknown; i++)
		n += h->unknown[i].kind == kind;
	return n;
}

static void tell(struct host *h)
{
	struct err e = {0};
	int rc = 0;
	if (h->n_unknown) {
		_cleanup_json_ json_t *data = json_pack("{s:i, s:i, s:i, s:i}", "shims",
			(int)count(h, UNKNOWN_SHIMS), "sandboxes", (int)count(h, UNKNOWN_SANDBOXES),
			"snapshots", (int)count(h, UNKNOWN_SNAPSHOTS), "layers",
			(int)count(h, UNKNOWN_LAYERS));
		const struct store_event ev = {.kind = "unknown_kept", .data = data};
		rc = store_apply(h, &(struct store_change){.event = &ev}, &e);
	}
	if (rc == 0 && h->damaged) {
		_cleanup_json_ json_t *data = json_pack("{s:i}", "headers", (int)h->damaged);
		const struct store_event ev = {.kind = "damaged", .data = data};
		rc = store_apply(h, &(struct store_change){.event = &ev}, &e);
	}
	if (rc < 0)
		log_warn("not told what is unknown or damaged error=%s", e.text);
}

int unknown_find(struct host *h, struct err *e)
{
	static const struct {
		const char *dir;
		name_fn look;
	} dirs[] = {{"sandboxes", look_at_sandbox}, {"snapshots", look_at_snapshot},
		{"layers", look_at_layer}};
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(dirs); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", h->data_dir, dirs[i].dir);
		rc = path ? unknown_each_name(h, path, dirs[i].look, e)
			  : err_errno(e, ENOMEM, "%s", dirs[i].dir);
	}
	if (rc == 0)
		tell(h);
	return rc;
}

void unknown_free(struct host *h)
{
	for (size_t i = 0; i < h->n_unknown; i++)
		layer_set_done(&h->unknown[i].layers);
	free(h->unknown);
	h->unknown = NULL;
	h->n_unknown = 0;
}

// --- removing

static int remove_shim(struct host *h, struct unknown *u, struct err *e)
{
	struct slot slot;
	char dir[512];
	if (host_run_path(h, u->name, dir) < 0)
		return err_set(e, ERR_INTERNAL, "run directory path too long");
	int rc = shim_stop(dir, -1, e);
	if (rc < 0)
		return rc;
	if (u->has_slot && slot_pool_adopt(h->slots, u->slot, &slot, NULL) == 0)
		slot_pool_give(h->slots, &slot);
	statefile_remove(h, u->name);
	return 0;
}

static int remove_sandbox(struct host *h, const struct unknown *u, struct err *e)
{
	char path[512];
	int rc = host_disk_path(h, u->name, NULL, path);
	if (rc == 0)
		rc = file_rm_rf(AT_FDCWD, path);
	return rc < 0 ? err_errno(e, rc, "%s", path) : 0;
}

static int remove_layer(struct host *h, const struct unknown *u, struct err *e)
{
	if (refs_knows_layer(h->refs, u->name)) // needed meanwhile: it goes when it is not
		return 0;
	_cleanup_close_ int layers =
		openat(h->data_fd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = layers < 0 ? -errno : layer_remove(layers, u->name);
	return rc < 0 ? err_errno(e, rc, "layers/%s", u->name) : 0;
}

// The names of an attempt's files have a suffix.
static int remove_snapshot(struct host *h, const struct unknown *u, struct err *e)
{
	char path[sizeof "snapshots/" + 64];
	if (id_is_uuid(u->name))
		return snapshot_delete(h->data_fd, u->name, e);
	snprintf(path, sizeof path, "snapshots/%s", u->name);
	int rc = file_rm_rf(h->data_fd, path);
	return rc < 0 ? err_errno(e, rc, "%s", path) : 0;
}

static int remove_one(struct host *h, struct unknown *u, struct err *e)
{
	int rc = 0;
	switch (u->kind) {
	case UNKNOWN_SHIMS:
		return remove_shim(h, u, e);
	case UNKNOWN_SANDBOXES:
		rc = remove_sandbox(h, u, e);
		break;
	case UNKNOWN_SNAPSHOTS:
		rc = remove_snapshot(h, u, e);
		break;
	default:
		return remove_layer(h, u, e);
	}
	if (rc < 0)
		return rc;
	refs_release_layers(h->refs, &u->layers);
	layer_set_done(&u->layers);
	refs_release_runtime(h->refs, u->runtime);
	if (u->damaged)
		h->damaged--;
	if (u->unread)
		h->unread--;
	return 0;
}

// Machines before their files, snapshots before their layers: the kinds' order. What is being
// removed is off the list, so that two calls at once do not meet.
int host_remove_unknown(struct host *h, size_t *ret_n, struct err *e)
{
	struct unknown *list;
	size_t n, removed = 0;
	struct err first = {0};
	pthread_mutex_lock(&h->lock);
	list = h->unknown;
	n = h->n_unknown;
	h->unknown = NULL;
	h->n_unknown = 0;
	pthread_mutex_unlock(&h->lock);
	int rc = 0;
	size_t kept = 0;
	for (unsigned kind = 0; kind < UNKNOWN_KINDS; kind++)
		for (size_t i = 0; i < n; i++) {
			struct err why = {0};
			if (list[i].kind != kind)
				continue;
			int one = remove_one(h, &list[i], &why);
			if (one == 0) {
				log_info("unknown %s removed id=%s", words[kind], list[i].name);
				list[i].name[0] = '\0';
				removed++;
			} else if (rc == 0) {
				rc = one;
				first = why;
			}
		}
	for (size_t i = 0; i < n; i++)
		if (list[i].name[0])
			list[kept++] = list[i];
	pthread_mutex_lock(&h->lock);
	h->unknown = list;
	h->n_unknown = kept;
	pthread_mutex_unlock(&h->lock);
	upkeep_wake(h);
	*ret_n = removed;
	if (rc < 0 && e)
		*e = first;
	return rc;
}
