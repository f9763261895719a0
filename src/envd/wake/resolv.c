// SPDX-License-Identifier: Apache-2.0
#include "envd/wake/resolv.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#define FILE_MAX 65536
#define FIRST_LINE "# Written by Stasis at each start; without this line the file is yours.\n"
// What images/build-rootfs and stasis-init write.
#define OF_IMAGE "nameserver 1.1.1.1\nnameserver 8.8.8.8\n"
#define NEW_NAME ".resolv.conf.stasis"

bool resolv_is_list(const char *dns)
{
	for (const char *p = dns;; p++) {
		char one[INET_ADDRSTRLEN];
		struct in_addr a;
		size_t len = strcspn(p, ",");
		if (len >= sizeof one)
			return false;
		memcpy(one, p, len);
		one[len] = '\0';
		if (inet_pton(AF_INET, one, &a) != 1)
			return false;
		p += len;
		if (!*p)
			return true;
	}
}

bool resolv_is_ours(const char *text)
{
	return !*text || str_eq(text, OF_IMAGE) || str_starts(text, FIRST_LINE);
}

static void add_list(struct strbuf *out, const char *dns)
{
	strbuf_adds(out, FIRST_LINE);
	for (const char *p = dns; *p; p += *p == ',') {
		size_t len = strcspn(p, ",");
		strbuf_addf(out, "nameserver %.*s\n", (int)len, p);
		p += len;
	}
}

// Not synced: a guest that loses it is told again.
static int replace_file(int dir, const struct strbuf *text)
{
	if (unlinkat(dir, NEW_NAME, 0) < 0 && errno != ENOENT)
		return -errno;
	_cleanup_close_ int fd =
		openat(dir, NEW_NAME, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	int rc = fchmod(fd, 0644) < 0 ? -errno : file_write_full(fd, text->data, text->len);
	if (rc == 0 && renameat(dir, NEW_NAME, dir, "resolv.conf") < 0)
		rc = -errno;
	if (rc < 0)
		unlinkat(dir, NEW_NAME, 0);
	return rc;
}

// Whether it may be replaced, and what is in it. A link to something is the user's, as is what is
// no file; what cannot be read is left alone.
static bool look(int dir, bool replace, struct strbuf *old)
{
	struct stat st, target;
	if (fstatat(dir, "resolv.conf", &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT;
	if (S_ISLNK(st.st_mode))
		return replace || (fstatat(dir, "resolv.conf", &target, 0) < 0 && errno == ENOENT);
	if (!S_ISREG(st.st_mode))
		return false;
	if (file_read(dir, "resolv.conf", FILE_MAX, old) < 0)
		return replace;
	return replace || resolv_is_ours(old->data ? old->data : "");
}

void resolv_write(const char *path, const char *dns, bool replace)
{
	_cleanup_strbuf_ struct strbuf old = {0}, text = {0};
	_cleanup_close_ int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || !look(dir, replace, &old))
		return;
	add_list(&text, dns);
	int rc = strbuf_check(&text);
	if (rc == 0 && old.data && str_eq(old.data, text.data))
		return;
	if (rc == 0)
		rc = replace_file(dir, &text);
	if (rc < 0)
		log_warn("%s/resolv.conf is not written: %s", path, strerror(-rc));
}
