// SPDX-License-Identifier: Apache-2.0
#include "archive/sparse_map.h"
#include <ctype.h>
#include "archive/tar_write.h"

#define MAX_SEGMENTS (1u << 20)

static int bad(struct err *e, const char *what)
{
	return err_set(e, ERR_INVALID, "the archive is broken: %s", what);
}

void sparse_map_reset(struct sparse_map *m)
{
	m->n = m->numbers = 0;
	m->taken = m->number = 0;
	m->digits = false;
}

void sparse_map_done(struct sparse_map *m)
{
	free(m->segments);
	*m = (struct sparse_map){0};
}

static int check(const struct sparse_map *m, uint64_t stored, uint64_t size, struct err *e)
{
	uint64_t sum = 0, end = 0;
	for (size_t i = 0; i < m->n; i++) {
		const struct archive_segment *s = &m->segments[i];
		if (s->offset < end || s->offset > size || s->length > size - s->offset)
			return bad(e, "the parts of a file lie outside of it");
		end = s->offset + s->length;
		sum += s->length;
	}
	if (m->taken > stored || sum != stored - m->taken)
		return bad(e, "a file with holes has another size than its map says");
	return 0;
}

static int take_number(struct sparse_map *m, struct err *e)
{
	size_t i = m->numbers++;
	if (i == 0) {
		if (m->number > MAX_SEGMENTS)
			return bad(e, "a file has too many holes");
		struct archive_segment *s =
			reallocarray(m->segments, (size_t)m->number + 1, sizeof *s);
		if (!s)
			return err_errno(e, ENOMEM, "archive");
		m->segments = s;
		m->n = (size_t)m->number;
	} else if (i % 2) {
		m->segments[i / 2].offset = m->number;
	} else {
		m->segments[i / 2 - 1].length = m->number;
	}
	m->number = 0;
	m->digits = false;
	return 0;
}

static bool has_all(const struct sparse_map *m)
{
	return m->numbers && m->numbers == 1 + 2 * m->n;
}

ssize_t sparse_map_feed(struct sparse_map *m, const char *data, size_t len, uint64_t stored,
	uint64_t size, bool *ret_whole, struct err *e)
{
	size_t i = 0;
	int rc = 0;
	while (i < len && rc == 0 && !has_all(m)) {
		char c = data[i++];
		if (++m->taken > stored)
			return bad(e, "a map of holes has no end");
		if (c == '\n' && m->digits) {
			rc = take_number(m, e);
		} else if (isdigit((unsigned char)c) && m->number < INT64_MAX / 10) {
			m->number = m->number * 10 + (uint64_t)(c - '0');
			m->digits = true;
		} else {
			rc = bad(e, "a map of holes has something else than numbers");
		}
	}
	if (rc < 0)
		return rc;
	if (!has_all(m))
		return (ssize_t)i;
	// What fills its last block.
	size_t fill = (size_t)((TAR_BLOCK - m->taken % TAR_BLOCK) % TAR_BLOCK);
	size_t n = MIN(fill, len - i);
	m->taken += n;
	if (n == fill) {
		rc = check(m, stored, size, e);
		*ret_whole = rc == 0;
	}
	return rc < 0 ? rc : (ssize_t)(i + n);
}
