// SPDX-License-Identifier: Apache-2.0
// How this works: a worklist of (host file, jail path). Each ELF file on it adds the libraries it
// names, looked for as the dynamic linker will in the jail: its run path, then the standard
// directories (there is no ld.so.cache in the jail). The finished list, with sizes and times, is
// hashed into the name of the tree; if a tree of that name is there, it is complete, because it was
// renamed into place after everything in it was on disk.
//
// Files are copied (reflinked where possible), not hard linked: a link would share owner, mode and
// contents with the host's file for ever.
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/hash.h"
#include "base/id.h"
#include "base/str.h"
#include "shim/elfneeds.h"
#include "shim/shim.h"

#define KEEP_NEWEST 2
#define MAX_ENTRIES 1024

struct entry {
	char *host, *jail;
	char *found_as; // the library name that brought it, NULL for what was asked for
	bool elf;
	struct stat st;
};

struct list {
	struct entry *e;
	size_t n;
};

static void list_done(struct list *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->e[i].host);
		free(l->e[i].jail);
		free(l->e[i].found_as);
	}
	free(l->e);
}

// One tree for /lib and /usr/lib, as in any merged system; the jail has links for the short ones.
static char *merged_path(const char *path)
{
	static const char *const short_dirs[] = {"/lib/", "/lib64/", "/bin/"};
	for (size_t i = 0; i < ARRAY_SIZE(short_dirs); i++)
		if (str_starts(path, short_dirs[i]))
			return str_printf("/usr%s", path);
	return strdup(path);
}

static int list_add(
	struct list *l, const char *host, const char *jail, const char *found_as, struct err *e)
{
	_cleanup_free_ char *to = merged_path(jail);
	if (!to)
		return err_errno(e, ENOMEM, "%s", host);
	if (!str_starts(to, "/usr/") || strstr(to, "/../") || str_ends(to, "/.."))
		return err_set(e, ERR_INVALID, "%s: a runtime's files must be below /usr", jail);
	for (size_t i = 0; i < l->n; i++)
		if (str_eq(l->e[i].jail, to))
			return 0;
	if (l->n == MAX_ENTRIES)
		return err_set(e, ERR_LIMIT, "runtime: more than %d files", MAX_ENTRIES);
	struct entry *more = reallocarray(l->e, l->n + 1, sizeof *more);
	if (!more)
		return err_errno(e, ENOMEM, "%s", host);
	l->e = more;
	struct entry *n = &l->e[l->n++];
	*n = (struct entry){.host = strdup(host),
		.jail = TAKE_PTR(to),
		.found_as = found_as ? strdup(found_as) : NULL};
	if (!n->host || (found_as && !n->found_as))
		return err_errno(e, ENOMEM, "%s", host);
	if (stat(host, &n->st) < 0)
		return err_errno(e, errno, "%s", host);
	if (!S_ISREG(n->st.st_mode))
		return err_set(e, ERR_INVALID, "%s: not a regular file", host);
	return 0;
}

static bool already_has(const struct list *l, const char *library)
{
	for (size_t i = 0; i < l->n; i++)
		if (str_eq(l->e[i].found_as, library))
			return true;
	return false;
}

// dir (with $ORIGIN: the directory of the object in the jail) + "/" + library, if it is there.
static char *try_directory(const char *dir, size_t len, const char *library, const char *origin)
{
	static const char *const names[] = {"$ORIGIN", "${ORIGIN}"};
	_cleanup_free_ char *path = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		size_t n = strlen(names[i]);
		if (len >= n && memcmp(dir, names[i], n) == 0)
			path = str_printf("%.*s%.*s/%s", (int)(strrchr(origin, '/') - origin),
				origin, (int)(len - n), dir + n, library);
		if (path)
			break;
	}
	if (!path)
		path = str_printf("%.*s/%s", (int)len, dir, library);
	if (!path || path[0] != '/' || access(path, R_OK) < 0)
		return NULL;
	// "/usr/lib/x/../y" works for the linker too, but the tree wants one name for one file.
	_cleanup_free_ char *parent = strndup(path, (size_t)(strrchr(path, '/') - path));
	_cleanup_free_ char *real = parent ? realpath(parent, NULL) : NULL;
	return real ? str_printf("%s/%s", real, library) : NULL;
}

static char *find_library(const char *library, const struct elf_needs *n, const char *origin)
{
	static const char *const standard[] = {"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu",
		"/lib64", "/usr/lib64", "/lib", "/usr/lib"};
	char *found = NULL;
	for (const char *p = n->runpath; !found && p && *p;) {
		size_t len = strcspn(p, ":");
		if (len)
			found = try_directory(p, len, library, origin);
		p += len + (p[len] == ':');
	}
	for (size_t i = 0; !found && i < ARRAY_SIZE(standard); i++)
		found = try_directory(standard[i], strlen(standard[i]), library, origin);
	return found;
}

