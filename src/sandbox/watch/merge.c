// SPDX-License-Identifier: Apache-2.0
// A merged layer is made beside those it replaces; then the header is replaced, and those are
// released.
#include "sandbox/watch/merge.h"
#include <fcntl.h>
#include <string.h>
#include "base/fault.h"
#include "base/log.h"
#include "sandbox/machine/lineage.h"
#include "sandbox/table/store.h"
#include "snapshot/layer.h"
#include "snapshot/merge.h"
#include "snapshot/store.h"

#define CHAIN_MAX 8u // layers; above that it is merged

// The new layer is held until refs_release_layer.
static int merge(struct host *h, const struct header *from, char id[UUID_SIZE], struct header **ret,
	struct err *e)
{
	_cleanup_close_ int layers =
		openat(h->data_fd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (layers < 0)
		return err_errno(e, errno, "layers");
	id_new_uuid(id);
	int rc = store_layer_add(h, id, e);
	if (rc < 0)
		return rc;
	if ((rc = refs_hold_layer(h->refs, id)) < 0)
		return err_errno(e, rc, "layer");
	if ((rc = layer_merge(from, layers, id, ret, e)) < 0)
		refs_release_layer(h->refs, id);
	return rc;
}

static void log_merge(
	const char *what, const char *id, const struct header *from, const struct header *to)
{
	log_info("layers merged %s=%s layers=%u layer=%s bytes=%lu", what, id, from->n_layers,
		to->n_layers ? to->layers[0] : "none", header_data_bytes(to));
}

static uint32_t most_layers(const char *kind)
{
	return str_eq(kind, "pause") ? CHAIN_MAX : str_eq(kind, "checkpoint") ? UINT32_MAX : 1;
}

static int merge_used(struct host *h, const char *id, uint32_t max, struct err *e)
{
	_cleanup_(header_freep) struct header *from = NULL, *to = NULL;
	char path[sizeof "snapshots//memory.hdr" + UUID_SIZE], layer[UUID_SIZE];
	snprintf(path, sizeof path, "snapshots/%.36s/memory.hdr", id);
	int rc = header_read(h->data_fd, path, &from, e);
	if (rc < 0 || from->n_layers <= max)
		return rc;
	if ((rc = merge(h, from, layer, &to, e)) < 0)
		return rc;
	rc = fault_hit("upkeep.after_merge", e);
	if (rc == 0)
		rc = snapshot_replace_header(h->data_fd, id, to, e);
	if (rc == 0 && (rc = refs_add_snapshot(h->refs, id, to)) < 0)
		err_errno(e, rc, "snapshot");
	refs_release_layer(h->refs, layer);
	if (rc == 0)
		log_merge("snapshot", id, from, to);
	return rc;
}

int merge_snapshot(struct host *h, const char *id, struct err *e)
{
	struct store_snapshot row;
	struct layer_set used;
	struct err why = {0};
	if (store_get_snapshot(h, id, &row, &why) < 0 || refs_use_snapshot(h->refs, id, &used) < 0)
		return 0; // it has been deleted
	uint32_t max = most_layers(row.info.kind);
	int rc = used.n > max ? merge_used(h, id, max, e) : 0;
	refs_unuse_snapshot(h->refs, id, &used);
	return rc;
}

// Claimed: it is replaced only while no operation has the sandbox, and only if it is still what was
// merged.
static int replace_base(struct host *h, struct sandbox *s, const struct header *from,
	const struct header *to, struct err *e)
{
	_cleanup_(header_freep) struct header *now = NULL;
	int rc = lineage_read(h, s, &now, e);
	if (rc == 0 && !str_eq(now->image, from->image))
		return -EAGAIN;
	return rc < 0 ? rc : lineage_write(h, s, to, e);
}

void merge_base(struct host *h, const char *id)
{
	_cleanup_(header_freep) struct header *from = NULL, *to = NULL;
	char path[sizeof "sandboxes//" LINEAGE_FILE + 64], layer[UUID_SIZE];
	struct err e = {0};
	pthread_mutex_lock(&h->lock);
	struct sandbox *s = host_find(h, id);
	bool is_long = s && !s->operation && s->base.n > CHAIN_MAX;
	pthread_mutex_unlock(&h->lock);
	snprintf(path, sizeof path, "sandboxes/%.63s/" LINEAGE_FILE, id);
	if (!is_long || header_read(h->data_fd, path, &from, &e) < 0)
		return;
	int rc = merge(h, from, layer, &to, &e);
	if (rc < 0) {
		log_warn("not merged sandbox=%s error=%s", id, e.text);
		return;
	}
	pthread_mutex_lock(&h->lock);
	s = host_find(h, id);
	bool ours = s && !s->operation && s->info.state == SANDBOX_RUNNING;
	if (ours)
		s->operation = "merge";
	pthread_mutex_unlock(&h->lock);
	if (ours) {
		rc = replace_base(h, s, from, to, &e);
		pthread_mutex_lock(&h->lock);
		host_release(h, s);
		pthread_mutex_unlock(&h->lock);
		if (rc == 0)
			log_merge("sandbox", id, from, to);
		else if (rc != -EAGAIN)
			log_warn("not merged sandbox=%s error=%s", id, e.text);
	}
	refs_release_layer(h->refs, layer);
}
