// SPDX-License-Identifier: Apache-2.0
#include "sandbox/watch/unknown.h"
#include <fcntl.h>
#include <string.h>
#include "base/log.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/table/store.h"
#include "sandbox/watch/settle.h"
#include "snapshot/header.h"

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

// Its layers are held for as long as this server runs.
static void hold_header(struct host *h, const char *path)
{
	_cleanup_(header_freep) struct header *hd = NULL;
	struct layer_set set;
	struct err e = {0};
	int rc = header_read(h->data_fd, path, &hd, &e);
	if (rc == -ENOENT)
		return;
	if (rc == 0 && layer_set_of(hd, &set) == 0) {
		refs_hold_layers(h->refs, &set);
		layer_set_done(&set);
		return;
	}
	log_error("damaged header, no layer is removed path=%s error=%s", path, e.text);
	h->damaged++;
}

static int look_at_sandbox(struct host *h, const char *name, struct err *e)
{
	char path[sizeof "sandboxes//" LINEAGE_FILE + 64];
	if (!is_sandbox_dir(name) || host_find(h, name))
		return 0;
	log_warn("sandbox of no row is kept sandbox=%s", name);
	h->unknown[UNKNOWN_SANDBOXES]++;
	snprintf(path, sizeof path, "sandboxes/%.63s/" LINEAGE_FILE, name);
	hold_header(h, path);
	return 0;
}

static int look_at_run_dir(struct host *h, const char *name, struct err *e)
{
	if (!is_sandbox_dir(name) || host_find(h, name))
		return 0;
	log_warn("run directory of no row is kept sandbox=%s", name);
	h->unknown[UNKNOWN_SHIMS]++;
	return 0;
}

static bool is_of_an_operation(struct host *h, const char *snapshot)
{
	for (struct sandbox *s = NULL; (s = host_next(h, s));)
		if (s->unsettled && str_eq(s->unsettled->snapshot, snapshot))
			return true;
	return false;
}

static int look_at_snapshot(struct host *h, const char *name, struct err *e)
{
	char id[UUID_SIZE], path[sizeof "snapshots//memory.hdr" + UUID_SIZE];
	snprintf(id, sizeof id, "%.36s", name);
	if (!id_is_uuid(id) || refs_knows_snapshot(h->refs, id) || is_of_an_operation(h, id))
		return 0;
	log_warn("snapshot of no row is kept snapshot=%s", name);
	h->unknown[UNKNOWN_SNAPSHOTS]++;
	snprintf(path, sizeof path, "snapshots/%s/memory.hdr", id);
	hold_header(h, path);
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
		h->unknown[UNKNOWN_LAYERS]++;
		log_warn("layer of no row is kept layer=%s", id);
	}
	return rc;
}

int unknown_find(struct host *h, struct err *e)
{
	static const struct {
		const char *dir;
		name_fn look;
	} dirs[] = {{"sandboxes", look_at_sandbox}, {"snapshots", look_at_snapshot},
		{"layers", look_at_layer}};
	int rc = unknown_each_name(h, h->run_dir, look_at_run_dir, e);
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(dirs); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", h->data_dir, dirs[i].dir);
		rc = path ? unknown_each_name(h, path, dirs[i].look, e)
			  : err_errno(e, ENOMEM, "%s", dirs[i].dir);
	}
	return rc;
}
