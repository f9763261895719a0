// SPDX-License-Identifier: Apache-2.0
#include "snapshot/header.h"
#include <inttypes.h>
#include "base/file.h"
#include "snapshot/format.h"

#define MAGIC "STASMHDR"
#define VERSION 1u
#define FIXED_SIZE 88u // before the layer table
#define UUID_BYTES 16u
#define MAP_BYTES 16u
#define SUM_BYTES 8u

struct header *header_free(struct header *h)
{
	if (h) {
		free(h->layers);
		free(h->maps);
		free(h);
	}
	return NULL;
}

static struct header *header_alloc(size_t n_layers, size_t n_maps)
{
	_cleanup_(header_freep) struct header *h = calloc(1, sizeof *h);
	if (!h)
		return NULL;
	h->layers = calloc(MAX(n_layers, (size_t)1), sizeof *h->layers);
	h->maps = calloc(MAX(n_maps, (size_t)1), sizeof *h->maps);
	return h->layers && h->maps ? TAKE_PTR(h) : NULL;
}

int header_new_zero(uint64_t size, const char *image, struct header **ret, struct err *e)
{
	if (size == 0 || size % SNAPSHOT_BLOCK || size > HEADER_MAX_SIZE)
		return err_set(e, ERR_INVALID,
			"memory size %" PRIu64 " is not a multiple of %u up to %llu", size,
			SNAPSHOT_BLOCK, HEADER_MAX_SIZE);
	if (!id_is_uuid(image))
		return err_set(e, ERR_INVALID, "image id is not a UUID");
	struct header *h = header_alloc(0, 1);
	if (!h)
		return err_errno(e, ENOMEM, "header");
	h->size = size;
	h->n_maps = 1;
	h->maps[0] = (struct header_map){0, (uint32_t)(size / SNAPSHOT_BLOCK), HEADER_ZERO};
	memcpy(h->image, image, UUID_SIZE);
	memcpy(h->base, image, UUID_SIZE);
	*ret = h;
	return 0;
}

// Adds a range behind the last one, joining the two where they are alike.
static void append(struct header *h, uint64_t offset, uint64_t end, uint32_t layer)
{
	uint32_t blocks = (uint32_t)((end - offset) / SNAPSHOT_BLOCK);
	struct header_map *last = h->n_maps ? &h->maps[h->n_maps - 1] : NULL;
	if (last && last->layer == layer)
		last->blocks += blocks;
	else
		h->maps[h->n_maps++] = (struct header_map){offset, blocks, layer};
}

// Adds the parent's ranges from..to; *at is the first mapping that may still matter.
static void append_parent(
	struct header *h, const struct header *parent, size_t *at, uint64_t from, uint64_t to)
{
	while (from < to) {
		const struct header_map *m = &parent->maps[*at];
		uint64_t end = header_map_end(m);
		if (end <= from) {
			++*at;
			continue;
		}
		append(h, from, MIN(end, to), m->layer);
		from = MIN(end, to);
	}
}

// Leaves only the layers that a mapping uses, in their order, and renumbers the mappings.
static int drop_unused_layers(struct header *h)
{
	_cleanup_free_ uint32_t *number = calloc(h->n_layers + 1, sizeof *number);
	if (!number)
		return -ENOMEM;
	for (size_t i = 0; i < h->n_maps; i++)
		if (h->maps[i].layer != HEADER_ZERO)
			number[h->maps[i].layer] = 1;
	uint32_t n = 0;
	for (uint32_t i = 0; i < h->n_layers; i++) {
		if (!number[i])
			continue;
		memmove(h->layers[n], h->layers[i], UUID_SIZE);
		number[i] = n++;
	}
	h->n_layers = n;
	for (size_t i = 0; i < h->n_maps; i++)
		if (h->maps[i].layer != HEADER_ZERO)
			h->maps[i].layer = number[h->maps[i].layer];
	return 0;
}

