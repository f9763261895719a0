// SPDX-License-Identifier: Apache-2.0
#include "envd/api/entry.h"
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include "envd/process/path.h"

void entry_mode_text(mode_t mode, char out[ENTRY_MODE_SIZE])
{
	char *p = out;
	switch (mode & S_IFMT) {
	case S_IFDIR:
		*p++ = 'd';
		break;
	case S_IFLNK:
		*p++ = 'L';
		break;
	case S_IFBLK:
	case S_IFCHR:
		*p++ = 'D';
		break;
	case S_IFIFO:
		*p++ = 'p';
		break;
	case S_IFSOCK:
		*p++ = 'S';
		break;
	}
	if (mode & S_ISUID)
		*p++ = 'u';
	if (mode & S_ISGID)
		*p++ = 'g';
	if (S_ISCHR(mode))
		*p++ = 'c';
	if (mode & S_ISVTX)
		*p++ = 't';
	if (p == out)
		*p++ = '-';
	for (int bit = 8; bit >= 0; bit--)
		*p++ = mode & (1u << bit) ? "xwr"[bit % 3] : '-';
	*p = '\0';
}

void entry_add_json_string(struct strbuf *out, const char *s)
{
	bool utf8 = str_is_utf8(s, strlen(s));
	strbuf_addc(out, '"');
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '"' || c == '\\') {
			strbuf_addc(out, '\\');
			strbuf_addc(out, *s);
		} else if (c < 0x20) {
			strbuf_addf(out, "\\u%04x", c);
		} else if (c >= 0x80 && !utf8) {
			strbuf_adds(out, "\xef\xbf\xbd");
		} else {
			strbuf_addc(out, *s);
		}
	}
	strbuf_addc(out, '"');
}

// Years that RFC 3339 has: clients take nothing else, and leave the whole directory for one file.
#define FIRST_SECOND (-62135596800ll) // of the year 1
#define LAST_SECOND 253402300799ll    // of the year 9999

void entry_time_text(struct timespec t, char out[ENTRY_TIME_SIZE])
{
	struct tm tm = {0};
	if (t.tv_sec < FIRST_SECOND)
		t = (struct timespec){FIRST_SECOND, 0};
	else if (t.tv_sec > LAST_SECOND)
		t = (struct timespec){LAST_SECOND, 999999999};
	gmtime_r(&t.tv_sec, &tm);
	snprintf(out, ENTRY_TIME_SIZE, "%04d-%02d-%02dT%02d:%02d:%02d.%09ldZ", tm.tm_year + 1900,
		tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, t.tv_nsec);
}

static const char *type_name(mode_t mode)
{
	return S_ISREG(mode)   ? "FILE_TYPE_FILE"
	       : S_ISDIR(mode) ? "FILE_TYPE_DIRECTORY"
			       : "FILE_TYPE_UNSPECIFIED";
}

int entry_add_json(struct strbuf *out, const char *path, struct users *users, mode_t *ret_mode)
{
	struct stat st, target;
	char permissions[ENTRY_MODE_SIZE], when[ENTRY_TIME_SIZE];
	if (lstat(path, &st) < 0)
		return -errno;
	bool link = S_ISLNK(st.st_mode);
	if (!link)
		target = st;
	else if (stat(path, &target) < 0)
		target.st_mode = 0;
	entry_mode_text(st.st_mode, permissions);
	entry_time_text(st.st_mtim, when);
	strbuf_adds(out, "{\"name\":");
	entry_add_json_string(out, path_base(path));
	strbuf_addf(out, ",\"type\":\"%s\",\"path\":", type_name(target.st_mode));
	entry_add_json_string(out, path);
	strbuf_addf(out, ",\"size\":%" PRIu64 ",\"mode\":%u,\"permissions\":\"%s\",\"owner\":",
		(uint64_t)st.st_size, (unsigned)(target.st_mode & 0777), permissions);
	entry_add_json_string(out, users_name(users, st.st_uid));
	strbuf_adds(out, ",\"group\":");
	entry_add_json_string(out, users_group_name(users, st.st_gid));
	strbuf_addf(out, ",\"modifiedTime\":\"%s\"", when);
	if (link) {
		_cleanup_free_ char *real = realpath(path, NULL);
		strbuf_adds(out, ",\"symlinkTarget\":");
		entry_add_json_string(out, real ? real : path);
	}
	strbuf_addc(out, '}');
	if (ret_mode)
		*ret_mode = st.st_mode;
	return 0;
}
