// SPDX-License-Identifier: Apache-2.0
// How this works. A state says what the next bytes are. Blocks (a header, the records of an
// extended one) are collected in `block`; the content of a file is handed on as it comes. The
// content of a file with holes begins with a map: decimal numbers, a line each, up to the next
// block boundary.
#include "archive/tar_read.h"
#include <ctype.h>
#include <string.h>
#include "archive/sparse_map.h"
#include "archive/tar_field.h"
#include "archive/tar_write.h"
#include "base/str.h"

#define MAX_RECORDS (1u << 20) // bytes of extended headers
#define MAX_XATTR_NAME 255     // XATTR_NAME_MAX
#define XATTR_KEY "SCHILY.xattr."

enum state { HEADER, RECORDS, MAP, DATA, PADDING, END };

struct tar_reader {
	const struct tar_events *ev;
	void *ctx;
	enum state state;
	struct strbuf block; // collected so far
	size_t wanted;	     // bytes of block
	unsigned zeros;	     // blocks of zeros in a row
	char type;	     // of the header whose records are collected
	uint64_t records;    // their length without padding
	// Of the entry to come:
	struct strbuf path, link, sparse_name;
	struct strbuf xattr_text; // names and values, NUL-terminated each
	struct archive_xattr xattrs[ARCHIVE_MAX_XATTRS];
	size_t xattr_at[ARCHIVE_MAX_XATTRS], n_xattrs;
	size_t xattr_bytes; // of values
	bool xattrs_left_out;
	struct {
		uint64_t size, uid, gid, real_size;
		struct timespec mtime;
		bool has_size, has_uid, has_gid, has_mtime, sparse;
	} over;
	// Of the entry under way:
	uint64_t stored, taken; // bytes in the archive, map included
	uint64_t size, end;	// of the file; where its last segment ended
	struct sparse_map map;	// of a file with holes
	size_t segment;
	uint64_t in_segment; // bytes taken of the present one
};

static int bad(struct err *e, const char *what)
{
	return err_set(e, ERR_INVALID, "the archive is broken: %s", what);
}

int tar_reader_new(const struct tar_events *ev, void *ctx, struct tar_reader **ret, struct err *e)
{
	struct tar_reader *r = calloc(1, sizeof *r);
	if (!r)
		return err_errno(e, ENOMEM, "archive");
	r->ev = ev;
	r->ctx = ctx;
	r->wanted = TAR_BLOCK;
	*ret = r;
	return 0;
}

struct tar_reader *tar_reader_free(struct tar_reader *r)
{
	if (!r)
		return NULL;
	strbuf_done(&r->block);
	strbuf_done(&r->path);
	strbuf_done(&r->link);
	strbuf_done(&r->sparse_name);
	strbuf_done(&r->xattr_text);
	sparse_map_done(&r->map);
	free(r);
	return NULL;
}

// --- records of extended headers

static void set_text(struct strbuf *b, const char *text)
{
	b->len = 0;
	strbuf_adds(b, text);
}

static int add_xattr(struct tar_reader *r, const char *name, const char *value, size_t len)
{
	if (r->n_xattrs == ARCHIVE_MAX_XATTRS || !*name || strlen(name) > MAX_XATTR_NAME ||
		len > ARCHIVE_MAX_XATTR_BYTES - r->xattr_bytes) {
		r->xattrs_left_out = true;
		return 0;
	}
	r->xattr_bytes += len;
	r->xattr_at[r->n_xattrs] = r->xattr_text.len;
	strbuf_add(&r->xattr_text, name, strlen(name) + 1);
	strbuf_add(&r->xattr_text, value, len);
	r->xattrs[r->n_xattrs++].len = len;
	return strbuf_check(&r->xattr_text);
}

static void tell_note(struct tar_reader *r, enum archive_note what, char *value)
{
	char *path = strchr(value, '\n');
	if (path)
		*path++ = '\0';
	if (r->ev->note)
		r->ev->note(r->ctx, what, path ? path : "", value);
}