int header_overlay(const struct header *parent, const char *image, const char *layer,
	const struct header_range *ranges, size_t n, struct header **ret, struct err *e)
{
	if (!id_is_uuid(image) || !id_is_uuid(layer))
		return err_set(e, ERR_INVALID, "image or layer id is not a UUID");
	uint64_t pos = 0;
	for (size_t i = 0; i < n; i++) {
		const struct header_range *r = &ranges[i];
		if (r->offset < pos || r->offset % SNAPSHOT_BLOCK || r->length % SNAPSHOT_BLOCK ||
			r->length == 0 || r->offset > parent->size ||
			r->length > parent->size - r->offset)
			return err_set(e, ERR_INVALID,
				"dirty range %zu is out of order or outside of memory", i);
		pos = r->offset + r->length;
	}
	for (uint32_t i = 0; i < parent->n_layers; i++)
		if (str_eq(parent->layers[i], layer))
			return err_set(e, ERR_INVALID, "layer %s is the parent's already", layer);

	// Each range cuts at most one of the parent's mappings in two.
	_cleanup_(header_freep) struct header *h =
		header_alloc(parent->n_layers + 1u, parent->n_maps + 2 * n);
	if (!h)
		return err_errno(e, ENOMEM, "header");
	h->size = parent->size;
	h->generation = parent->generation + 1;
	memcpy(h->image, image, UUID_SIZE);
	memcpy(h->base, parent->base, UUID_SIZE);
	memcpy(h->layers, parent->layers, parent->n_layers * sizeof *h->layers);
	memcpy(h->layers[parent->n_layers], layer, UUID_SIZE);
	h->n_layers = parent->n_layers + 1;

	size_t at = 0;
	pos = 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t end = ranges[i].offset + ranges[i].length;
		append_parent(h, parent, &at, pos, ranges[i].offset);
		append(h, ranges[i].offset, end, ranges[i].zero ? HEADER_ZERO : parent->n_layers);
		pos = end;
	}
	append_parent(h, parent, &at, pos, h->size);
	if (drop_unused_layers(h) < 0)
		return err_errno(e, ENOMEM, "header");
	if (h->n_layers > HEADER_MAX_LAYERS || h->n_maps > HEADER_MAX_MAPS)
		return err_set(e, ERR_LIMIT,
			"memory image of %u layers and %zu ranges is beyond %u and %u: merge its "
			"layers first",
			h->n_layers, h->n_maps, HEADER_MAX_LAYERS, HEADER_MAX_MAPS);
	*ret = TAKE_PTR(h);
	return 0;
}

const struct header_map *header_find(const struct header *h, uint64_t offset)
{
	// The last mapping that begins at or before offset. No branch depends on the data: the
	// compiler makes a conditional move of it, and the pager's faults come in no order.
	const struct header_map *first = h->maps;
	size_t n = h->n_maps;
	while (n > 1) {
		size_t half = n / 2;
		first += first[half].offset <= offset ? half : 0;
		n -= half;
	}
	return first;
}

uint64_t header_data_bytes(const struct header *h)
{
	uint64_t blocks = 0;
	for (size_t i = 0; i < h->n_maps; i++)
		if (h->maps[i].layer != HEADER_ZERO)
			blocks += h->maps[i].blocks;
	return blocks * SNAPSHOT_BLOCK;
}

int header_encode(const struct header *h, struct strbuf *out)
{
	size_t len =
		FIXED_SIZE + (size_t)h->n_layers * UUID_BYTES + h->n_maps * MAP_BYTES + SUM_BYTES;
	_cleanup_free_ uint8_t *buf = calloc(1, len);
	if (!buf)
		return -ENOMEM;
	memcpy(buf, MAGIC, 8);
	put_le32(buf + 8, VERSION);
	put_le32(buf + 12, SNAPSHOT_BLOCK);
	put_le64(buf + 16, len);
	put_le64(buf + 24, h->size);
	put_le64(buf + 32, h->generation);
	format_put_uuid(buf + 40, h->image);
	format_put_uuid(buf + 56, h->base);
	put_le32(buf + 72, h->n_layers);
	put_le32(buf + 76, (uint32_t)h->n_maps);
	uint8_t *p = buf + FIXED_SIZE; // 80..87 are reserved, zero
	for (uint32_t i = 0; i < h->n_layers; i++, p += UUID_BYTES)
		format_put_uuid(p, h->layers[i]);
	for (size_t i = 0; i < h->n_maps; i++, p += MAP_BYTES) {
		put_le64(p, h->maps[i].offset);
		put_le32(p + 8, h->maps[i].blocks);
		put_le32(p + 12, h->maps[i].layer);
	}
	put_le64(p, format_xxh3(buf, len - SUM_BYTES));
	strbuf_add(out, buf, len);
	return strbuf_check(out);
}

static int compare_uuid(const void *a, const void *b)
{
	return memcmp(a, b, UUID_SIZE);
}

static int check_layers(const struct header *h, struct err *e)
{
	_cleanup_free_ char(*sorted)[UUID_SIZE] = calloc(h->n_layers + 1, UUID_SIZE);
	_cleanup_free_ bool *used = calloc(h->n_layers + 1, 1);
	if (!sorted || !used)
		return err_errno(e, ENOMEM, "header");
	memcpy(sorted, h->layers, h->n_layers * sizeof *sorted);
	qsort(sorted, h->n_layers, sizeof *sorted, compare_uuid);
	for (uint32_t i = 1; i < h->n_layers; i++)
		if (str_eq(sorted[i - 1], sorted[i]))
			return err_set(
				e, ERR_INTERNAL, "layer %s stands twice in the table", sorted[i]);
	for (size_t i = 0; i < h->n_maps; i++)
		if (h->maps[i].layer != HEADER_ZERO)
			used[h->maps[i].layer] = true;
	for (uint32_t i = 0; i < h->n_layers; i++)
		if (!used[i])
			return err_set(e, ERR_INTERNAL, "layer %s is not used", h->layers[i]);
	return 0;
}

