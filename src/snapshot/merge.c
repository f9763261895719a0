// SPDX-License-Identifier: Apache-2.0
#include "snapshot/merge.h"
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include "base/fault.h"
#include "base/file.h"
#include "snapshot/format.h"
#include "snapshot/sums.h"
#include "snapshot/verify.h"

#define CHUNK (256u * 1024u)	// read at once: stays in the processor's second cache
#define CLONE_MIN (16u * 1024u) // a chain of 30: half the time of 64 KiB, a tenth of the writing

// One chunk, checked by the sums of its layer. *sums: those of version 2, whatever the layer has.
static int read_chunk(const struct layer *l, uint64_t offset, size_t len, uint8_t *buf,
	uint64_t *sums, struct err *e)
{
	int r = layer_read_at(l->data_fd, buf, len, offset);
	if (r < 0)
		return err_errno(e, r, "layers/%s", l->id);
	r = sums_read(l, offset / SNAPSHOT_BLOCK, len / SNAPSHOT_BLOCK, sums, e);
	for (size_t i = 0; r == 0 && i < len / SNAPSHOT_BLOCK; i++)
		r = layer_check_block(l, offset / SNAPSHOT_BLOCK + i, buf + i * SNAPSHOT_BLOCK,
			sums[i], &sums[i], e);
	return r;
}

// Checks the run and brings it into out; *clone is cleared where sharing blocks does not work.
static int copy_run(const struct layer *l, const struct header_map *m, int out_fd, uint8_t *buf,
	bool *clone, struct content *c, struct err *e)
{
	uint64_t sums[CHUNK / SNAPSHOT_BLOCK];
	uint64_t len = (uint64_t)m->blocks * SNAPSHOT_BLOCK;
	bool shared = false;
	if (*clone && len >= CLONE_MIN) {
		struct file_clone_range range = {.src_fd = l->data_fd,
			.src_offset = m->offset,
			.src_length = len,
			.dest_offset = m->offset};
		shared = ioctl(out_fd, FICLONERANGE, &range) == 0;
		*clone = shared;
	}
	for (uint64_t at = m->offset; at < m->offset + len;) {
		size_t n = (size_t)MIN(m->offset + len - at, (uint64_t)CHUNK);
		int r = read_chunk(l, at, n, buf, sums, e);
		if (r < 0)
			return r;
		if (!shared && (r = layer_write_at(out_fd, buf, n, at)) < 0)
			return err_errno(e, r, "copy of layer %s", l->id);
		for (size_t i = 0; c && i < n / SNAPSHOT_BLOCK; i++)
			c->sums[at / SNAPSHOT_BLOCK + i] = htole64(sums[i]);
		at += n;
	}
	return 0;
}

static int copy_image(
	const struct header *h, int layers_fd, int out_fd, struct content *c, struct err *e)
{
	_cleanup_free_ uint8_t *buf = malloc(CHUNK);
	if (!buf)
		return err_errno(e, ENOMEM, "image");
	if (ftruncate(out_fd, (off_t)h->size) < 0)
		return err_errno(e, errno, "image of %" PRIu64 " bytes", h->size);
	bool clone = true;
	// Layer by layer, so that the length of a chain is not bounded by descriptors.
	for (uint32_t i = 0; i < h->n_layers; i++) {
		_cleanup_(layer_close) struct layer l = {.data_fd = -1, .sums_fd = -1};
		int r = layer_open(layers_fd, h->layers[i], h->size, &l, e);
		for (size_t j = 0; r == 0 && j < h->n_maps; j++)
			if (h->maps[j].layer == i)
				r = copy_run(&l, &h->maps[j], out_fd, buf, &clone, c, e);
		if (r < 0)
			return r;
	}
	return 0;
}

int layer_materialise(const struct header *h, int layers_fd, int out_fd, struct err *e)
{
	return copy_image(h, layers_fd, out_fd, NULL, e);
}

static int merged_header(const struct header *h, const char *id, const struct content *c,
	struct header **ret, struct err *e)
{
	_cleanup_(header_freep) struct header *zero = NULL;
	int r = header_new_zero(h->size, h->image, &zero, e);
	if (r == 0)
		r = header_overlay(zero, h->image, id, c->ranges, c->n, ret, e);
	if (r < 0)
		return r;
	(*ret)->generation = h->generation;
	memcpy((*ret)->base, h->base, UUID_SIZE);
	return 0;
}

static int write_merged(const struct header *h, int layers_fd, const char *id,
	const struct layer_name *name, struct content *c, struct err *e)
{
	_cleanup_close_ int fd = openat(layers_fd, name->data_tmp,
		O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0444);
	if (fd < 0)
		return err_errno(e, errno, "layers/%s", name->data_tmp);
	int r = copy_image(h, layers_fd, fd, c, e);
	if (r == 0 && (fchmod(fd, 0444) < 0 || fsync(fd) < 0)) // whatever the umask
		r = err_errno(e, errno, "layers/%s", name->data_tmp);
	if (r < 0)
		return r;
	r = fault_hit("merge.after_data", e);
	if (r == 0)
		r = sums_write(layers_fd, name, id, c, e);
	if (r == 0)
		r = fault_hit("merge.after_sums", e);
	if (r < 0)
		return r;
	if (renameat(layers_fd, name->data_tmp, layers_fd, name->data) < 0 || fsync(layers_fd) < 0)
		return err_errno(e, errno, "layers/%s", name->data);
	return fault_hit("merge.after_layer", e);
}

int layer_merge(
	const struct header *h, int layers_fd, const char *id, struct header **ret, struct err *e)
{
	if (!id_is_uuid(id))
		return err_set(e, ERR_INVALID, "layer id is not a UUID");
	struct layer_name name = layer_names(id);
	_cleanup_(content_done) struct content c = {0};
	if (content_init(&c, h->size) < 0)
		return err_errno(e, ENOMEM, "merge");
	for (size_t i = 0; i < h->n_maps; i++)
		for (uint64_t b = 0; h->maps[i].layer != HEADER_ZERO && b < h->maps[i].blocks; b++)
			if (content_add(&c, h->maps[i].offset / SNAPSHOT_BLOCK + b,
				    LAYER_SUM_ZERO + 1) < 0)
				return err_errno(e, ENOMEM, "merge");
	_cleanup_(header_freep) struct header *merged = NULL;
	int r = merged_header(h, id, &c, &merged, e);
	if (r == 0 && merged->n_layers)
		r = write_merged(h, layers_fd, id, &name, &c, e);
	if (r < 0) {
		unlinkat(layers_fd, name.data_tmp, 0);
		layer_remove(layers_fd, id);
		return err_prefix(e, r, "merge into layer %s", id);
	}
	*ret = TAKE_PTR(merged);
	return 0;
}