// value has len bytes and a NUL behind them.
static int take_record(
	struct tar_reader *r, const char *key, char *value, size_t len, struct err *e)
{
	bool global = r->type == 'g';
	int rc = 0;
	if (!global && str_starts(key, XATTR_KEY))
		return add_xattr(r, key + strlen(XATTR_KEY), value, len);
	if (memchr(value, '\0', len))
		return bad(e, "a record has a NUL byte");
	if (global) {
		if (strcmp(key, TAR_SKIPPED) == 0)
			tell_note(r, ARCHIVE_SKIPPED, value);
		else if (strcmp(key, TAR_FAILED) == 0)
			tell_note(r, ARCHIVE_FAILED, value);
	} else if (strcmp(key, "path") == 0) {
		set_text(&r->path, value);
	} else if (strcmp(key, "linkpath") == 0) {
		set_text(&r->link, value);
	} else if (strcmp(key, "size") == 0) {
		rc = str_to_u64(value, INT64_MAX, &r->over.size);
		r->over.has_size = true;
	} else if (strcmp(key, "uid") == 0) {
		rc = str_to_u64(value, UINT32_MAX - 1, &r->over.uid);
		r->over.has_uid = true;
	} else if (strcmp(key, "gid") == 0) {
		rc = str_to_u64(value, UINT32_MAX - 1, &r->over.gid);
		r->over.has_gid = true;
	} else if (strcmp(key, "mtime") == 0) {
		rc = tar_read_time(value, &r->over.mtime);
		r->over.has_mtime = true;
	} else if (strcmp(key, "GNU.sparse.name") == 0) {
		set_text(&r->sparse_name, value);
	} else if (strcmp(key, "GNU.sparse.realsize") == 0) {
		rc = str_to_u64(value, INT64_MAX, &r->over.real_size);
	} else if (strcmp(key, "GNU.sparse.major") == 0) {
		r->over.sparse = strcmp(value, "1") == 0;
		rc = r->over.sparse ? 0 : -EINVAL;
	} else if (str_starts(key, "GNU.sparse.") && strcmp(key, "GNU.sparse.minor") != 0) {
		return bad(e, "files with holes in an older format than GNU's 1.0");
	}
	return rc < 0 ? bad(e, "a record has no proper value") : 0;
}

// "LENGTH KEY=VALUE\n" each.
static int take_records(struct tar_reader *r, struct err *e)
{
	char *p = r->block.data, *end = p + r->records;
	while (p < end) {
		uint64_t len = 0;
		char *q = p;
		for (; q < end && isdigit((unsigned char)*q) && len <= MAX_RECORDS; q++)
			len = len * 10 + (uint64_t)(*q - '0');
		if (q == p || q == end || *q != ' ' || len > (uint64_t)(end - p) ||
			len <= (uint64_t)(q - p) + 2 || p[len - 1] != '\n')
			return bad(e, "a record has no proper length");
		char *key = q + 1, *last = p + len - 1,
		     *eq = memchr(key, '=', (size_t)(last - key));
		if (!eq || memchr(key, '\0', (size_t)(eq - key)))
			return bad(e, "a record has no key");
		*eq = *last = '\0';
		int rc = take_record(r, key, eq + 1, (size_t)(last - eq - 1), e);
		if (rc < 0)
			return err_is_set(e) ? rc : err_errno(e, rc, "archive");
		p += len;
	}
	return 0;
}

static int take_extended(struct tar_reader *r, struct err *e)
{
	if (r->type == 'L' || r->type == 'K') {
		struct strbuf *to = r->type == 'L' ? &r->path : &r->link;
		size_t n = strnlen(r->block.data, r->records);
		to->len = 0;
		strbuf_add(to, r->block.data, n);
		return 0;
	}
	return take_records(r, e);
}

// --- headers

static enum archive_type type_of(char flag)
{
	switch (flag) {
	case '\0':
	case '0':
	case '7':
		return ARCHIVE_FILE;
	case '1':
	case '2':
	case '5':
		return (enum archive_type)flag;
	default:
		return ARCHIVE_OTHER;
	}
}

