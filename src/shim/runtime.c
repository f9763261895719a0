// SPDX-License-Identifier: Apache-2.0
// How this works: a worklist of (host file, jail path). Each ELF file on it adds the libraries it
// names, looked for as the dynamic linker will in the jail: its run path, then the standard
// directories (there is no ld.so.cache in the jail). The finished list, with the checksum of each
// file, is hashed into the name of the tree; if a tree of that name is there, it is complete, since
// it was renamed into place after everything in it was on disk, and loses its name before anything
// in it is removed. What has a dot before its name is the rest of a tree that was not finished.
//
// Checksums are taken once: a tree has a stamp, of paths, sizes and times of what it was made from.
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
#include "base/fault.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/id.h"
#include "base/str.h"
#include "shim/elfneeds.h"
#include "shim/shim.h"

#define TREE_STAMP "stamp"
#define MAX_ENTRIES 1024

struct entry {
	char *host, *jail;
	char *found_as; // the library name that brought it, NULL for what was asked for
	bool elf, dynamic;
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
	l->e[at].dynamic = n.interp != NULL;
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

// What is used with the libraries of whoever loads it.
static bool is_alone(const struct shim_files *f, const char *host)
{
	for (const char *const *p = f->alone; p && *p; p++)
		if (str_eq(*p, host))
			return true;
	return false;
}

static int make_list(const struct shim_files *f, struct list *l, struct err *e)
{
	int rc = 0;
	for (const char *const *p = f->programs; rc == 0 && p && *p; p++) {
		const char *slash = strrchr(*p, '/');
		_cleanup_free_ char *jail = str_printf(JAIL_BIN "%s", slash ? slash : "/");
		if (!jail || (*p)[0] != '/')
			return err_set(e, ERR_INVALID, "%s: must be an absolute path", *p);
		rc = list_add(l, *p, jail, NULL, e);
	}
	for (const char *const *p = f->extra; rc == 0 && p && *p; p++) {
		const char *eq = strrchr(*p, '='); // a host path may have one too
		_cleanup_free_ char *host = eq ? strndup(*p, (size_t)(eq - *p)) : strdup(*p);
		if (!host)
			return err_errno(e, ENOMEM, "runtime");
		rc = list_add(l, host, eq ? eq + 1 : host, NULL, e);
	}
	for (const char *const *p = f->alone; rc == 0 && p && *p; p++) {
		const char *slash = strrchr(*p, '/');
		_cleanup_free_ char *jail = str_printf(JAIL_LIB "%s", slash ? slash : "/");
		rc = jail ? list_add(l, *p, jail, NULL, e) : err_errno(e, ENOMEM, "runtime");
	}
	for (size_t i = 0; rc == 0 && i < l->n; i++) // grows on the way
		if (!is_alone(f, l->e[i].host))
			rc = add_needs(l, i, e);
	return rc;
}

static int by_jail_path(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->jail, ((const struct entry *)b)->jail);
}

static int hash_text(struct strbuf *b, char out[SHA256_HEX_SIZE])
{
	if (b->failed)
		return -ENOMEM;
	hash_sha256_hex(b->data, b->len, out);
	out[SHIM_TREE_ID_SIZE - 1] = '\0';
	return 0;
}

static int stamp_list(const struct list *l, char out[SHA256_HEX_SIZE])
{
	_cleanup_strbuf_ struct strbuf b = {0};
	for (size_t i = 0; i < l->n; i++) {
		const struct entry *en = &l->e[i];
		strbuf_addf(&b, "%s=%s %llu %llu %lld.%09ld\n", en->host, en->jail,
			(unsigned long long)en->st.st_ino, (unsigned long long)en->st.st_size,
			(long long)en->st.st_mtim.tv_sec, en->st.st_mtim.tv_nsec);
	}
	return hash_text(&b, out);
}

static int hash_list(const struct list *l, char out[SHA256_HEX_SIZE], struct err *e)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	for (size_t i = 0; i < l->n; i++) {
		char sum[SHA256_HEX_SIZE];
		int rc = hash_sha256_file_hex(AT_FDCWD, l->e[i].host, sum);
		if (rc < 0)
			return err_errno(e, rc, "%s", l->e[i].host);
		strbuf_addf(&b, "%s %d %s\n", l->e[i].jail, l->e[i].elf, sum);
	}
	int rc = hash_text(&b, out);
	return rc < 0 ? err_errno(e, rc, "runtime") : 0;
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

