// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include "base/id.h"

ssize_t file_read_full(int fd, void *buf, size_t len)
{
	size_t done = 0;
	while (done < len) {
		ssize_t n = RETRY_EINTR(read(fd, (char *)buf + done, len - done));
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int file_write_full(int fd, const void *buf, size_t len)
{
	const char *p = buf;
	while (len) {
		ssize_t n = RETRY_EINTR(write(fd, p, len));
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int file_read(int dirfd, const char *path, size_t max, struct strbuf *ret)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	_cleanup_strbuf_ struct strbuf b = {0};
	char chunk[16384];
	for (;;) {
		ssize_t n = RETRY_EINTR(read(fd, chunk, sizeof chunk));
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		if (b.len + (size_t)n > max)
			return -EFBIG;
		strbuf_add(&b, chunk, (size_t)n);
	}
	strbuf_add(&b, "", 0);
	if (b.failed)
		return -ENOMEM;
	*ret = b;
	b = (struct strbuf){0};
	return 0;
}

int file_read_line(int dirfd, const char *path, char **ret)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	*ret = NULL;
	int rc = file_read(dirfd, path, 65536, &b);
	if (rc < 0)
		return rc;
	b.data[strcspn(b.data, "\n")] = '\0';
	*ret = TAKE_PTR(b.data);
	return 0;
}

int file_write_existing(int dirfd, const char *path, const char *text)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = RETRY_EINTR(write(fd, text, strlen(text)));
	return n < 0 ? -errno : (size_t)n == strlen(text) ? 0 : -EIO;
}

// The directory part of path as an open descriptor, and where the last component starts.
static int open_parent(int dirfd, const char *path, const char **ret_name)
{
	const char *slash = strrchr(path, '/');
	*ret_name = slash ? slash + 1 : path;
	_cleanup_free_ char *dir = !slash	   ? strdup(".")
				   : slash == path ? strdup("/")
						   : strndup(path, (size_t)(slash - path));
	if (!dir)
		return -ENOMEM;
	int fd = openat(dirfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int file_write_atomic(int dirfd, const char *path, const void *data, size_t len, mode_t mode)
{
	const char *name;
	_cleanup_close_ int dir = open_parent(dirfd, path, &name);
	if (dir < 0)
		return dir;
	unsigned char r[6];
	char suffix[13], tmp[300];
	id_random_bytes(r, sizeof r);
	id_hex(r, sizeof r, suffix);
	if (str_format(tmp, sizeof tmp, ".%s.%s.tmp", name, suffix) < 0)
		return -ENAMETOOLONG;
	_cleanup_close_ int fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0)
		return -errno;
	int rc = file_write_full(fd, data, len);
	if (rc == 0 && fchmod(fd, mode) < 0)
		rc = -errno;
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	if (rc == 0 && renameat(dir, tmp, dir, name) < 0)
		rc = -errno;
	if (rc < 0) {
		unlinkat(dir, tmp, 0);
		return rc;
	}
	return fsync(dir) < 0 ? -errno : 0;
}

int file_fsync_dir(int dirfd, const char *path)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

int file_mkdir_p(int dirfd, const char *path, mode_t mode)
{
	_cleanup_free_ char *p = strdup(path);
	if (!p)
		return -ENOMEM;
	for (char *s = p + 1; *p; s++) {
		if (*s != '/' && *s != '\0')
			continue;
		char keep = *s;
		*s = '\0';
		if (mkdirat(dirfd, p, mode) < 0 && errno != EEXIST)
			return -errno;
		if (keep == '\0')
			break;
		*s = keep;
	}
	struct stat st;
	if (fstatat(dirfd, path, &st, 0) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

static int drop_mode(int fd, mode_t keep)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	mode_t mode = st.st_mode & keep;
	return mode != (st.st_mode & 07777) && fchmod(fd, mode) < 0 ? -errno : 0;
}

int file_private_dir(int dirfd, const char *path, mode_t keep)
{
	int rc = file_mkdir_p(dirfd, path, 0700);
	_cleanup_close_ int fd =
		rc < 0 ? -1 : openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (rc < 0)
		return rc;
	return fd < 0 ? -errno : drop_mode(fd, keep);
}

int file_private_children(int dirfd, const char *path)
{
	int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd); // then fd is its
	if (!d) {
		safe_close(fd);
		return -errno;
	}
	for (struct dirent *de; (de = readdir(d));) {
		if (de->d_name[0] == '.')
			continue;
		_cleanup_close_ int child =
			openat(fd, de->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		// A file, or gone meanwhile.
		int rc = child < 0 ? 0 : drop_mode(child, 0700);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int file_let_group_pass(int dirfd, const char *path, gid_t group)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fchown(fd, (uid_t)-1, group) < 0 || fchmod(fd, 0710) < 0)
		return -errno;
	return 0;
}

int file_there(int dirfd, const char *path)
{
	struct stat st;
	if (fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 1;
	return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
}

bool file_exists(int dirfd, const char *path)
{
	return file_there(dirfd, path) > 0;
}

int file_lock(int dirfd, const char *path, int *ret_fd, pid_t *ret_holder)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (ret_holder)
		*ret_holder = 0;
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		char text[24] = "";
		uint64_t pid;
		if (errno == EWOULDBLOCK && pread(fd, text, sizeof text - 1, 0) > 0 && ret_holder &&
			str_to_u64(text, INT32_MAX, &pid) == 0)
			*ret_holder = (pid_t)pid;
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	}
	if (ftruncate(fd, 0) < 0 || dprintf(fd, "%d", (int)getpid()) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int file_open_beneath(int dirfd, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
		.mode = flags & (O_CREAT | O_TMPFILE) ? mode : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof how);
	return fd < 0 ? -errno : (int)fd;
}
