// SPDX-License-Identifier: Apache-2.0
#include "envd/api/entry.h"
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <time.h>
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

static const char *type_name(mode_t mode)
{
	return S_ISREG(mode)   ? "FILE_TYPE_FILE"
	       : S_ISDIR(mode) ? "FILE_TYPE_DIRECTORY"
			       : "FILE_TYPE_UNSPECIFIED";
}

int entry_add_json(struct strbuf *out, const char *path, struct users *users, mode_t *ret_mode)
{
	struct stat st, target;
	char permissions[ENTRY_MODE_SIZE], when[32];
	struct tm tm;
	if (lstat(path, &st) < 0)
		return -errno;
	bool link = S_ISLNK(st.st_mode);
	if (!link)
		target = st;
	else if (stat(path, &target) < 0)
		target.st_mode = 0;
	entry_mode_text(st.st_mode, permissions);
	gmtime_r(&st.st_mtime, &tm);
	strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
	strbuf_adds(out, "{\"name\":");
	entry_add_json_string(out, path_base(path));
	strbuf_addf(out, ",\"type\":\"%s\",\"path\":", type_name(target.st_mode));
	entry_add_json_string(out, path);
	strbuf_addf(out, ",\"size\":%" PRIu64 ",\"mode\":%u,\"permissions\":\"%s\",\"owner\":",
		(uint64_t)st.st_size, (unsigned)(target.st_mode & 0777), permissions);
	entry_add_json_string(out, users_name(users, st.st_uid));
	strbuf_adds(out, ",\"group\":");
	entry_add_json_string(out, users_group_name(users, st.st_gid));
	strbuf_addf(out, ",\"modifiedTime\":\"%s.%09ldZ\"", when, st.st_mtim.tv_nsec);
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