static int add_needs(struct list *l, size_t at, struct err *e)
{
	// By value: the list may move while it grows. The texts stay.
	struct entry en = l->e[at];
	_cleanup_(elf_needs_done) struct elf_needs n = {0};
	_cleanup_close_ int fd = open(en.host, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "%s", en.host);
	size_t size = (size_t)en.st.st_size;
	if (size == 0)
		return 0;
	void *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return err_errno(e, errno, "%s", en.host);
	int rc = elf_read_needs(map, size, &n);
	munmap(map, size);
	if (rc == -ENOEXEC)
		return 0;
	if (rc < 0)
		return err_errno(e, rc, "%s: damaged program or library", en.host);
	l->e[at].elf = true;
	if (n.interp)
		rc = list_add(l, n.interp, n.interp, strrchr(n.interp, '/') + 1, e);
	for (size_t i = 0; rc == 0 && i < n.n_needed; i++) {
		if (already_has(l, n.needed[i]))
			continue;
		_cleanup_free_ char *path = find_library(n.needed[i], &n, en.host);
		if (!path)
			return err_set(e, ERR_NOT_FOUND,
				"%s needs %s, which is in no standard directory", en.host,
				n.needed[i]);
		rc = list_add(l, path, path, n.needed[i], e);
	}
	return rc;
}

static int make_list(
	const char *const *programs, const char *const *extra_files, struct list *l, struct err *e)
{
	int rc = 0;
	for (; rc == 0 && *programs; programs++) {
		const char *slash = strrchr(*programs, '/');
		_cleanup_free_ char *jail = str_printf(JAIL_BIN "%s", slash ? slash : "/");
		if (!jail || (*programs)[0] != '/')
			return err_set(e, ERR_INVALID, "%s: must be an absolute path", *programs);
		rc = list_add(l, *programs, jail, NULL, e);
	}
	for (; rc == 0 && extra_files && *extra_files; extra_files++) {
		const char *eq = strrchr(*extra_files, '='); // a host path may have one too
		_cleanup_free_ char *host = eq ? strndup(*extra_files, (size_t)(eq - *extra_files))
					       : strdup(*extra_files);
		if (!host)
			return err_errno(e, ENOMEM, "runtime");
		rc = list_add(l, host, eq ? eq + 1 : host, NULL, e);
	}
	for (size_t i = 0; rc == 0 && i < l->n; i++) // grows on the way
		rc = add_needs(l, i, e);
	return rc;
}

static int hash_list(const struct list *l, char out[SHA256_HEX_SIZE])
{
	_cleanup_strbuf_ struct strbuf b = {0};
	for (size_t i = 0; i < l->n; i++) {
		const struct entry *en = &l->e[i];
		strbuf_addf(&b, "%s=%s %llu %lld.%09ld\n", en->host, en->jail,
			(unsigned long long)en->st.st_size, (long long)en->st.st_mtim.tv_sec,
			en->st.st_mtim.tv_nsec);
	}
	if (b.failed)
		return -ENOMEM;
	hash_sha256_hex(b.data, b.len, out);
	return 0;
}

