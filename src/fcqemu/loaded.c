// SPDX-License-Identifier: Apache-2.0
//
// How this works. The parent of a diff is the loaded image with the earlier diffs of this process
// over it (or the last full snapshot). So only pages that no earlier snapshot of this process held
// may be compared with the loaded image; the others stay dirty, and the server finds those that are
// the same. Bytes are compared and not sums, since most are equal.
#include "fcqemu/loaded.h"
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include "base/log.h"
#include "snapshot/header.h"

#define CHUNK (256u * 1024u) // read at once: stays in the processor's second cache

struct comparison {
	const struct loaded *loaded;
	const struct dirty_source *source;
	struct header *header; // of LOADED_IMAGE
	int *layers;	       // its open layers; -1: not opened yet
	struct dirty_list kept;
	uint8_t *guest, *image; // CHUNK bytes each
};

void loaded_done(struct loaded *l)
{
	safe_close(l->file);
	free(l->replaced);
	*l = (struct loaded){.file = -1};
}

static bool is_replaced(const struct loaded *l, uint64_t offset)
{
	uint64_t page = offset / DIRTY_PAGE;
	return l->replaced && l->replaced[page / 64] >> (page % 64) & 1;
}

void loaded_note(struct loaded *l, uint64_t size, const struct dirty_list *list)
{
	const uint64_t words = (size / DIRTY_PAGE + 63) / 64;
	if (!l->replaced)
		l->replaced = calloc(words, sizeof *l->replaced);
	l->size = size;
	if (!l->replaced)
		l->kind = LOADED_UNKNOWN;
	if (l->replaced && !list)
		memset(l->replaced, 0xff, words * sizeof *l->replaced);
	for (size_t i = 0; l->replaced && list && i < list->n; i++)
		for (uint64_t p = list->v[i].offset / DIRTY_PAGE,
			      end = p + list->v[i].length / DIRTY_PAGE;
			p < end; p++)
			l->replaced[p / 64] |= 1ull << (p % 64);
}

static bool read_guest(const struct dirty_source *s, uint64_t offset, void *buf, size_t len)
{
	struct iovec to = {buf, len}, from = {(void *)(uintptr_t)(s->base + offset), len};
	return process_vm_readv(s->pid, &to, 1, &from, 1, 0) == (ssize_t)len;
}

static bool read_file(int fd, uint64_t offset, uint8_t *buf, size_t len)
{
	return fd >= 0 && RETRY_EINTR(pread(fd, buf, len, (off_t)offset)) == (ssize_t)len;
}

static int layer_of(struct comparison *c, uint32_t index)
{
	if (c->layers[index] >= 0)
		return c->layers[index];
	_cleanup_free_ char *path =
		str_printf("%s/%s", c->loaded->layers_path, c->header->layers[index]);
	return c->layers[index] = path ? open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC) : -1;
}

// The loaded bytes from offset on, at most *len, of which *len is what lies together.
static bool read_loaded(struct comparison *c, uint64_t offset, size_t *len)
{
	const struct header_map *m = NULL;
	if (c->loaded->kind == LOADED_FILE)
		return read_file(c->loaded->file, offset, c->image, *len);
	if (c->loaded->kind == LOADED_IMAGE) {
		m = header_find(c->header, offset);
		*len = (size_t)MIN(*len, header_map_end(m) - offset);
	}
	if (m && m->layer != HEADER_ZERO)
		return read_file(layer_of(c, m->layer), offset, c->image, *len);
	memset(c->image, 0, *len);
	return true;
}

// Pages from..to of the guest, none of them replaced.
static int compare_run(struct comparison *c, uint64_t from, uint64_t to)
{
	int rc = 0;
	while (rc == 0 && from < to) {
		size_t len = (size_t)MIN(to - from, (uint64_t)CHUNK);
		bool known =
			read_loaded(c, from, &len) && read_guest(c->source, from, c->guest, len);
		for (size_t i = 0; rc == 0 && i < len; i += DIRTY_PAGE)
			if (!known || memcmp(c->guest + i, c->image + i, DIRTY_PAGE) != 0)
				rc = dirty_list_add(&c->kept, from + i, DIRTY_PAGE, false);
		from += len;
	}
	return rc;
}

static int compare_range(struct comparison *c, const struct dirty_range *r)
{
	uint64_t at = r->offset, end = r->offset + r->length;
	int rc = r->zero ? dirty_list_add(&c->kept, at, r->length, true) : 0;
	while (rc == 0 && !r->zero && at < end) {
		bool replaced = is_replaced(c->loaded, at);
		uint64_t to = at;
		while (to < end && is_replaced(c->loaded, to) == replaced)
			to += DIRTY_PAGE;
		rc = replaced ? dirty_list_add(&c->kept, at, to - at, false)
			      : compare_run(c, at, to);
		at = to;
	}
	return rc;
}

static bool open_image(struct comparison *c)
{
	struct err e = {0};
	if (header_read(AT_FDCWD, c->loaded->header_path, &c->header, &e) < 0 ||
		c->header->size != c->source->size) {
		log_debug("memory is not compared: %s", e.text);
		return false;
	}
	c->layers = malloc((c->header->n_layers + 1u) * sizeof *c->layers);
	for (uint32_t i = 0; c->layers && i < c->header->n_layers; i++)
		c->layers[i] = -1;
	return c->layers != NULL;
}

void loaded_drop_same(const struct loaded *l, const struct dirty_source *s, struct dirty_list *list)
{
	struct comparison c = {.loaded = l, .source = s};
	c.guest = malloc(CHUNK);
	c.image = malloc(CHUNK);
	int rc = c.guest && c.image && l->kind != LOADED_UNKNOWN ? 0 : -ENOMEM;
	if (rc == 0 && l->kind == LOADED_IMAGE && !open_image(&c))
		rc = -ENOENT;
	for (size_t i = 0; rc == 0 && i < list->n; i++)
		rc = compare_range(&c, &list->v[i]);
	if (rc == 0) {
		dirty_list_done(list);
		*list = c.kept;
		c.kept = (struct dirty_list){0};
	}
	for (uint32_t i = 0; c.layers && i < c.header->n_layers; i++)
		safe_close(c.layers[i]);
	dirty_list_done(&c.kept);
	header_free(c.header);
	free(c.layers);
	free(c.guest);
	free(c.image);
}