static int write_facts(int tree, const struct shim_files *f, const char *stamp, struct err *e)
{
	int rc = file_write_atomic(tree, TREE_STAMP, stamp, strlen(stamp), 0400);
	if (rc == 0 && f->about)
		rc = file_write_atomic(tree, SHIM_TREE_ABOUT, f->about, strlen(f->about), 0600);
	return rc < 0 ? err_errno(e, rc, "runtime") : 0;
}

// name: "." before it, and what makes it another one than those of others.
static void unfinished_name(char out[16])
{
	unsigned char r[4];
	id_random_bytes(r, sizeof r);
	memcpy(out, ".new.", 5);
	id_hex(r, sizeof r, out + 5);
}

static int build_tree(int trees, const char *name, const struct list *l, const struct shim_files *f,
	const char *stamp, struct err *e)
{
	char tmp[16];
	unfinished_name(tmp);
	if (mkdirat(trees, tmp, 0755) < 0)
		return err_errno(e, errno, "make a runtime directory");
	_cleanup_close_ int tree = openat(trees, tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = tree < 0 ? err_errno(e, errno, "runtime directory") : 0;
	for (size_t i = 0; rc == 0 && i < l->n; i++)
		rc = copy_entry(tree, &l->e[i], e);
	if (rc == 0)
		rc = write_facts(tree, f, stamp, e);
	// Everything in it must be on disk before the name says that it is complete.
	if (rc == 0 && syncfs(tree) < 0)
		rc = err_errno(e, errno, "sync the runtime");
	if (rc == 0)
		rc = fault_hit("runtime.before_name", e);
	if (rc == 0 && renameat(trees, tmp, trees, name) < 0 && errno != EEXIST &&
		errno != ENOTEMPTY)
		rc = err_errno(e, errno, "rename the runtime");
	file_rm_rf(trees, tmp); // what failed, or lost against another builder
	// Who names it must find it after a power failure.
	if (rc == 0 && (rc = file_fsync_dir(trees, ".")) < 0)
		rc = err_errno(e, rc, "sync the runtime");
	return rc == 0 ? fault_hit("runtime.after_name", e) : rc;
}

static bool is_tree_id(const char *name)
{
	return strlen(name) == SHIM_TREE_ID_SIZE - 1 &&
	       strspn(name, "0123456789abcdef") == SHIM_TREE_ID_SIZE - 1;
}

static int each_name(int trees, int (*f)(void *ctx, int trees, const char *name), void *ctx)
{
	int rc = 0, fd = openat(trees, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return -errno;
	for (struct dirent *de; rc == 0 && (errno = 0, de = readdir(d));)
		if (!str_eq(de->d_name, ".") && !str_eq(de->d_name, ".."))
			rc = f(ctx, trees, de->d_name);
	return rc == 0 ? -errno : rc;
}

struct stamped {
	const char *stamp;
	char *id;
};

static int look_at_stamp(void *ctx, int trees, const char *name)
{
	struct stamped *s = ctx;
	char path[SHIM_TREE_ID_SIZE + sizeof "/" TREE_STAMP];
	_cleanup_strbuf_ struct strbuf text = {0};
	if (!is_tree_id(name))
		return 0;
	snprintf(path, sizeof path, "%s/" TREE_STAMP, name);
	if (file_read(trees, path, SHA256_HEX_SIZE, &text) < 0 || !str_eq(text.data, s->stamp))
		return 0;
	memcpy(s->id, name, SHIM_TREE_ID_SIZE);
	return 1;
}

static int find_or_build(
	int trees, const struct list *l, const struct shim_files *f, char *id, struct err *e)
{
	char stamp[SHA256_HEX_SIZE], path[SHIM_TREE_ID_SIZE + sizeof "/" TREE_STAMP];
	char hash[SHA256_HEX_SIZE];
	int rc = stamp_list(l, stamp);
	if (rc < 0)
		return err_errno(e, rc, "runtime");
	struct stamped s = {stamp, id};
	if (each_name(trees, look_at_stamp, &s) == 1)
		return 0;
	if ((rc = hash_list(l, hash, e)) < 0)
		return rc;
	memcpy(id, hash, SHIM_TREE_ID_SIZE);
	int there = file_there(trees, id);
	if (there < 0)
		return err_errno(e, there, "%s", id);
	if (!there)
		return build_tree(trees, id, l, f, stamp, e);
	snprintf(path, sizeof path, "%s/" TREE_STAMP, id);
	file_write_atomic(trees, path, stamp, strlen(stamp), 0400); // else it is hashed again
	return 0;
}

int shim_tree_build(
	const char *trees_dir, const struct shim_files *f, struct shim_tree *ret, struct err *e)
{
	_cleanup_(list_done) struct list l = {0};
	struct shim_tree t = {0};
	int rc = make_list(f, &l, e);
	if (rc < 0)
		return err_prefix(e, rc, "runtime");
	for (size_t i = 0; f->programs && f->programs[i] && i < 32; i++)
		t.dynamic |= (uint32_t)l.e[i].dynamic << i;
	qsort(l.e, l.n, sizeof *l.e, by_jail_path);
	rc = file_private_dir(AT_FDCWD, trees_dir, 0700);
	if (rc < 0)
		return err_errno(e, rc, "make %s", trees_dir);
	_cleanup_close_ int fd = open(trees_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "%s", trees_dir);
	if ((rc = find_or_build(fd, &l, f, t.id, e)) < 0)
		return err_prefix(e, rc, "%s", trees_dir);
	if (!(t.dir = str_printf("%s/%s", trees_dir, t.id)))
		return err_errno(e, ENOMEM, "runtime");
	*ret = t;
	return 0;
}

// A running shim holds a shared lock on each of its trees' directories.
static bool in_use(int trees, const char *id)
{
	_cleanup_close_ int fd = openat(trees, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0;
}

int shim_tree_remove(const char *trees_dir, const char *id, struct err *e)
{
	char tmp[16];
	_cleanup_close_ int fd = open(trees_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || !is_tree_id(id))
		return err_errno(e, fd < 0 ? errno : EINVAL, "%s/%s", trees_dir, id);
	if (!file_there(fd, id))
		return 0;
	if (in_use(fd, id))
		return err_errno(e, EBUSY, "%s/%s", trees_dir, id);
	unfinished_name(tmp);
	int rc = renameat(fd, id, fd, tmp) < 0 ? -errno : file_fsync_dir(fd, ".");
	if (rc == 0)
		rc = fault_hit("runtime.before_remove", e);
	if (rc == 0)
		rc = file_rm_rf(fd, tmp);
	return rc < 0 ? err_errno(e, rc, "remove %s/%s", trees_dir, id) : 0;
}

struct listed {
	shim_tree_fn f;
	void *ctx;
	bool tidy;
};

static int list_one(void *ctx, int trees, const char *name)
{
	const struct listed *l = ctx;
	if (name[0] == '.' && l->tidy)
		file_rm_rf(trees, name);
	return is_tree_id(name) ? l->f(l->ctx, name) : 0;
}

int shim_tree_list(const char *trees_dir, bool tidy, shim_tree_fn f, void *ctx, struct err *e)
{
	struct listed l = {f, ctx, tidy};
	_cleanup_close_ int fd = open(trees_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_errno(e, errno, "%s", trees_dir);
	int rc = each_name(fd, list_one, &l);
	return rc < 0 ? err_errno(e, rc, "%s", trees_dir) : 0;
}

void shim_files_free(char ***files)
{
	for (char **f = *files; f && *f; f++)
		free(*f);
	free(*files);
}

char **shim_qemu_files(const char *qemu)
{
	// Opened by -M microvm (seen with strace): the BIOS, which newer QEMUs of Debian (10.0)
	// have from the package seabios; an option ROM for -kernel, pvh.bin for an ELF kernel,
	// linuxboot for others; the accelerator where it is a module.
	static const char *const names[] = {
		"/usr/share/qemu/bios-microvm.bin",
		"/usr/share/seabios/bios-microvm.bin",
		"/usr/share/qemu/qboot.rom",
		"/usr/share/qemu/linuxboot.bin",
		"/usr/share/qemu/linuxboot_dma.bin",
		"/usr/share/qemu/pvh.bin",
		"/usr/share/qemu/kvmvapic.bin",
		"/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so",
	};
	const char *end = strstr(qemu, "/usr/bin/");
	char **out = calloc(ARRAY_SIZE(names) + 2, sizeof *out);
	size_t n = 0;
	if (out && (out[n] = str_printf("%s=/usr/bin/qemu-system-x86_64", qemu)))
		n++;
	for (size_t i = 0; n && i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *file =
			str_printf("%.*s%s", end ? (int)(end - qemu) : 0, qemu, names[i]);
		if (!file || access(file, R_OK) < 0)
			continue;
		if (!(out[n] = str_printf("%s=%s", file, names[i])))
			break;
		n++;
	}
	return out;
}