static int check_map(const struct header *h, size_t i, uint64_t expected, struct err *e)
{
	const struct header_map *m = &h->maps[i];
	if (m->offset != expected)
		return err_set(e, ERR_INTERNAL,
			"mapping %zu begins at %" PRIu64 " instead of %" PRIu64, i, m->offset,
			expected);
	if (m->blocks == 0 || m->blocks > (h->size - expected) / SNAPSHOT_BLOCK)
		return err_set(
			e, ERR_INTERNAL, "mapping %zu has a bad length of %u blocks", i, m->blocks);
	if (m->layer != HEADER_ZERO && m->layer >= h->n_layers)
		return err_set(e, ERR_INTERNAL, "mapping %zu names layer %u of %u", i, m->layer,
			h->n_layers);
	if (i > 0 && h->maps[i - 1].layer == m->layer)
		return err_set(e, ERR_INTERNAL, "mappings %zu and %zu should be one", i - 1, i);
	return 0;
}

int header_digest(const struct header *h, uint64_t *ret)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	int r = header_encode(h, &b);
	if (r == 0)
		*ret = get_le64((const uint8_t *)b.data + b.len - 8);
	return r;
}

int header_decode(const void *data, size_t len, struct header **ret, struct err *e)
{
	const uint8_t *d = data;
	if (len < 8 || memcmp(d, MAGIC, 8) != 0)
		return err_set(e, ERR_INTERNAL, "not a memory header (wrong magic)");
	if (len < FIXED_SIZE + SUM_BYTES)
		return err_set(e, ERR_INTERNAL, "truncated: %zu bytes", len);
	if (get_le32(d + 8) != VERSION)
		return err_set(e, ERR_INTERNAL, "format version %u; this program knows version %u",
			get_le32(d + 8), VERSION);
	if (get_le64(d + 16) != len)
		return err_set(e, ERR_INTERNAL,
			"truncated or extended: %zu bytes instead of %" PRIu64, len,
			get_le64(d + 16));
	if (get_le64(d + len - SUM_BYTES) != format_xxh3(d, len - SUM_BYTES))
		return err_set(e, ERR_INTERNAL, "checksum does not match");
	uint64_t size = get_le64(d + 24);
	uint32_t n_layers = get_le32(d + 72), n_maps = get_le32(d + 76);
	if (get_le32(d + 12) != SNAPSHOT_BLOCK)
		return err_set(e, ERR_INTERNAL, "block size %u instead of %u", get_le32(d + 12),
			SNAPSHOT_BLOCK);
	if (size == 0 || size % SNAPSHOT_BLOCK || size > HEADER_MAX_SIZE)
		return err_set(e, ERR_INTERNAL, "bad memory size %" PRIu64, size);
	if (n_layers > HEADER_MAX_LAYERS || n_maps == 0 || n_maps > HEADER_MAX_MAPS)
		return err_set(e, ERR_INTERNAL, "%u layers and %u mappings are beyond the limits",
			n_layers, n_maps);
	if (len != FIXED_SIZE + (uint64_t)n_layers * UUID_BYTES + (uint64_t)n_maps * MAP_BYTES +
			   SUM_BYTES)
		return err_set(e, ERR_INTERNAL, "%zu bytes do not fit %u layers and %u mappings",
			len, n_layers, n_maps);
	if (get_le64(d + 80) != 0)
		return err_set(e, ERR_INTERNAL, "reserved bytes are not zero");

	_cleanup_(header_freep) struct header *h = header_alloc(n_layers, n_maps);
	if (!h)
		return err_errno(e, ENOMEM, "header");
	h->size = size;
	h->generation = get_le64(d + 32);
	format_get_uuid(d + 40, h->image);
	format_get_uuid(d + 56, h->base);
	h->n_layers = n_layers;
	h->n_maps = n_maps;
	const uint8_t *p = d + FIXED_SIZE;
	for (uint32_t i = 0; i < n_layers; i++, p += UUID_BYTES)
		format_get_uuid(p, h->layers[i]);
	uint64_t pos = 0;
	for (size_t i = 0; i < n_maps; i++, p += MAP_BYTES) {
		h->maps[i] = (struct header_map){get_le64(p), get_le32(p + 8), get_le32(p + 12)};
		int r = check_map(h, i, pos, e);
		if (r < 0)
			return r;
		pos = header_map_end(&h->maps[i]);
	}
	if (pos != size)
		return err_set(
			e, ERR_INTERNAL, "mappings end at %" PRIu64 " of %" PRIu64, pos, size);
	int r = check_layers(h, e);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(h);
	return 0;
}

int header_read(int dirfd, const char *path, struct header **ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	int r = file_read(dirfd, path,
		FIXED_SIZE + HEADER_MAX_LAYERS * UUID_BYTES + (size_t)HEADER_MAX_MAPS * MAP_BYTES +
			SUM_BYTES,
		&b);
	if (r < 0)
		return err_errno(e, r, "%s", path);
	r = header_decode(b.data, b.len, ret, e);
	return r < 0 ? err_prefix(e, r, "%s", path) : 0;
}

int header_write(int dirfd, const char *path, const struct header *h, struct err *e)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	int r = header_encode(h, &b);
	if (r == 0)
		r = file_write_atomic(dirfd, path, b.data, b.len, 0644);
	return r < 0 ? err_errno(e, r, "%s", path) : 0;
}
