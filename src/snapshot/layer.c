// SPDX-License-Identifier: Apache-2.0
#include "snapshot/layer.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "snapshot/format.h"
#include "snapshot/sums.h"

int layer_open(int layers_fd, const char *id, uint64_t size, struct layer *ret, struct err *e)
{
	if (!id_is_uuid(id))
		return err_set(e, ERR_INVALID, "layer id is not a UUID");
	_cleanup_(layer_close) struct layer l = {.data_fd = -1, .sums_fd = -1};
	struct stat st;
	l.data_fd = openat(layers_fd, id, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (l.data_fd < 0 || fstat(l.data_fd, &st) < 0)
		return err_errno(e, errno, "layers/%s", id);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != size)
		return err_set(e, ERR_INTERNAL,
			"layers/%s: truncated or extended: %" PRIu64 " bytes instead of %" PRIu64,
			id, (uint64_t)st.st_size, size);
	int r = sums_open(layers_fd, id, size, &l, e);
	if (r < 0)
		return r;
	*ret = l;
	l = (struct layer){.data_fd = -1, .sums_fd = -1};
	return 0;
}

void layer_close(struct layer *l)
{
	if (l->size == 0)
		return; // never opened
	if (l->data)
		munmap((void *)l->data, l->size);
	if (l->sums)
		munmap((uint8_t *)(uintptr_t)l->sums - LAYER_SUMS_HEAD, sums_file_size(l));
	safe_close(l->data_fd);
	safe_close(l->sums_fd);
	*l = (struct layer){.data_fd = -1, .sums_fd = -1};
}

int layer_map(struct layer *l, struct err *e)
{
	void *data = mmap(NULL, l->size, PROT_READ, MAP_SHARED, l->data_fd, 0);
	if (data == MAP_FAILED)
		return err_errno(e, errno, "layers/%s: mmap", l->id);
	void *sums = mmap(NULL, sums_file_size(l), PROT_READ, MAP_SHARED, l->sums_fd, 0);
	if (sums == MAP_FAILED) {
		int r = err_errno(e, errno, "layers/%s.sum: mmap", l->id);
		munmap(data, l->size);
		return r;
	}
	l->data = data;
	l->sums = (const uint8_t *)sums + LAYER_SUMS_HEAD;
	l->data_fd = safe_close(l->data_fd);
	l->sums_fd = safe_close(l->sums_fd);
	return 0;
}

int layers_digest(const struct header *h, int layers_fd, uint64_t *ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	bool known = h->n_layers > 0;
	for (uint32_t i = 0; i < h->n_layers; i++) {
		_cleanup_(layer_close) struct layer l = {.data_fd = -1, .sums_fd = -1};
		uint8_t part[24];
		int r = layer_open(layers_fd, h->layers[i], h->size, &l, e);
		if (r < 0)
			return r;
		known = known && l.entry == sizeof(uint64_t);
		format_put_uuid(part, l.id);
		put_le64(part + 16, l.digest);
		strbuf_add(&b, part, sizeof part);
	}
	if (strbuf_check(&b) < 0)
		return err_errno(e, ENOMEM, "layers");
	*ret = known ? format_xxh3(b.data, b.len) : 0;
	return 0;
}

int layer_is_flat(const struct header *h, int layers_fd, bool *ret, struct err *e)
{
	*ret = false;
	if (h->n_layers != 1)
		return 0;
	_cleanup_(layer_close) struct layer l = {.data_fd = -1, .sums_fd = -1};
	int r = layer_open(layers_fd, h->layers[0], h->size, &l, e);
	if (r == 0)
		*ret = l.data_blocks * SNAPSHOT_BLOCK == header_data_bytes(h);
	return r;
}

int layer_remove(int layers_fd, const char *id)
{
	struct layer_name name = layer_names(id);
	const char *files[] = {name.data, name.data_tmp, name.sums, name.sums_tmp};
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (unlinkat(layers_fd, files[i], 0) < 0 && errno != ENOENT)
			return -errno;
	return 0;
}
