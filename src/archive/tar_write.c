// SPDX-License-Identifier: Apache-2.0
#include "archive/tar_write.h"
#include <inttypes.h>
#include <string.h>

#define NAME_SIZE 100
#define MAX_OCTAL_7 07777777u	     // of mode, uid, gid
#define MAX_OCTAL_11 077777777777ull // of size and time

// struct posix_header of <tar.h>'s standard: POSIX.1-2001, pax, "ustar Interchange Format".
struct header {
	char name[NAME_SIZE], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type,
		link[NAME_SIZE], magic[6], version[2], user[32], group[32], major[8], minor[8],
		prefix[155], rest[12];
};
_Static_assert(sizeof(struct header) == TAR_BLOCK, "a header is a block");

static void octal(char *field, size_t size, uint64_t v)
{
	field[size - 1] = '\0';
	for (size_t i = size - 1; i-- > 0; v >>= 3)
		field[i] = (char)('0' + (v & 7));
}

static void add_block(struct strbuf *out, char type, const char *name,
	const struct archive_entry *e, uint64_t stored)
{
	struct header h = {.type = type, .magic = "ustar", .version = {'0', '0'}};
	memcpy(h.name, name, strnlen(name, sizeof h.name));
	octal(h.mode, sizeof h.mode, e->mode & 07777);
	octal(h.uid, sizeof h.uid, e->uid <= MAX_OCTAL_7 ? e->uid : 0);
	octal(h.gid, sizeof h.gid, e->gid <= MAX_OCTAL_7 ? e->gid : 0);
	octal(h.size, sizeof h.size, stored <= MAX_OCTAL_11 ? stored : 0);
	int64_t t = e->mtime.tv_sec;
	octal(h.mtime, sizeof h.mtime, t >= 0 && t <= (int64_t)MAX_OCTAL_11 ? (uint64_t)t : 0);
	if (e->link)
		memcpy(h.link, e->link, strnlen(e->link, sizeof h.link));
	unsigned sum = 0;
	memset(h.checksum, ' ', sizeof h.checksum);
	for (size_t i = 0; i < sizeof h; i++)
		sum += ((const unsigned char *)&h)[i];
	octal(h.checksum, 7, sum);
	strbuf_add(out, &h, sizeof h);
}

// "LENGTH KEY=VALUE\n", of which LENGTH counts its own digits.
static void add_record(struct strbuf *out, const char *key, const void *value, size_t len)
{
	char digits[24];
	size_t rest = strlen(key) + len + 3, total = rest + 1;
	while ((size_t)snprintf(digits, sizeof digits, "%zu", total) + rest != total)
		total = rest + strlen(digits);
	strbuf_addf(out, "%s %s=", digits, key);
	strbuf_add(out, value, len);
	strbuf_addc(out, '\n');
}

static void add_text(struct strbuf *out, const char *key, const char *text)
{
	add_record(out, key, text, strlen(text));
}

static void add_number(struct strbuf *out, const char *key, uint64_t v)
{
	char text[24];
	snprintf(text, sizeof text, "%" PRIu64, v);
	add_text(out, key, text);
}

static void add_time(struct strbuf *out, struct timespec t)
{
	char text[48];
	// Nanoseconds count upwards also before 1970: -0.25 s is {-1, 750000000}.
	if (t.tv_sec >= 0)
		snprintf(text, sizeof text, "%" PRId64 ".%09ld", (int64_t)t.tv_sec, t.tv_nsec);
	else if (t.tv_nsec == 0)
		snprintf(text, sizeof text, "%" PRId64, (int64_t)t.tv_sec);
	else
		snprintf(text, sizeof text, "-%" PRIu64 ".%09ld", (uint64_t) - (t.tv_sec + 1),
			1000000000 - t.tv_nsec);
	add_text(out, "mtime", text);
}

static void add_extended(struct strbuf *out, char type, const struct strbuf *records)
{
	const struct archive_entry e = {.mode = 0644};
	add_block(out, type, "PaxHeaders/entry", &e, records->len);
	strbuf_add(out, records->data, records->len);
	tar_add_padding(out, records->len);
}

static void add_records(
	struct strbuf *r, const struct archive_entry *e, uint64_t stored, bool exact_time)
{
	if (e->segments) {
		add_text(r, "GNU.sparse.major", "1");
		add_text(r, "GNU.sparse.minor", "0");
		add_text(r, "GNU.sparse.name", e->path);
		add_number(r, "GNU.sparse.realsize", e->size);
	} else if (strlen(e->path) > NAME_SIZE) {
		add_text(r, "path", e->path);
	}
	if (e->link && strlen(e->link) > NAME_SIZE)
		add_text(r, "linkpath", e->link);
	if (stored > MAX_OCTAL_11)
		add_number(r, "size", stored);
	if (e->uid > MAX_OCTAL_7)
		add_number(r, "uid", e->uid);
	if (e->gid > MAX_OCTAL_7)
		add_number(r, "gid", e->gid);
	int64_t t = e->mtime.tv_sec;
	if (t < 0 || t > (int64_t)MAX_OCTAL_11 || (exact_time && e->mtime.tv_nsec))
		add_time(r, e->mtime);
	for (size_t i = 0; i < e->n_xattrs; i++) {
		_cleanup_free_ char *key = str_printf("SCHILY.xattr.%s", e->xattrs[i].name);
		r->failed = r->failed || !key;
		if (key)
			add_record(r, key, e->xattrs[i].value, e->xattrs[i].len);
	}
}

void tar_add_header(struct strbuf *out, const struct archive_entry *e, bool exact_time)
{
	_cleanup_strbuf_ struct strbuf records = {0}, map = {0};
	uint64_t stored = e->type == ARCHIVE_FILE ? e->size : 0;
	if (e->segments) {
		stored = 0;
		strbuf_addf(&map, "%zu\n", e->n_segments);
		for (size_t i = 0; i < e->n_segments; i++) {
			const struct archive_segment *s = &e->segments[i];
			strbuf_addf(&map, "%" PRIu64 "\n%" PRIu64 "\n", s->offset, s->length);
			stored += s->length;
		}
		tar_add_padding(&map, map.len);
		stored += map.len;
	}
	add_records(&records, e, stored, exact_time);
	if (records.len)
		add_extended(out, 'x', &records);
	add_block(out, (char)e->type, e->segments ? "GNUSparseFile/entry" : e->path, e, stored);
	strbuf_add(out, map.data ? map.data : "", map.len);
	out->failed = out->failed || records.failed || map.failed;
}

void tar_add_padding(struct strbuf *out, uint64_t length)
{
	static const char zeros[TAR_BLOCK];
	strbuf_add(out, zeros, (TAR_BLOCK - length % TAR_BLOCK) % TAR_BLOCK);
}

void tar_add_note(struct strbuf *out, enum archive_note what, const char *path, const char *why)
{
	_cleanup_strbuf_ struct strbuf records = {0};
	_cleanup_free_ char *text = str_printf("%s\n%s", why, path);
	out->failed = out->failed || !text;
	if (text)
		add_text(&records, what == ARCHIVE_SKIPPED ? TAR_SKIPPED : TAR_FAILED, text);
	add_extended(out, 'g', &records);
	out->failed = out->failed || records.failed;
}

void tar_add_end(struct strbuf *out)
{
	static const char zeros[2 * TAR_BLOCK];
	strbuf_add(out, zeros, sizeof zeros);
}