static int fill_entry(
	struct tar_reader *r, const char *h, struct archive_entry *entry, struct err *e)
{
	uint64_t mode, uid, gid, mtime = 0;
	if (tar_read_number(h + TAR_AT_MODE, 8, &mode) < 0 ||
		tar_read_number(h + TAR_AT_UID, 8, &uid) < 0 ||
		tar_read_number(h + TAR_AT_GID, 8, &gid) < 0 || uid >= UINT32_MAX ||
		gid >= UINT32_MAX)
		return bad(e, "a header has no proper numbers");
	// A negative one (GNU, before 1970) is one that this does not read.
	if (tar_read_number(h + TAR_AT_MTIME, 12, &mtime) < 0 || mtime > INT64_MAX / 2)
		mtime = 0;
	if (r->over.sparse && r->sparse_name.len)
		set_text(&r->path, r->sparse_name.data);
	else if (!r->path.len)
		tar_read_name(h, &r->path);
	if (!r->link.len)
		strbuf_add(&r->link, h + TAR_AT_LINK, strnlen(h + TAR_AT_LINK, 100));
	if (strbuf_check(&r->path) < 0 || strbuf_check(&r->link) < 0)
		return err_errno(e, ENOMEM, "archive");
	for (size_t i = 0; i < r->n_xattrs; i++) {
		r->xattrs[i].name = r->xattr_text.data + r->xattr_at[i];
		r->xattrs[i].value = r->xattrs[i].name + strlen(r->xattrs[i].name) + 1;
	}
	*entry = (struct archive_entry){
		.type = type_of(h[TAR_AT_TYPE]),
		.path = r->path.data ? r->path.data : "",
		.link = r->link.data ? r->link.data : "",
		.mode = (mode_t)(mode & 07777),
		.uid = (uid_t)(r->over.has_uid ? r->over.uid : uid),
		.gid = (gid_t)(r->over.has_gid ? r->over.gid : gid),
		.mtime = r->over.has_mtime ? r->over.mtime : (struct timespec){(time_t)mtime, 0},
		.size = r->over.sparse ? r->over.real_size : r->stored,
		.xattrs = r->xattrs,
		.n_xattrs = r->n_xattrs,
	};
	// Of the time before POSIX: a directory is a file whose name ends so.
	if (entry->type == ARCHIVE_FILE && str_ends(entry->path, "/"))
		entry->type = ARCHIVE_DIRECTORY;
	return 0;
}

static void forget_entry(struct tar_reader *r)
{
	r->path.len = r->link.len = r->sparse_name.len = r->xattr_text.len = 0;
	r->n_xattrs = r->xattr_bytes = 0;
	r->xattrs_left_out = false;
	memset(&r->over, 0, sizeof r->over);
}

static int begin_entry(struct tar_reader *r, const char *h, struct err *e)
{
	struct archive_entry entry;
	if (r->over.has_size)
		r->stored = r->over.size;
	int rc = fill_entry(r, h, &entry, e);
	if (rc < 0)
		return rc;
	// Only files have content; others name the size of what they lead to, or 0.
	if (entry.type != ARCHIVE_FILE)
		r->stored = 0;
	if (r->xattrs_left_out && r->ev->note)
		r->ev->note(r->ctx, ARCHIVE_SKIPPED, entry.path, ARCHIVE_XATTRS_LEFT_OUT);
	bool sparse = r->over.sparse && entry.type == ARCHIVE_FILE;
	r->size = entry.size;
	r->taken = r->end = r->in_segment = 0;
	r->segment = 0;
	sparse_map_reset(&r->map);
	rc = r->ev->entry(r->ctx, &entry, e);
	forget_entry(r);
	if (rc < 0)
		return rc;
	r->state = sparse ? MAP : DATA;
	return 0;
}