static int copy_content(int in, int out)
{
	if (ioctl(out, FICLONE, in) == 0)
		return 0;
	for (;;) {
		ssize_t n = copy_file_range(in, NULL, out, NULL, 1u << 30, 0);
		if (n == 0)
			return 0;
		if (n < 0 && errno != EINTR)
			break;
	}
	if (lseek(in, 0, SEEK_SET) < 0 || lseek(out, 0, SEEK_SET) < 0)
		return -errno;
	char buf[65536];
	for (ssize_t n; (n = RETRY_EINTR(read(in, buf, sizeof buf))) != 0;) {
		int rc = n < 0 ? -errno : file_write_full(out, buf, (size_t)n);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int copy_entry(int tree, const struct entry *en, struct err *e)
{
	const char *to = en->jail + 1;
	_cleanup_free_ char *dir = strndup(to, (size_t)(strrchr(to, '/') - to));
	int rc = dir ? file_mkdir_p(tree, dir, 0755) : -ENOMEM;
	if (rc < 0)
		return err_errno(e, rc, "runtime: make the directory of %s", en->jail);
	_cleanup_close_ int in = open(en->host, O_RDONLY | O_CLOEXEC);
	if (in < 0)
		return err_errno(e, errno, "%s", en->host);
	_cleanup_close_ int out =
		openat(tree, to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	rc = out < 0 ? -errno : copy_content(in, out);
	// Read and execute for all: a program that its user may not read would not let its own
	// parent look at its memory.
	if (rc == 0 && (fchown(out, 0, 0) < 0 || fchmod(out, en->elf ? 0555 : 0444) < 0))
		rc = -errno;
	return rc < 0 ? err_errno(e, rc, "copy %s", en->host) : 0;
}

static int build_tree(int runtimes, const char *name, const struct list *l, struct err *e)
{
	char tmp[16] = ".new.";
	unsigned char r[4];
	id_random_bytes(r, sizeof r);
	id_hex(r, sizeof r, tmp + 5);
	if (mkdirat(runtimes, tmp, 0755) < 0)
		return err_errno(e, errno, "make a runtime directory");
	_cleanup_close_ int tree = openat(runtimes, tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = tree < 0 ? err_errno(e, errno, "runtime directory") : 0;
	for (size_t i = 0; rc == 0 && i < l->n; i++)
		rc = copy_entry(tree, &l->e[i], e);
	// Everything in it must be on disk before the name says that it is complete.
	if (rc == 0 && syncfs(tree) < 0)
		rc = err_errno(e, errno, "sync the runtime");
	if (rc == 0 && renameat(runtimes, tmp, runtimes, name) < 0 && errno != EEXIST &&
		errno != ENOTEMPTY)
		rc = err_errno(e, errno, "rename the runtime");
	file_rm_rf(runtimes, tmp); // what failed, or lost against another builder
	if (rc == 0)
		file_fsync_dir(runtimes, ".");
	return rc;
}

struct old {
	char name[64];
	struct timespec used;
};

static int newest_first(const void *a, const void *b)
{
	const struct timespec *x = &((const struct old *)a)->used,
			      *y = &((const struct old *)b)->used;
	if (x->tv_sec != y->tv_sec)
		return x->tv_sec < y->tv_sec ? 1 : -1;
	return x->tv_nsec < y->tv_nsec ? 1 : x->tv_nsec > y->tv_nsec ? -1 : 0;
}

// A running shim holds a shared lock on its runtime's directory.
static bool in_use(int runtimes, const char *name)
{
	_cleanup_close_ int fd = openat(runtimes, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0;
}

// Best effort: what cannot be removed now is tried again at the next build.
static void remove_old(int runtimes, const char *current)
{
	struct old old[64];
	size_t n = 0;
	int fd = openat(runtimes, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	for (struct dirent *de; d && n < ARRAY_SIZE(old) && (de = readdir(d));) {
		struct stat st;
		if (de->d_name[0] == '.' || strcmp(de->d_name, current) == 0 ||
			fstatat(runtimes, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			str_format(old[n].name, sizeof old[n].name, "%s", de->d_name) < 0)
			continue;
		old[n++].used = st.st_mtim;
	}
	qsort(old, n, sizeof *old, newest_first);
	for (size_t i = KEEP_NEWEST - 1; i < n; i++)
		if (!in_use(runtimes, old[i].name))
			file_rm_rf(runtimes, old[i].name);
}

int shim_runtime_build(const char *base_dir, const char *const *programs,
	const char *const *extra_files, char **ret_dir, struct err *e)
{
	_cleanup_(list_done) struct list l = {0};
	char hash[SHA256_HEX_SIZE];
	int rc = make_list(programs, extra_files, &l, e);
	if (rc == 0)
		rc = hash_list(&l, hash);
	if (rc < 0)
		return err_prefix(e, rc, "runtime");
	hash[32] = '\0';
	_cleanup_free_ char *runtimes = str_printf("%s/runtime", base_dir);
	_cleanup_free_ char *dir = str_printf("%s/runtime/%s", base_dir, hash);
	if (!runtimes || !dir)
		return err_errno(e, ENOMEM, "runtime");
	rc = file_private_dir(AT_FDCWD, runtimes, 0700);
	if (rc < 0)
		return err_errno(e, rc, "make %s", runtimes);
	_cleanup_close_ int fd = open(runtimes, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "%s", runtimes);
	int there = file_there(fd, hash);
	if (there < 0)
		return err_errno(e, there, "%s", dir);
	if (!there) {
		rc = build_tree(fd, hash, &l, e);
		if (rc < 0)
			return err_prefix(e, rc, "%s", runtimes);
	}
	utimensat(fd, hash, NULL, 0); // used now: age counts from here
	remove_old(fd, hash);
	*ret_dir = TAKE_PTR(dir);
	return 0;
}

char **shim_qemu_extra_files(void)
{
	// Opened by -M microvm (seen with strace): the BIOS; an option ROM for -kernel, pvh.bin for
	// an ELF kernel, linuxboot for others; the accelerator where it is a module.
	static const char *const files[] = {
		"/usr/share/qemu/bios-microvm.bin",
		"/usr/share/qemu/qboot.rom",
		"/usr/share/qemu/linuxboot.bin",
		"/usr/share/qemu/linuxboot_dma.bin",
		"/usr/share/qemu/pvh.bin",
		"/usr/share/qemu/kvmvapic.bin",
		"/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so",
	};
	char **out = calloc(ARRAY_SIZE(files) + 1, sizeof *out);
	for (size_t i = 0, n = 0; out && i < ARRAY_SIZE(files); i++)
		if (access(files[i], R_OK) == 0)
			out[n++] = (char *)(uintptr_t)files[i];
	return out;
}
