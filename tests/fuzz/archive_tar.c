// SPDX-License-Identifier: Apache-2.0
// The first byte says how the input is cut into pieces.
#include <string.h>
#include "archive/tar_read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
	uint64_t size, end;
	bool open;
};

static int on_entry(void *ctx, const struct archive_entry *entry, struct err *e)
{
	struct seen *s = ctx;
	if (s->open || !entry->path || !entry->link)
		abort();
	for (size_t i = 0; i < entry->n_xattrs; i++)
		if (!entry->xattrs[i].name || !entry->xattrs[i].value)
			abort();
	*s = (struct seen){.size = entry->size, .open = true};
	return 0;
}

static int on_data(void *ctx, uint64_t offset, const void *data, size_t len, struct err *e)
{
	struct seen *s = ctx;
	if (!s->open || offset < s->end || offset > s->size || len > s->size - offset)
		abort();
	s->end = offset + len;
	return 0;
}

static int on_end(void *ctx, struct err *e)
{
	struct seen *s = ctx;
	if (!s->open)
		abort();
	s->open = false;
	return 0;
}

static void on_note(void *ctx, enum archive_note what, const char *path, const char *why)
{
	if (strlen(path) + strlen(why) > 2u << 20)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct tar_events events = {on_entry, on_data, on_end, on_note};
	_cleanup_(tar_reader_freep) struct tar_reader *r = NULL;
	struct seen seen = {0};
	struct err e = {0};
	if (size < 1 || tar_reader_new(&events, &seen, &r, &e) < 0)
		return 0;
	size_t piece = data[0] ? data[0] : 4096;
	int rc = 0;
	for (size_t at = 1; at < size && rc == 0; at += piece)
		rc = tar_reader_feed(r, data + at, MIN(piece, size - at), &e);
	if (rc == 0)
		rc = tar_reader_finish(r, &e);
	if (rc < 0 && !err_is_set(&e))
		abort();
	return 0;
}
