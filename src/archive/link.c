// SPDX-License-Identifier: Apache-2.0
#include "archive/link.h"
#include <fcntl.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/id.h"
#include "base/replace.h"

static void name_part(char part[40])
{
	unsigned char random[6];
	char hex[13];
	id_random_bytes(random, sizeof random);
	id_hex(random, sizeof random, hex);
	snprintf(part, 40, REPLACE_PREFIX "%s.part", hex);
}

// Makes a link by make(), in place of what is there unless that is a directory.
static int put_link(int dir, const char *name, int (*make)(void *, int, const char *), void *arg)
{
	char part[40];
	struct stat st;
	int rc = make(arg, dir, name);
	if (rc != -EEXIST)
		return rc;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
		return -EISDIR;
	name_part(part);
	rc = make(arg, dir, part);
	if (rc == 0 && renameat(dir, part, dir, name) < 0)
		rc = -errno;
	unlinkat(dir, part, 0); // also where both were names of one file, which rename keeps
	return rc;
}

static int make_symlink(void *target, int dir, const char *name)
{
	return symlinkat(target, dir, name) < 0 ? -errno : 0;
}

int link_symbolic(int dir, const char *name, const char *target)
{
	return put_link(dir, name, make_symlink, (void *)target);
}

struct link_source {
	int dir;
	const char *name;
};

static int make_hard_link(void *arg, int dir, const char *name)
{
	const struct link_source *s = arg;
	return linkat(s->dir, s->name, dir, name, 0) < 0 ? -errno : 0;
}

static int copy_file(const struct link_source *s, int dir, const char *name)
{
	char buf[16384];
	struct replace r;
	_cleanup_close_ int from = openat(s->dir, s->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	if (from < 0 || fstat(from, &st) < 0)
		return -errno;
	int rc = replace_begin(&r, dir, name, 0, 0600);
	if (rc < 0)
		return rc;
	ssize_t n = 1;
	while (rc == 0 && (n = RETRY_EINTR(read(from, buf, sizeof buf))) > 0)
		rc = file_write_full(r.fd, buf, (size_t)n);
	if (rc == 0 && (n < 0 || fchmod(r.fd, st.st_mode & 0777) < 0))
		rc = -errno;
	if (rc == 0)
		return replace_commit(&r);
	replace_abort(&r);
	return rc;
}

int link_hard(int dir, const char *name, int from_dir, const char *from)
{
	struct link_source source = {from_dir, from};
	struct stat st;
	if (fstatat(from_dir, from, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	int rc = put_link(dir, name, make_hard_link, &source);
	if (rc == -EPERM || rc == -EXDEV || rc == -EMLINK || rc == -EOPNOTSUPP)
		rc = copy_file(&source, dir, name);
	return rc;
}
