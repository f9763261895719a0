// SPDX-License-Identifier: Apache-2.0
#include "snapshot/working_set.h"
#include <inttypes.h>
#include "base/file.h"
#include "snapshot/format.h"

#define MAGIC "STASWSET"
#define VERSION 1u
#define FIXED_SIZE 56u
#define RANGE_BYTES 16u
#define SUM_BYTES 8u

void working_set_init(struct working_set *w, const struct header *h)
{
	*w = (struct working_set){.size = h->size};
	memcpy(w->base, h->base, UUID_SIZE);
}

void working_set_done(struct working_set *w)
{
	free(w->ranges);
	*w = (struct working_set){0};
}

int working_set_add(struct working_set *w, uint64_t offset, uint32_t blocks)
{
	struct working_set_range *last = w->n ? &w->ranges[w->n - 1] : NULL;
	if (last && last->offset + (uint64_t)last->blocks * SNAPSHOT_BLOCK == offset) {
		last->blocks += blocks;
		return 0;
	}
	if (w->n == WORKING_SET_MAX_RANGES)
		return -ENOSPC;
	if (w->n == w->cap) {
		size_t cap = w->cap ? w->cap * 2 : 256;
		struct working_set_range *p = reallocarray(w->ranges, cap, sizeof *p);
		if (!p)
			return -ENOMEM;
		w->ranges = p;
		w->cap = cap;
	}
	w->ranges[w->n++] = (struct working_set_range){offset, blocks};
	return 0;
}

uint64_t working_set_bytes(const struct working_set *w)
{
	uint64_t blocks = 0;
	for (size_t i = 0; i < w->n; i++)
		blocks += w->ranges[i].blocks;
	return blocks * SNAPSHOT_BLOCK;
}

int working_set_encode(const struct working_set *w, struct strbuf *out)
{
	size_t len = FIXED_SIZE + w->n * RANGE_BYTES + SUM_BYTES;
	_cleanup_free_ uint8_t *buf = calloc(1, len);
	if (!buf)
		return -ENOMEM;
	memcpy(buf, MAGIC, 8);
	put_le32(buf + 8, VERSION);
	put_le32(buf + 12, SNAPSHOT_BLOCK);
	put_le64(buf + 16, len);
	put_le64(buf + 24, w->size);
	format_put_uuid(buf + 32, w->base);
	put_le32(buf + 48, (uint32_t)w->n); // 52..55 are reserved, zero
	uint8_t *p = buf + FIXED_SIZE;
	for (size_t i = 0; i < w->n; i++, p += RANGE_BYTES) {
		put_le64(p, w->ranges[i].offset);
		put_le32(p + 8, w->ranges[i].blocks); // 12..15 are reserved, zero
	}
	put_le64(p, format_xxh3(buf, len - SUM_BYTES));
	strbuf_add(out, buf, len);
	return strbuf_check(out);
}

int working_set_decode(const void *data, size_t len, struct working_set *ret, struct err *e)
{
	const uint8_t *d = data;
	if (len < 8 || memcmp(d, MAGIC, 8) != 0)
		return err_set(e, ERR_INTERNAL, "not a working set (wrong magic)");
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
	uint32_t n = get_le32(d + 48);
	if (get_le32(d + 12) != SNAPSHOT_BLOCK || get_le32(d + 52) != 0)
		return err_set(e, ERR_INTERNAL, "bad block size or reserved bytes");
	if (size == 0 || size % SNAPSHOT_BLOCK || size > HEADER_MAX_SIZE)
		return err_set(e, ERR_INTERNAL, "bad memory size %" PRIu64, size);
	if (n > WORKING_SET_MAX_RANGES || len != FIXED_SIZE + (uint64_t)n * RANGE_BYTES + SUM_BYTES)
		return err_set(e, ERR_INTERNAL, "%zu bytes do not fit %u ranges", len, n);

	struct working_set w = {.size = size, .n = n, .cap = n};
	w.ranges = calloc(MAX(n, 1u), sizeof *w.ranges);
	if (!w.ranges)
		return err_errno(e, ENOMEM, "working set");
	format_get_uuid(d + 32, w.base);
	const uint8_t *p = d + FIXED_SIZE;
	for (uint32_t i = 0; i < n; i++, p += RANGE_BYTES) {
		uint64_t offset = get_le64(p);
		uint32_t blocks = get_le32(p + 8);
		if (offset % SNAPSHOT_BLOCK || offset >= size || blocks == 0 ||
			blocks > (size - offset) / SNAPSHOT_BLOCK || get_le32(p + 12) != 0) {
			free(w.ranges);
			return err_set(e, ERR_INTERNAL, "range %u is outside of memory", i);
		}
		w.ranges[i] = (struct working_set_range){offset, blocks};
	}
	*ret = w;
	return 0;
}

int working_set_read(
	int dirfd, const char *path, const struct header *h, struct working_set *ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct working_set w = {0};
	int r = file_read(dirfd, path,
		FIXED_SIZE + (size_t)WORKING_SET_MAX_RANGES * RANGE_BYTES + SUM_BYTES, &b);
	if (r < 0)
		return err_errno(e, r, "%s", path);
	r = working_set_decode(b.data, b.len, &w, e);
	if (r < 0)
		return err_prefix(e, r, "%s", path);
	if (h && (w.size != h->size || !str_eq(w.base, h->base))) {
		r = err_set(e, ERR_INTERNAL, "%s: belongs to another memory image (of base %s)",
			path, w.base);
		working_set_done(&w);
		return r;
	}
	*ret = w;
	return 0;
}