static int take_header(struct tar_reader *r, struct err *e)
{
	const char *h = r->block.data;
	size_t i = 0;
	while (i < TAR_BLOCK && !h[i])
		i++;
	if (i == TAR_BLOCK) {
		if (++r->zeros == 2)
			r->state = END;
		return 0;
	}
	if (r->zeros)
		return bad(e, "something follows its end");
	if (!tar_is_header(h))
		return bad(e, "a header has a wrong sum");
	if (tar_read_number(h + TAR_AT_SIZE, 12, &r->stored) < 0 || r->stored > INT64_MAX)
		return bad(e, "a header has no proper size");
	r->type = h[TAR_AT_TYPE];
	if (!strchr("xgLK", r->type) || !r->type)
		return r->type == 'S' ? bad(e, "files with holes in GNU's old format")
				      : begin_entry(r, h, e);
	if (r->stored > MAX_RECORDS)
		return bad(e, "the records of an entry are over 1 MiB");
	r->records = r->stored;
	r->wanted = (size_t)((r->stored + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK);
	r->state = RECORDS;
	return 0;
}

// A whole block, or the whole of the records.
static int take_block(struct tar_reader *r, struct err *e)
{
	int rc;
	if (r->block.failed)
		return err_errno(e, ENOMEM, "archive");
	if (r->state == HEADER) {
		rc = take_header(r, e);
	} else {
		rc = r->records ? take_extended(r, e) : 0;
		r->state = HEADER;
	}
	r->block.len = 0;
	if (r->state == HEADER)
		r->wanted = TAR_BLOCK;
	return rc;
}

// --- content

// The count of bytes taken, or a negative errno.
static ssize_t take_map(struct tar_reader *r, const char *data, size_t len, struct err *e)
{
	bool whole = false;
	ssize_t n = sparse_map_feed(&r->map, data, len, r->stored, r->size, &whole, e);
	if (n > 0)
		r->taken += (uint64_t)n;
	if (whole)
		r->state = DATA;
	return n;
}

static ssize_t take_data(struct tar_reader *r, const char *data, size_t len, struct err *e)
{
	uint64_t offset = r->taken, left = r->stored - r->taken;
	if (r->map.n) {
		while (r->segment < r->map.n &&
			r->in_segment == r->map.segments[r->segment].length) {
			r->segment++;
			r->in_segment = 0;
		}
		if (r->segment < r->map.n) {
			const struct archive_segment *s = &r->map.segments[r->segment];
			offset = s->offset + r->in_segment;
			left = s->length - r->in_segment;
		}
	}
	size_t n = (size_t)MIN(left, (uint64_t)len);
	int rc = n ? r->ev->data(r->ctx, offset, data, n, e) : 0;
	if (rc < 0)
		return rc;
	r->taken += n;
	r->in_segment += n;
	return (ssize_t)n;
}

// 1: go on, 0: more input is needed.
static int step(struct tar_reader *r, const char **data, size_t *len, struct err *e)
{
	ssize_t n = 0;
	int rc = 0;
	if (r->state == DATA && r->taken == r->stored) {
		rc = r->ev->entry_end(r->ctx, e);
		r->state = PADDING;
		r->wanted = (size_t)((TAR_BLOCK - r->stored % TAR_BLOCK) % TAR_BLOCK);
		if (rc < 0)
			return rc;
	}
	if (r->state == PADDING && r->wanted == 0) {
		r->state = HEADER;
		r->wanted = TAR_BLOCK;
	}
	if (*len == 0)
		return 0;
	if (r->state == HEADER || r->state == RECORDS) {
		n = (ssize_t)MIN(*len, r->wanted - r->block.len);
		strbuf_add(&r->block, *data, (size_t)n);
		if (r->block.len == r->wanted || r->block.failed)
			rc = take_block(r, e);
	} else if (r->state == PADDING) {
		n = (ssize_t)MIN(*len, r->wanted);
		r->wanted -= (size_t)n;
	} else if (r->state == END) {
		n = (ssize_t)*len;
	} else {
		n = r->state == MAP ? take_map(r, *data, *len, e) : take_data(r, *data, *len, e);
	}
	if (rc < 0 || n < 0)
		return rc < 0 ? rc : (int)n;
	*data += n;
	*len -= (size_t)n;
	return 1;
}

int tar_reader_feed(struct tar_reader *r, const void *data, size_t len, struct err *e)
{
	const char *p = data;
	int rc;
	do
		rc = step(r, &p, &len, e);
	while (rc > 0);
	return rc;
}

int tar_reader_finish(struct tar_reader *r, struct err *e)
{
	if (r->state == END)
		return 0;
	return bad(e, "it ends early");
}
