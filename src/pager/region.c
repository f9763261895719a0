// SPDX-License-Identifier: Apache-2.0
#include "pager/region.h"
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include "snapshot/header.h"

#define MAX_DEPTH 8 // of nested arrays and objects; Firecracker's has 2

int region_text_complete(const char *text, size_t len)
{
	int depth = 0;
	bool in_string = false, done = false;
	for (size_t i = 0; i < len; i++) {
		char c = text[i];
		bool blank = c == ' ' || c == '\t' || c == '\n' || c == '\r';
		if (in_string) {
			if (c == '\\')
				i++;
			else
				in_string = c != '"';
			continue;
		}
		if (done ? !blank : depth == 0 && !blank && c != '[')
			return -1;
		if (c == '"')
			in_string = true;
		else if ((c == '[' || c == '{') && ++depth > MAX_DEPTH)
			return -1;
		else if (c == ']' || c == '}')
			done = --depth == 0;
	}
	return done ? 1 : 0;
}

static int read_u64(json_t *object, const char *key, uint64_t *ret)
{
	json_t *v = json_object_get(object, key);
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return -EINVAL;
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

static int parse_region(json_t *j, size_t i, struct region *ret, bool *ret_wp, struct err *e)
{
	struct region r;
	uint64_t page = 0, end;
	if (read_u64(j, "base_host_virt_addr", &r.base) < 0 || read_u64(j, "size", &r.size) < 0 ||
		read_u64(j, "offset", &r.offset) < 0)
		return err_set(e, ERR_INVALID,
			"region %zu: base_host_virt_addr, size and offset must be integers", i);
	// page_size_kib holds bytes in spite of its name; the oldest VMMs send neither.
	if (read_u64(j, "page_size", &page) < 0 && read_u64(j, "page_size_kib", &page) < 0)
		page = SNAPSHOT_BLOCK;
	if (page != SNAPSHOT_BLOCK)
		return err_set(e, ERR_UNIMPLEMENTED,
			"region %zu: pages of %" PRIu64 " bytes; only %u is supported", i, page,
			SNAPSHOT_BLOCK);
	if (r.size == 0 || (r.base | r.size | r.offset) % SNAPSHOT_BLOCK ||
		__builtin_add_overflow(r.base, r.size, &end) ||
		__builtin_add_overflow(r.offset, r.size, &end))
		return err_set(e, ERR_INVALID, "region %zu: not made of whole pages", i);
	*ret_wp = json_is_true(json_object_get(j, "write_protect"));
	*ret = r;
	return 0;
}

static int compare_base(const void *a, const void *b)
{
	const struct region *x = a, *y = b;
	return x->base < y->base ? -1 : x->base > y->base;
}

static int compare_offset(const void *a, const void *b)
{
	const struct region *x = a, *y = b;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

// Every byte of memory belongs to one region, every address to at most one.
static int check_cover(struct region_map *m, uint64_t memory_size, struct err *e)
{
	uint64_t at = 0;
	qsort(m->regions, m->n, sizeof *m->regions, compare_offset);
	for (size_t i = 0; i < m->n; i++) {
		if (m->regions[i].offset != at)
			return err_set(e, ERR_INVALID,
				"the regions overlap or leave a gap at offset %" PRIu64
				" of memory",
				at);
		at += m->regions[i].size;
	}
	if (at != memory_size)
		return err_set(e, ERR_INVALID,
			"the regions hold %" PRIu64 " bytes, the snapshot %" PRIu64, at,
			memory_size);
	qsort(m->regions, m->n, sizeof *m->regions, compare_base);
	for (size_t i = 1; i < m->n; i++)
		if (m->regions[i - 1].base + m->regions[i - 1].size > m->regions[i].base)
			return err_set(e, ERR_INVALID, "the addresses of two regions overlap");
	return 0;
}

int region_parse(
	const char *text, size_t len, uint64_t memory_size, struct region_map *ret, struct err *e)
{
	json_error_t je;
	struct region_map m = {0};
	if (len > REGION_MAX_JSON || region_text_complete(text, len) != 1)
		return err_set(
			e, ERR_INVALID, "not one JSON array of at most %u bytes", REGION_MAX_JSON);
	json_t *array = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
	if (!array)
		return err_set(e, ERR_INVALID, "not valid JSON: column %d: %s", je.column, je.text);
	int r = 0;
	m.n = json_array_size(array);
	if (m.n == 0 || m.n > REGION_MAX)
		r = err_set(e, ERR_INVALID, "%zu regions; must be 1 to %u", m.n, REGION_MAX);
	for (size_t i = 0; r == 0 && i < m.n; i++) {
		bool wp = false;
		r = parse_region(json_array_get(array, i), i, &m.regions[i], &wp, e);
		if (r == 0 && i > 0 && wp != m.write_protect)
			r = err_set(e, ERR_INVALID, "write_protect differs between regions");
		m.write_protect = wp;
	}
	json_decref(array);
	if (r == 0)
		r = check_cover(&m, memory_size, e);
	if (r == 0)
		*ret = m;
	return r;
}

const struct region *region_at(const struct region_map *m, uint64_t address)
{
	for (size_t i = 0; i < m->n; i++)
		if (address >= m->regions[i].base &&
			address - m->regions[i].base < m->regions[i].size)
			return &m->regions[i];
	return NULL;
}

const struct region *region_of_offset(const struct region_map *m, uint64_t offset)
{
	for (size_t i = 0; i < m->n; i++)
		if (offset >= m->regions[i].offset &&
			offset - m->regions[i].offset < m->regions[i].size)
			return &m->regions[i];
	return NULL;
}
